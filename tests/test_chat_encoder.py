from __future__ import annotations

import json
from itertools import pairwise
from typing import Any
from uuid import UUID

from django.test import SimpleTestCase
from hypothesis import given
from hypothesis import strategies as st

from converse.events import camel
from converse.parts import PUBLIC, TEXT_KEY, facts, public, stored
from converse.transports.vercel.addresses import attachment_of, link_to
from converse.transports.vercel.assembling import assembled
from converse.transports.vercel.encoder import Encoder
from converse.transports.vercel.values import INTERRUPTED, Braces, arguments, output
from tests.uichat import Client, uncut

MESSAGE = "7a1c7d0e-6f0a-4c53-9b52-0a6c3f0f5b11"
CALL = {"type": "tool_call", "id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'}
RESULT = {"type": "tool_result", "id": "c1", "name": "weather", "output": '{"c": 4}'}
SAID = {"type": "text", "text": "Four degrees."}


def link(attachment: str) -> str:
    return f"/files/{attachment}"


def state(status="streaming", **fields):
    """Give the data of an event about the message."""
    told = {"messageId": MESSAGE, "offset": 1, "role": "assistant", "status": status, "sequence": 0, "model": ""}
    return {**told, "finishReason": "stop" if status == "completed" else "", "usage": {}, "metadata": {}, **fields}


def whole(parts, status="completed", **fields):
    """Give a state with all of its text."""
    content = "".join(part["text"] for part in parts if part["type"] == "text")
    told = None if all(part["type"] == "text" for part in parts) else [public(part) for part in parts]
    named = {} if told is None else {"parts": told}
    return state(status, content=content, **named, **fields)


def update(number, part, text, sequence, first=True):
    """Give a StreamUpdate that adds to a part."""
    told = {name: part[name] for name in PUBLIC[part["type"]] if name in part} if first else {}
    named = {camel(key): value for key, value in facts(part["type"], told).items() if value is not None}
    base = {"messageId": MESSAGE, "part": number, "kind": part["type"], "chunk": text, "sequence": sequence}
    return "StreamUpdate", {**base, **named}


def text_in(part):
    return part[TEXT_KEY.get(part["type"], "text")]


def updates(parts):
    return [update(number, part, text_in(part), number + 1) for number, part in enumerate(parts)]


def encoder(sdk=5, seen=0):
    return Encoder(MESSAGE, sdk, link, seen)


def told(parts, status="completed", sdk=5, **fields):
    """Give what a client has of a reply that it is told whole."""
    client = Client(sdk)
    return client.take(encoder(sdk).take([("MessageCreated", whole(parts, status, **fields))]))


def kinds(chunks):
    return [chunk["type"] for chunk in chunks]


class OrderTests(SimpleTestCase):
    def test_a_reply_with_a_tool_is_told_in_the_order_of_the_reference(self):
        writer = encoder()
        chunks = writer.take([("MessageCreated", state("pending"))])
        for event in updates([CALL, RESULT, SAID]):
            chunks += writer.take([event])
        chunks += writer.take([("MessageCompleted", state("completed", model="m"))])
        assert kinds(chunks) == [
            *("start", "start-step", "tool-input-start", "tool-input-delta", "tool-input-available"),
            *("tool-output-available", "finish-step", "start-step", "text-start", "text-delta", "text-end"),
            *("finish-step", "message-metadata", "finish"),
        ]
        assert chunks[0] == {"type": "start", "messageId": MESSAGE, "messageMetadata": {"status": "pending"}}
        assert chunks[4] == {
            "type": "tool-input-available",
            "toolCallId": "c1",
            "toolName": "weather",
            "input": {"city": "Oslo"},
        }
        assert chunks[5]["output"] == {"c": 4}
        assert chunks[-2]["messageMetadata"]["finishReason"] == "stop"
        assert chunks[-1] == {"type": "finish"}
        assert Client(5).take(chunks).ended

    def test_the_reason_of_the_end_is_told_to_versions_that_know_it(self):
        for reason, name in (("length", "length"), ("tool_calls", "tool-calls"), ("pause", "other"), ("", "other")):
            assert told([SAID], sdk=6, finishReason=reason).finish_reason == name
            assert told([SAID], sdk=5, finishReason=reason).finish_reason == ""

    def test_a_call_can_be_seen_to_run_before_its_result_is_there(self):
        client, writer = Client(5), encoder()
        client.take(writer.take([("MessageCreated", state()), update(0, CALL, '{"city": "Os}', 1)]))
        assert client.parts[-1]["state"] == "input-streaming"
        client.take(writer.take([update(0, CALL, 'lo"}', 2, first=False)]))
        assert client.parts[-1]["state"] == "input-available"
        client.take(writer.take([update(0, CALL, "\n", 3, first=False)]))
        assert client.parts[-1]["input"] == {"city": "Os}lo"}

    def test_calls_that_are_written_side_by_side_are_shown_as_they_began(self):
        other = {**CALL, "id": "c2", "name": "time", "arguments": "{}"}
        writer = encoder()
        events = [("MessageCreated", state()), update(1, other, "{}", 1), update(0, CALL, '{"city": "Oslo"}', 2)]
        client = Client(5).take(writer.take(events))
        assert [part.get("toolCallId") for part in client.parts] == [None, "c1", "c2"]

    def test_what_was_told_whole_is_not_told_twice(self):
        writer = encoder()
        client = Client(5).take(writer.take([("MessageCreated", whole([SAID], "streaming", sequence=5))]))
        client.take(writer.take([update(0, SAID, "degrees.", 5), update(0, SAID, " So cold.", 6)]))
        client.take(writer.take([("MessageCompleted", state("completed"))]))
        assert [part["text"] for part in client.parts if part["type"] == "text"] == ["Four degrees. So cold."]
        assert writer.take([update(0, SAID, "late", 9), ("MessageUpdated", state("completed"))]) == []

    def test_empty_text_is_no_part(self):
        client = Client(5).take(encoder().take([("MessageCreated", state()), update(0, SAID, "", 1)]))
        assert client.parts == []


class EndTests(SimpleTestCase):
    def test_a_failure_comes_after_all_that_was_said(self):
        error = {"type": "truncated", "message": "The reply broke off. Please try again."}
        client = told([SAID], "failed", error=error)
        assert client.error == "The reply broke off. Please try again."
        assert client.parts[-1] == {"type": "text", "text": "Four degrees.", "state": "done"}
        assert client.message["metadata"]["error"] == error
        assert told([], "failed").error == "The reply failed."

    def test_a_stopped_reply_is_aborted_with_its_text(self):
        client = told([SAID], "cancelled")
        assert client.aborted
        assert client.message["metadata"]["status"] == "cancelled"
        assert client.parts[-1]["text"] == "Four degrees."

    def test_a_deleted_reply_is_aborted(self):
        writer = encoder()
        chunks = writer.take([("MessageCreated", state()), update(0, SAID, "Four", 1), ("MessageDeleted", {})])
        assert Client(5).take(chunks).aborted

    def test_a_call_that_was_cut_off_does_not_run_for_ever(self):
        for arguments_, expected in (('{"city": "Oslo"}', "input"), ('{"ci', "rawInput"), ("", "input")):
            client = told([{**CALL, "arguments": arguments_}], "cancelled")
            call = next(part for part in client.parts if part["type"] == "tool-weather")
            assert (call["state"], call["errorText"]) == ("output-error", INTERRUPTED)
            assert expected in call
            assert not client.would_send_by_itself

    def test_a_call_that_nobody_runs_here_stays_a_call(self):
        client = told([CALL], finishReason="tool_calls")
        assert client.parts[-1]["state"] == "input-available"

    def test_a_reply_that_ends_with_results_is_not_sent_on_by_itself(self):
        for status in ("completed", "cancelled"):
            client = told([CALL, RESULT], status)
            assert not client.would_send_by_itself
            assert client.parts[-1] == {"type": "data-end", "id": "end", "data": {"status": status}}
        assert not told([CALL, RESULT, SAID]).would_send_by_itself

    def test_a_stream_that_cannot_go_on_says_so(self):
        chunks = encoder().fail("Gone.")
        assert chunks == [{"type": "error", "errorText": "Gone."}]


class PartTests(SimpleTestCase):
    def test_what_the_model_thought_and_what_it_would_not_say_are_shown(self):
        parts = [{"type": "reasoning", "text": "Hm."}, {"type": "refusal", "text": "I will not."}, {"type": "raw"}]
        client = told([{**part, "text": part.get("text", "")} for part in parts])
        assert [part["type"] for part in client.parts] == ["step-start", "reasoning", "text"]
        assert client.parts[-1]["providerMetadata"] == {"converse": {"kind": "refusal"}}

    def test_files_lead_to_our_door(self):
        part = {"type": "file", "text": "", "attachment": "a1", "name": "cat.png", "mime_type": "image/png", "size": 5}
        [_, file] = told([part]).parts
        assert (file["url"], file["mediaType"]) == ("/files/a1", "image/png")
        assert file["providerMetadata"]["converse"]["name"] == "cat.png"
        assert told([{"type": "file", "text": ""}]).parts[1]["mediaType"] == "application/octet-stream"

    def test_sources_are_links_to_the_web_only(self):
        part = {"type": "source", "text": "quoted", "url": "https://example.com/", "title": "A page"}
        [_, source] = told([part]).parts
        assert (source["type"], source["url"], source["title"]) == ("source-url", "https://example.com/", "A page")
        assert source["providerMetadata"] == {"converse": {"text": "quoted"}}
        bare = told([{"type": "source", "text": "", "url": "http://example.com/"}]).parts[1]
        assert set(bare) == {"type", "sourceId", "url"}
        for url in ("javascript:alert(1)", "data:text/html,x", "", "//example.com"):
            [_, source] = told([{**part, "url": url}]).parts
            assert source["type"] == "data-source"
            assert url not in source["data"].values() or not url

    def test_a_structured_answer_comes_with_the_end(self):
        client = told([CALL, RESULT, SAID], structured={"celsius": 4})
        assert client.parts[-1] == {"type": "data-structured", "id": "structured", "data": {"celsius": 4}}
        assert told([SAID], structured={"__proto__": 1}).parts[-1]["data"] == '{"__proto__": 1}'
        assert not told([CALL, RESULT], structured=[1]).would_send_by_itself

    def test_html_stays_text(self):
        html = "<script>alert(1)</script>\n\ndata: [DONE]\n\n"
        assert told([{"type": "text", "text": html}]).parts[-1]["text"] == html

    def test_results_are_json_where_they_are_objects_or_lists(self):
        for text, value in {
            '{"a": [1]}': {"a": [1]},
            "[1, 2]": [1, 2],
            "42": "42",
            "": "",
            "Four {degrees}": "Four {degrees}",
            "{broken": "{broken",
            '{"a": NaN}': '{"a": NaN}',
            '{"a": 1e999}': '{"a": 1e999}',
            '{"a": 1.5}': {"a": 1.5},
            '{"a": "\\ud83d"}': '{"a": "\\ud83d"}',
            '{"a": "\\ud83d\\ude00"}': {"a": "\U0001f600"},
            '{"__proto__": {"x": 1}}': '{"__proto__": {"x": 1}}',
            '[{"constructor": {"prototype": 1}}]': '[{"constructor": {"prototype": 1}}]',
            '{"constructor": "a"}': {"constructor": "a"},
            "[" * 100_000: "[" * 100_000,
        }.items():
            assert output(text) == value

    def test_arguments_that_are_none_are_told_as_they_are(self):
        assert arguments("") == ({}, True)
        assert arguments("nonsense") == ("nonsense", False)
        failed = {**RESULT, "output": "The arguments are not valid", "is_error": True}
        [_, call, *_] = told([{**CALL, "arguments": "nonsense"}, failed]).parts
        assert (call["state"], call["rawInput"]) == ("output-error", "nonsense")
        [_, call, *_] = told([{**CALL, "arguments": "nonsense"}, RESULT]).parts
        assert (call["state"], call["input"], call["output"]) == ("output-available", "nonsense", {"c": 4})

    def test_a_result_without_a_call_is_shown_all_the_same(self):
        [_, _, call, *_] = told([SAID, RESULT]).parts
        assert (call["type"], call["output"]) == ("tool-weather", {"c": 4})
        nameless = told([{"type": "tool_result", "output": "", "is_error": True}], "cancelled").parts[0]
        assert (nameless["type"], nameless["errorText"]) == ("tool-tool", "The tool failed.")

    def test_the_end_of_an_object_is_found_in_pieces(self):
        for text in ('{"a": "}\\"}", "b": [{}]}', "{}", '{"\\\\": {}}'):
            for cut in range(len(text)):
                braces = Braces()
                braces.feed(text[:cut])
                assert not braces.whole
                braces.feed(text[cut:])
                assert braces.whole


APPROVED = {"type": "approval", "id": "c1", "name": "weather", "text": "approved", "reason": ""}
DENIED = {**APPROVED, "text": "denied", "reason": "Too cold."}
REFUSED = {**RESULT, "output": "The user denied this call. Too cold.", "is_error": True}


def waiting(sdk):
    writer = encoder(sdk)
    client = Client(sdk).take(writer.take([("MessageCreated", state("waiting")), *updates([CALL])]))
    assert writer.waits
    assert not writer.ended
    return client.take(writer.rest())


class ApprovalTests(SimpleTestCase):
    def test_an_approval_is_asked_for_in_the_words_of_each_version(self):
        for sdk in (6, 7):
            call = waiting(sdk).parts[-1]
            assert (call["state"], call["approval"]) == ("approval-requested", {"id": "c1"})
        asked = waiting(5).parts[-1]
        assert asked["type"] == "data-approval"
        data = {"toolCallId": "c1", "toolName": "weather", "input": {"city": "Oslo"}, "decision": "", "reason": ""}
        assert asked["data"] == data

    def test_a_waiting_reply_ends_without_a_reason(self):
        client = waiting(6)
        assert client.ended
        assert client.message["metadata"]["status"] == "waiting"
        assert client.finish_reason == ""

    def test_what_follows_a_decision_is_added_to_what_the_client_has(self):
        for sdk in (5, 6, 7):
            before = waiting(sdk).message
            writer = encoder(sdk, seen=1)
            after = Client(sdk, before)
            after.take(writer.take([("MessageCreated", state()), *updates([CALL, APPROVED])]))
            for event in updates([CALL, APPROVED, RESULT, SAID])[2:]:
                after.take(writer.take([event]))
            after.take(writer.take([("MessageCompleted", state("completed"))]))
            types = [part["type"] for part in after.parts]
            approval = ["data-approval"] if sdk == 5 else []
            assert types == ["step-start", "tool-weather", *approval, "step-start", "text"]
            assert after.parts[1]["output"] == {"c": 4}

    def test_a_second_round_of_approvals_goes_on_like_the_first(self):
        again = {**CALL, "id": "c2"}
        for sdk in (5, 6, 7):
            writer = encoder(sdk, seen=1)
            client = Client(sdk, waiting(sdk).message)
            client.take(writer.take([("MessageCreated", state("waiting")), *updates([CALL, APPROVED, RESULT, again])]))
            client.take(writer.rest())
            waits = [part for part in client.parts if part.get("toolCallId") == "c2"]
            assert waits[0]["state"] == ("input-available" if sdk == 5 else "approval-requested")

    def test_a_denied_call_is_denied(self):
        for sdk, expected in ((5, "output-error"), (6, "output-denied"), (7, "output-denied")):
            call = told([CALL, DENIED, REFUSED, SAID], sdk=sdk).parts[1]
            assert call["state"] == expected
        assert call["approval"] == {"id": "c1", "approved": False, "reason": "Too cold."}

    def test_a_decided_call_that_waits_for_others_is_known_as_far_as_the_version_has_words(self):
        other = {**CALL, "id": "c2", "arguments": "{}"}
        for sdk, expected in ((6, "approval-requested"), (7, "approval-responded")):
            for decision in (APPROVED, DENIED):
                writer = encoder(sdk)
                client = Client(sdk)
                client.take(writer.take([("MessageCreated", state("waiting")), *updates([CALL, other, decision])]))
                client.take(writer.rest())
                assert client.parts[1]["state"] == expected
                assert client.parts[2]["state"] == "approval-requested"
        writer = encoder(5)
        client = Client(5).take(writer.take([("MessageCreated", state("waiting")), *updates([CALL, other, APPROVED])]))
        client.take(writer.rest())
        decisions = [part["data"]["decision"] for part in client.parts if part["type"] == "data-approval"]
        assert decisions == ["approved", ""]


class AddressTests(SimpleTestCase):
    def test_only_addresses_of_our_own_door_are_read(self):
        conversation = "7a1c7d0e-6f0a-4c53-9b52-0a6c3f0f5b11"
        attachment = "0b7b2f4e-3c43-4dfb-8bd5-8d0a7f2f8c11"
        url = link_to(conversation)(attachment)
        read = [
            attachment_of(f"{before}{url}", UUID(conversation), "testserver") for before in ("", "https://testserver")
        ]
        assert read == [attachment, attachment]
        for foreign in (
            f"https://evil.example{url}",
            f"file://testserver{url}",
            "/admin/",
            "http://[",
            "/nowhere",
            url.replace(conversation, attachment),
        ):
            assert attachment_of(foreign, UUID(conversation), "testserver") is None
        assert link_to(conversation)("no uuid") == ""


# Any reply, cut anywhere.

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
IDS = st.integers(0, 10**9).map(lambda number: f"c{number}")
EMPTY = st.sampled_from([{}, {"content": ""}, {"content": "", "parts": []}])
INPUTS = st.one_of(st.just(""), st.just("{broken"), st.dictionaries(WORDS, WORDS, max_size=2).map(json.dumps))


@st.composite
def replies(draw) -> list[dict[str, Any]]:
    """Give the parts of a reply as it could be stored."""
    parts: list[dict[str, Any]] = []
    last = ""
    for step in range(draw(st.integers(1, 3))):
        for kind in draw(st.lists(st.sampled_from(["text", "reasoning", "refusal", "source", "raw"]), max_size=3)):
            if kind != last or kind in ("source", "raw"):
                facts_ = {"url": "https://e.example/", "title": "t"} if kind == "source" else {}
                parts.append(stored(kind, "" if kind == "raw" else draw(WORDS), facts_))
            last = kind
        calls = [f"{name}-{step}" for name in draw(st.lists(IDS, max_size=2, unique=True))]
        parts += [stored("tool_call", draw(INPUTS), {"id": name, "name": "do"}) for name in calls]
        decided = calls if draw(st.booleans()) else []
        decisions = {name: draw(st.sampled_from(["approved", "denied"])) for name in decided}
        parts += [
            stored("approval", text, {"id": name, "name": "do", "reason": ""}) for name, text in decisions.items()
        ]
        for name in calls:
            failed = draw(st.booleans()) or decisions.get(name) == "denied"
            parts.append(stored("tool_result", draw(WORDS), {"id": name, "name": "do", "is_error": failed}))
        last = "tool_result" if calls else last
    return parts


@st.composite
def cuts(draw, parts: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Give the updates of a reply's parts, their texts in any pieces."""
    told_: list[tuple[str, dict[str, Any]]] = []
    for number, part in enumerate(parts):
        text = text_in(part)
        at = draw(st.lists(st.integers(0, len(text)), max_size=3)) if part["type"] not in PUBLIC_ALONE else []
        edges = [0, *sorted(at), len(text)]
        for first, (begin, end) in zip([True, *[False] * len(at)], pairwise(edges), strict=True):
            told_.append(update(number, part, text[begin:end], len(told_) + 1, first=first))
    return told_


PUBLIC_ALONE = ("tool_result", "approval", "source", "file", "raw")


class AnyReplyTests(SimpleTestCase):
    @given(st.data())
    def test_whatever_comes_however_it_comes_the_client_has_what_is_stored(self, data):
        sdk = data.draw(st.sampled_from([5, 6, 7]))
        parts = data.draw(replies())
        events = data.draw(cuts(parts))
        status = data.draw(st.sampled_from(["completed", "failed", "cancelled"]))
        expected = Client(sdk).take(encoder(sdk).take([("MessageCreated", whole(parts, status))]))
        client, writer = Client(sdk), encoder(sdk)
        client.take(writer.take([("MessageCreated", state("pending", **data.draw(EMPTY)))]))
        at = 0
        while at < len(events):
            size = data.draw(st.integers(1, len(events) - at))
            batch = events[at : at + size]
            at += size
            client.take(writer.take(packed(batch) if data.draw(st.booleans()) else batch))
            if data.draw(st.integers(0, 9)) == 0:  # the log was renumbered: the whole state so far
                client.take(writer.take([("Snapshot", so_far(parts, events[:at]))]))
        client.take(writer.take([("MessageUpdated", state(status))]))
        assert plain(client.parts, sdk) == plain(expected.parts, sdk)
        assert stored_in(client.parts) == said_in(parts)
        assert (client.ended, bool(client.error)) == (status != "failed", status == "failed")
        assert not client.would_send_by_itself or status == "failed"

    def test_a_decision_is_put_together_like_all_else(self):
        for decision in (APPROVED, DENIED):
            chunks = encoder(7).take([("MessageCreated", whole([CALL, decision], finishReason="tool_calls"))])
            assert assembled(chunks)["parts"] == Client(7).take(chunks).parts

    @given(st.data())
    def test_what_the_server_puts_together_for_a_page_is_what_the_client_would(self, data):
        sdk = data.draw(st.sampled_from([5, 6, 7]))
        chunks = encoder(sdk).take([("MessageCreated", whole(data.draw(replies())))])
        client = Client(sdk).take(chunks)
        made = assembled(chunks)
        assert made["parts"] == client.parts
        assert made["metadata"] == client.message["metadata"]


def packed(events):
    """Join the updates of each part as a replay does, in the order in which they ended."""
    joined: dict[int, dict[str, Any]] = {}
    for _, data in events:
        former = joined.pop(data["part"], {})
        joined[data["part"]] = {**former, **data, "chunk": former.get("chunk", "") + data["chunk"]}
    return [("StreamUpdate", data) for data in joined.values()]


def so_far(parts, taken):
    """Give the state of the message after these updates."""
    texts = {}
    for _, data in taken:
        texts[data["part"]] = texts.get(data["part"], "") + data["chunk"]
    known = [{**parts[number], TEXT_KEY.get(parts[number]["type"], "text"): text} for number, text in texts.items()]
    return whole(known, "streaming", sequence=taken[-1][1]["sequence"])


def plain(parts, sdk):
    """Give parts without what depends on when a decision was told."""
    return uncut([{key: value for key, value in part.items() if key != "approval"} for part in parts])


def stored_in(parts):
    return "".join(part["text"] for part in parts if part["type"] in ("text", "reasoning"))


def said_in(parts):
    return "".join(part["text"] for part in parts if part["type"] in ("text", "reasoning", "refusal"))
