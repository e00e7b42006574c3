from __future__ import annotations

import asyncio
import base64
import json
import re
from itertools import groupby, pairwise
from unittest import skipUnless

import pytest
from django.test import SimpleTestCase
from hypothesis import example, given
from hypothesis import strategies as st

from converse.choices import ErrorType, FinishReason
from converse.deltas import (
    Finish,
    RawBlock,
    ReasoningDelta,
    SourceDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from converse.parts import File, Raw, Reasoning, Text, ToolCall, ToolResult
from converse.providers import Prompt, PromptMessage
from converse.providers.anthropic import AnthropicProvider
from converse.providers.base import OutputSpec, ToolSpec
from tests.prompts import prompts, raw
from tests.recordings import MISSING, RecordingServer, ask, available, listen, load, sse

STOP = {"type": "message_stop"}

CITATION = {
    "type": "web_search_result_location",
    "url": "https://example.org/a",
    "title": "A",
    "cited_text": "Rain.",
    "encrypted_index": "ZW5j",
}


def started(**usage):
    return {"type": "message_start", "message": {"id": "m1", "model": "claude-1", "usage": usage}}


def block(index, **block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index, **delta):
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stopped(index):
    return {"type": "content_block_stop", "index": index}


def ended(reason="end_turn", **usage):
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


async def hear(*events, prompt=None, headers=None, **options):
    async with RecordingServer(sse(*events), headers=headers or {}) as server:
        heard = await listen(AnthropicProvider(**{"model": "m", "base_url": server.base_url, **options}), prompt)
    heard.request = server.requests[0]
    return heard


def said(role, *parts):
    return PromptMessage(role=role, parts=parts)


def text(words, **besides):
    return {"type": "text", "text": words, **besides}


def body_of(*turns, **fields):
    options = fields.pop("settings", {})
    return AnthropicProvider(model="m", **options).request(Prompt(messages=turns, **fields))


def messages_of(*turns):
    return body_of(*turns)["messages"]


class RequestTests(SimpleTestCase):
    async def test_system_messages_stand_apart_from_the_history(self):
        turns = [
            PromptMessage(role="system", text="Be kind."),
            PromptMessage(role="user", text="What is 2 + 2?"),
            PromptMessage(role="assistant", text=" "),
            PromptMessage(role="system", text=" "),
            PromptMessage(role="user", text="Well?"),
            PromptMessage(role="system", text="Be brief."),
        ]
        heard = await hear(started(), ended(), STOP, prompt=Prompt(messages=turns))
        assert (heard.request.method, heard.request.path) == ("POST", "/v1/messages")
        assert heard.request.headers["anthropic-version"]
        assert heard.request.body == {
            "model": "m",
            "max_tokens": 4096,
            "system": [text("Be kind."), text("Be brief.")],
            "messages": [{"role": "user", "content": [text("What is 2 + 2?"), text("Well?")]}],
            "stream": True,
        }

    async def test_the_prompt_comes_before_the_parameters_and_those_before_the_defaults(self):
        prompt = ask(model="better", options={"temperature": 0.1, "stream": False})
        params = {"temperature": 1, "max_tokens": 7, "thinking": {"type": "adaptive"}}
        body = (await hear(started(), ended(), STOP, prompt=prompt, params=params, max_tokens=9)).request.body
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("better", 0.1, 7)
        assert (body["stream"], body["thinking"], "system" in body) == (True, {"type": "adaptive"}, False)

    def test_a_conversation_that_the_assistant_began_gets_a_beginning(self):
        greeted = PromptMessage(role="assistant", text="Welcome! ")
        opening = {"role": "user", "content": [text("Hello.")]}
        assert messages_of(greeted) == [opening, {"role": "assistant", "content": [text("Welcome!")]}]
        assert messages_of(PromptMessage(role="system", text="Greet.")) == [opening]

    def test_a_turn_of_an_unknown_role_is_refused(self):
        with pytest.raises(KeyError, match="robot"):
            messages_of(PromptMessage(role="robot", text="Beep"))


class ToolRequestTests(SimpleTestCase):
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tools = [ToolSpec(name="add", description="Add one.", schema=schema)]
    search = {"type": "web_search_20250305", "name": "web_search"}
    added = {"name": "add", "description": "Add one.", "input_schema": schema}

    def test_tools_stand_beside_those_that_run_at_anthropics(self):
        body = body_of(tools=self.tools, options={"tools": [self.search]})
        assert body["tools"] == [self.added, self.search]
        assert "tool_choice" not in body
        assert "tools" not in body_of(options={"tools": None, "tool_choice": {"type": "any"}}, tool_choice="any")
        assert "tool_choice" not in body_of(tool_choice="any")

    def test_which_tool_is_to_be_called_can_be_said(self):
        for choice, sent in (
            ("auto", {"type": "auto"}),
            ("any", {"type": "any"}),
            ("none", {"type": "none"}),
            ("add", {"type": "tool", "name": "add"}),
        ):
            settings = {"params": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}}
            assert body_of(tools=self.tools, tool_choice=choice, settings=settings)["tool_choice"] == sent
            call = {"tool_choice": {"type": "any"}}
            assert body_of(tools=self.tools, tool_choice=choice, options=call)["tool_choice"] == {"type": "any"}
        assert body_of(tools=self.tools, settings=settings)["tool_choice"]["disable_parallel_tool_use"]

    def test_a_tool_without_a_schema_takes_an_object(self):
        tool = ToolSpec(name="now", description="", schema={})
        assert body_of(tools=[tool])["tools"][0]["input_schema"] == {"type": "object"}

    def test_the_results_of_calls_made_together_go_back_together(self):
        turns = [
            said("user", Text("Add.")),
            said(
                "assistant",
                Text("Gladly."),
                ToolCall(id="a", name="add", arguments='{"x": 1}'),
                ToolCall(id="b", name="add", arguments=""),
                ToolCall(id="c", name="add", arguments="{}"),
            ),
            said(
                "tool_result",
                ToolResult(id="a", name="add", output="2"),
                ToolResult(id="b", name="add", output="No x.", is_error=True),
                ToolResult(id="c", name="add", output=" ", is_error=True),
            ),
            said("user", Text("Thanks.")),
        ]
        assert messages_of(*turns)[1:] == [
            {
                "role": "assistant",
                "content": [
                    text("Gladly."),
                    {"type": "tool_use", "id": "a", "name": "add", "input": {"x": 1}},
                    {"type": "tool_use", "id": "b", "name": "add", "input": {}},
                    {"type": "tool_use", "id": "c", "name": "add", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": "2"},
                    {"type": "tool_result", "tool_use_id": "b", "content": "No x.", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "c", "content": "It failed.", "is_error": True},
                    text("Thanks."),
                ],
            },
        ]

    def test_a_tool_that_said_nothing_has_an_empty_result(self):
        turns = [
            said("assistant", ToolCall(id="a", name="add", arguments="{}")),
            said("tool_result", ToolResult(id="a", name="add", output="")),
        ]
        assert messages_of(*turns)[-1]["content"] == [{"type": "tool_result", "tool_use_id": "a"}]

    def test_a_result_without_a_call_is_left_out(self):
        stray = said("tool_result", ToolResult(id="a", name="add", output="2"))
        assert messages_of(said("user", Text("Hi")), stray) == [{"role": "user", "content": [text("Hi")]}]

    def test_calls_that_were_made_elsewhere_get_ids_and_names_that_anthropic_takes(self):
        call = ToolCall(id="functions.add:0", name="math.add", arguments='{"x": 1}')
        turns = [
            said("assistant", call, call),
            said("tool_result", *[ToolResult(id=call.id, name=call.name, output=place) for place in "12"]),
        ] * 2
        _, calls, results, more, others = messages_of(*turns)
        ids = [block["id"] for block in [*calls["content"], *more["content"]]]
        assert len(set(ids)) == 4
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", call_id) for call_id in ids)
        assert [block["tool_use_id"] for block in [*results["content"], *others["content"]]] == ids
        assert {block["name"] for block in calls["content"]} == {"math_add"}
        assert messages_of(*turns)[1] == calls

    def test_arguments_that_are_no_json_object_go_back_as_one(self):
        for written, sent in (
            ('{"x"', {"arguments": '{"x"'}),
            ("[1]", {"arguments": [1]}),
            ("null", {}),
            ('{"x": NaN, "y": "\\ud800"}', {"x": "NaN", "y": "?"}),
            ("[" * 100_000, {"arguments": "[" * 100_000}),
        ):
            turn = said("assistant", ToolCall(id="a", name="add", arguments=written))
            assert messages_of(turn)[1]["content"][0]["input"] == sent

    def test_a_history_of_calls_goes_on_without_tools(self):
        turns = [
            said("assistant", ToolCall(id="a", name="add", arguments="{}")),
            said("tool_result", ToolResult(id="a", name="add", output="2")),
        ]
        body = body_of(*turns)
        assert body["tools"] == [{"name": "add", "input_schema": {"type": "object"}}]
        assert body["tool_choice"] == {"type": "none"}
        assert body_of(*turns, tools=self.tools)["tools"] == [self.added]


class OutputTests(SimpleTestCase):
    def test_the_form_of_the_answer_can_be_said(self):
        schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
        settings = {"params": {"output_config": {"effort": "low"}}}
        body = body_of(output=OutputSpec(name="number", schema=schema), settings=settings)
        assert body["output_config"] == {
            "effort": "low",
            "format": {
                "type": "json_schema",
                "schema": {
                    "type": "object",
                    "properties": {"n": {"type": "integer", "description": "{minimum: 1}"}},
                    "additionalProperties": False,
                },
            },
        }
        assert schema == {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}

    def test_a_schema_that_cannot_be_adapted_goes_as_it_is(self):
        for schema in ({}, {"type": ["string", "null"]}):
            body = body_of(output=OutputSpec(name="x", schema=schema))
            assert body["output_config"]["format"]["schema"] == schema


class FileTests(SimpleTestCase):
    def test_files_become_images_and_documents_in_their_place(self):
        data = base64.b64encode(b"\x00\xff").decode()
        files = [
            File(name="cat.png", mime_type="image/png", data=b"\x00\xff"),
            File(name="a.pdf", mime_type="Application/PDF", data=b"\x00\xff"),
            File(name="a.md", mime_type="text/markdown; charset=utf-8", data="\ufeff# Grüße".encode()),
            File(name="", mime_type="application/json", data=b"\xff{}"),
        ]
        document = {"type": "base64", "media_type": "application/pdf", "data": data}
        assert messages_of(said("user", *files, Text("What is this?")))[0]["content"] == [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
            {"type": "document", "title": "a.pdf", "source": document},
            {
                "type": "document",
                "title": "a.md",
                "source": {"type": "text", "media_type": "text/plain", "data": "# Grüße"},
            },
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "\ufffd{}"}},
            text("What is this?"),
        ]

    async def test_a_file_that_anthropic_cannot_take_is_named_before_anything_is_sent(self):
        for kind in ("audio/wav", "image/tiff", "application/zip", ""):
            prompt = Prompt(messages=[said("user", File(name="it", mime_type=kind, data=b"x"))])
            async with RecordingServer() as server:
                error = (await listen(AnthropicProvider(model="m", base_url=server.base_url), prompt)).error
            assert (error.type, error.retryable, server.requests) == (ErrorType.INVALID, False, [])
            assert (kind or "unknown") in str(error)


class ReplayTests(SimpleTestCase):
    """What Anthropic said goes back as it came."""

    def test_thoughts_with_a_signature_stand_before_the_call_they_led_to(self):
        redacted = {"type": "redacted_thinking", "data": "eA=="}
        called = {"type": "tool_use", "id": "a", "name": "add", "input": {}}
        turns = [
            said(
                "assistant",
                Reasoning("Not signed."),
                Reasoning("Hmm", "c2ln"),
                Raw(redacted),
                Reasoning("", "b21pdHRlZA=="),
                ToolCall(id="a", name="add", arguments="{}"),
            ),
            said("tool_result", ToolResult(id="a", name="add", output="1")),
        ]
        assert messages_of(*turns)[1]["content"] == [
            {"type": "thinking", "thinking": "Hmm", "signature": "c2ln"},
            redacted,
            {"type": "thinking", "thinking": "", "signature": "b21pdHRlZA=="},
            called,
        ]

    def test_a_turn_that_broke_off_in_thought_does_not_end_with_it(self):
        thought = Reasoning("Hmm", "c2ln")
        redacted = Raw({"type": "redacted_thinking", "data": "eA=="})
        answered = messages_of(said("user", Text("A?")), said("assistant", Text("So"), thought, redacted))
        assert answered[1:] == [{"role": "assistant", "content": [text("So")]}]
        turns = [said("user", Text("A?")), said("assistant", thought), said("user", Text("B?"))]
        assert messages_of(*turns) == [{"role": "user", "content": [text("A?"), text("B?")]}]

    def test_words_go_back_with_their_citations_and_those_around_without(self):
        cited = json.dumps({"characters": 5, "citations": [CITATION]})
        for words in ([Text("It will "), Text("rain."), Text("", cited)], [Text("It will rain."), Text("", cited)]):
            turn = said("assistant", *words, Text(" "), Text("Take a coat."))
            assert messages_of(turn)[1]["content"] == [
                text("It will "),
                text("rain. ", citations=[CITATION]),
                text("Take a coat."),
            ]

    def test_signatures_that_are_not_anthropics_sign_nothing(self):
        for signature in ("c2ln", "[1]", "7", json.dumps({"characters": 9, "citations": [CITATION]})):
            turn = said("assistant", Text("Rain."), Text("", signature))
            assert messages_of(turn)[1]["content"] == [text("Rain.")]

    def test_a_search_that_was_cut_off_is_left_out_once_the_user_goes_on(self):
        search = Raw({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}})
        other = Raw({"type": "web_search_tool_result", "tool_use_id": "other", "content": []})
        found = Raw({"type": "web_search_tool_result", "tool_use_id": "s", "content": []})
        asked, more = said("user", Text("A?")), said("user", Text("B?"))
        assert messages_of(asked, said("assistant", Text("So"), other, search), more)[1]["content"] == [text("So")]
        # Paused, or waiting for a tool of ours: here it goes on.
        assert messages_of(asked, said("assistant", search))[1]["content"] == [search.data]
        called = [
            said("assistant", search, ToolCall(id="a", name="add", arguments="{}")),
            said("tool_result", ToolResult(id="a", name="add", output="1")),
        ]
        assert messages_of(asked, *called)[1]["content"][0] == search.data
        resumed = messages_of(asked, *called, said("assistant", found, Text("Done.")), more)
        assert (resumed[1]["content"][0], resumed[3]["content"][0]) == (search.data, found.data)
        paused = messages_of(asked, said("assistant", search), said("assistant", found), more)
        assert paused[1]["content"] == [search.data, found.data]


@skipUnless(available(), MISSING)
class RecordedReplayTests(SimpleTestCase):
    async def test_every_recorded_reply_goes_back_as_it_came(self):
        kinds = set()
        for recording in load("anthropic.messages"):
            if recording.status != 200:
                continue
            async with RecordingServer.of(recording) as server:
                heard = await listen(AnthropicProvider(model="m", base_url=server.base_url))
            results = [ToolResult(id=call["id"], name=call["name"], output="1") for call in heard.tool_calls]
            paused = heard.finish.reason == FinishReason.PAUSE
            reply = [said("assistant", *heard.parts)]
            after = [said("tool_result", *results)] if results else [] if paused else [said("user", Text("And?"))]
            sent = messages_of(said("user", Text("?")), *reply, *after)
            back = [block for message in sent if message["role"] == "assistant" for block in message["content"]]
            came = blocks_of(recording)
            kinds |= {block["type"] for block in came}
            with self.subTest(recording.name):
                assert outline(back) == outline(came)
                assert spoken(back) == spoken(came)
                assert cited(back) == cited(came)
                assert [one for one in back if one["type"] != "text"] == [one for one in came if one["type"] != "text"]
        assert kinds >= {"text", "thinking", "redacted_thinking", "tool_use", "server_tool_use"}


def blocks_of(recording):
    """Return the blocks of a recorded reply, read without the provider."""
    blocks, inputs = {}, {}
    for line in recording.body.decode().split("\n"):
        event = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
        match event.get("type"):
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                block, delta = blocks[event["index"]], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "citations_delta":
                        block["citations"].append(delta["citation"])
                    case "input_json_delta":
                        inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
    for index, written in inputs.items():
        blocks[index]["input"] = json.loads(written or "{}")
    return [block for _, block in sorted(blocks.items())]


def outline(blocks):
    kinds = [block["type"] for block in blocks if block.get("text", "x").strip()]
    return [kind for kind, _ in groupby(kinds)]


def spoken(blocks):
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def cited(blocks):
    return [(block["text"].rstrip(), block["citations"]) for block in blocks if block.get("citations")]


class EveryPromptTests(SimpleTestCase):
    own = (
        raw("web_search_tool_result", "code_execution_tool_result")
        | st.just(Raw({"type": "redacted_thinking", "data": "eA=="}))
        | st.builds(Reasoning, st.text(max_size=3), st.just("c2ln"))
        | st.builds(
            lambda count: Text("", json.dumps({"characters": count, "citations": [CITATION]})), st.integers(0, 12)
        )
    )
    files = ("image/png", "image/webp", "application/pdf", "text/csv", "application/json")

    @given(prompt=prompts(own=own, files=files))
    @example(prompt=Prompt(messages=[]))
    def test_a_request_keeps_anthropics_rules_whatever_was_said(self, prompt):
        body = AnthropicProvider(model="m").request(prompt)
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        messages = body["messages"]
        assert messages[0]["role"] == "user"
        assert all(first["role"] != second["role"] for first, second in pairwise(messages))
        blocks = [(place, block) for place, message in enumerate(messages) for block in message["content"]]
        for _, block in blocks:
            if block["type"] == "text":
                assert block["text"].strip()
        for message in messages:
            assert message["content"]
            assert message["role"] == "user" or message["content"][-1]["type"] not in {"thinking", "redacted_thinking"}
        calls = [(place, block["id"]) for place, block in blocks if block["type"] == "tool_use"]
        results = [(place - 1, block["tool_use_id"]) for place, block in blocks if block["type"] == "tool_result"]
        assert results == calls
        assert len({call_id for _, call_id in calls}) == len(calls)
        assert bool(calls) <= bool(body.get("tools"))
        self.check_order(messages)
        self.check_servers(messages)

    def check_order(self, messages):
        """Results stand before words."""
        for message in messages:
            kinds = [block["type"] == "tool_result" for block in message["content"]]
            assert kinds == sorted(kinds, reverse=True)

    def check_servers(self, messages):
        """No call of Anthropic's own tools is without its result, save where the answer may go on."""
        begun, ended, last = [], set(), -1
        for place, message in enumerate(messages):
            if message["role"] == "user" and any(block["type"] != "tool_result" for block in message["content"]):
                last = place
            for block in message["content"]:
                if block["type"] == "server_tool_use":
                    begun.append((place, block["id"]))
                elif block["type"].endswith("_tool_result"):
                    ended.add(block["tool_use_id"])
        assert ended <= {call_id for _, call_id in begun}
        assert all(call_id in ended or place > last for place, call_id in begun)


class ReadingTests(SimpleTestCase):
    async def test_a_reply_starts_with_its_model_and_ends_with_its_usage_and_finish(self):
        heard = await hear(
            started(input_tokens=5, cache_read_input_tokens=3, output_tokens=1),
            {"type": "ping"},
            {"type": "brand_new"},
            block(0, type="text", text=""),
            delta(0, type="text_delta", text="Hi"),
            delta(0, type="text_delta", text=""),
            delta(0, type="brand_new_delta", new="x"),
            stopped(0),
            ended(output_tokens=12, output_tokens_details={"thinking_tokens": 4}, cache_creation_input_tokens=2),
            STOP,
        )
        first = {"input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 1}
        last = {**first, "output_tokens": 12, "output_tokens_details": {"thinking_tokens": 4}}
        assert heard.deltas == [
            Started(request_id="m1", model="claude-1"),
            Usage(input=5, cached_input=3, output=1, raw=first),
            TextDelta("Hi"),
            Usage(
                input=5,
                cached_input=3,
                cache_write=2,
                output=12,
                reasoning=4,
                raw={**last, "cache_creation_input_tokens": 2},
            ),
            Finish(reason=FinishReason.STOP, raw="end_turn"),
        ]

    async def test_a_reply_is_traced_by_its_request_id(self):
        heard = await hear(started(), ended(), STOP, headers={"request-id": "req_1"})
        assert heard.deltas[0] == Started(request_id="req_1", model="claude-1")

    async def test_thoughts_end_with_their_signature(self):
        heard = await hear(
            started(),
            block(0, type="thinking", thinking="", signature=""),
            delta(0, type="thinking_delta", thinking="Hmm"),
            delta(0, type="thinking_delta", thinking=""),
            delta(0, type="signature_delta", signature="c2ln"),
            stopped(0),
            block(1, type="redacted_thinking", data="x"),
            stopped(1),
            ended(),
            STOP,
        )
        assert heard.deltas[1:-1] == [
            ReasoningDelta(text="Hmm"),
            ReasoningDelta(signature="c2ln"),
            RawBlock({"type": "redacted_thinking", "data": "x"}),
        ]

    async def test_thoughts_that_are_kept_back_have_a_signature_only(self):
        heard = await hear(
            started(),
            block(0, type="thinking", thinking="", signature=""),
            delta(0, type="signature_delta", signature="c2ln"),
            stopped(0),
            block(1, type="thinking", thinking="Hmm", signature="d2hv"),
            stopped(1),
            ended(),
            STOP,
        )
        assert heard.parts == [Reasoning("", "c2ln"), Reasoning("Hmm", "d2hv")]

    async def test_sources_are_told_where_they_are_cited(self):
        page = {"type": "page_location", "document_title": "Facts", "cited_text": "Wet."}
        found = {"type": "search_result_location", "source": "https://example.org/b", "title": "B", "cited_text": ""}
        heard = await hear(
            started(),
            block(0, type="text", text="", citations=[]),
            delta(0, type="citations_delta", citation=CITATION),
            delta(0, type="text_delta", text="It will "),
            delta(0, type="citations_delta", citation=page),
            delta(0, type="text_delta", text="rain."),
            delta(0, type="citations_delta", citation=found),
            stopped(0),
            block(1, type="text", text=" Or not."),
            stopped(1),
            ended(),
            STOP,
        )
        assert heard.sources == [
            SourceDelta(url="https://example.org/a", title="A", text="Rain."),
            SourceDelta(title="Facts", text="Wet."),
            SourceDelta(url="https://example.org/b", title="B"),
        ]
        assert heard.text == "It will rain. Or not."
        assert messages_of(said("assistant", *heard.parts))[1]["content"] == [
            text("It will rain.", citations=[CITATION, page, found]),
            text(" Or not."),
        ]

    async def test_words_that_come_with_the_opening_of_a_block_are_heard(self):
        opened = (block(0, type="thinking", thinking="Hmm"), block(1, type="text", text="Hi"))
        heard = await hear(started(), *opened, ended(), STOP)
        assert heard.deltas[1:-1] == [ReasoningDelta(text="Hmm"), TextDelta("Hi")]

    async def test_a_reply_ends_for_reasons_common_to_all_providers(self):
        for word, reason in (
            ("stop_sequence", FinishReason.STOP),
            ("max_tokens", FinishReason.LENGTH),
            ("model_context_window_exceeded", FinishReason.LENGTH),
            ("tool_use", FinishReason.TOOL_CALLS),
            ("pause_turn", FinishReason.PAUSE),
            ("refusal", FinishReason.REFUSAL),
            ("brand_new", FinishReason.OTHER),
        ):
            assert (await hear(started(), ended(word), STOP)).finish == Finish(reason=reason, raw=word)

    async def test_counts_without_a_reason_do_not_end_a_reply(self):
        heard = await hear(started(), ended(None, output_tokens=3))
        assert (heard.finish, heard.error.type, heard.usage.output) == (None, ErrorType.TRUNCATED, 3)

    async def test_an_error_in_mid_stream_keeps_what_came(self):
        for word, kind in (
            ("overloaded_error", ErrorType.OVERLOADED),
            ("rate_limit_error", ErrorType.RATE_LIMITED),
            ("api_error", ErrorType.SERVER),
            ("invalid_request_error", ErrorType.INVALID),
        ):
            error = {"type": "error", "error": {"type": word, "message": "Sorry"}}
            text = delta(0, type="text_delta", text="Hal")
            heard = await hear(started(), text, error, headers={"request-id": "req_2"})
            assert heard.text == "Hal"
            assert (heard.error.type, heard.error.request_id) == (kind, "req_2")
            assert "Sorry" in str(heard.error)


class ToolCallTests(SimpleTestCase):
    async def test_calls_are_numbered_from_nought_and_have_their_arguments_in_fragments(self):
        heard = await hear(
            started(),
            block(0, type="text", text=""),
            stopped(0),
            block(1, type="tool_use", id="a", name="add", input={}),
            delta(1, type="input_json_delta", partial_json=""),
            delta(1, type="input_json_delta", partial_json='{"x"'),
            delta(1, type="input_json_delta", partial_json=": 1}"),
            stopped(1),
            block(2, type="tool_use", id="b", name="now", input={}),
            delta(2, type="input_json_delta", partial_json=""),
            stopped(2),
            ended("tool_use"),
            STOP,
        )
        assert heard.deltas[1:-1] == [
            ToolCallDelta(index=0, id="a", name="add"),
            ToolCallDelta(index=0, arguments='{"x"'),
            ToolCallDelta(index=0, arguments=": 1}"),
            ToolCallDelta(index=1, id="b", name="now"),
            ToolCallDelta(index=1, arguments="{}"),
        ]

    async def test_arguments_that_come_all_at_once_are_heard(self):
        heard = await hear(
            started(),
            block(0, type="tool_use", id="a", name="add", input={"x": 1}),
            stopped(0),
            ended("tool_use"),
            STOP,
        )
        assert heard.tool_calls == [{"id": "a", "name": "add", "arguments": '{"x": 1}'}]

    async def test_tools_that_run_at_the_provider_are_not_ours_to_call(self):
        found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"encrypted_content": "eA=="}]}
        heard = await hear(
            started(),
            block(0, type="server_tool_use", id="s", name="web_search", input={}),
            delta(0, type="input_json_delta", partial_json=""),
            delta(0, type="input_json_delta", partial_json='{"query"'),
            delta(0, type="input_json_delta", partial_json=': "x"}'),
            stopped(0),
            block(1, **found),
            stopped(1),
            block(2, type="server_tool_use", id="t", name="web_search", input={}),
            delta(2, type="input_json_delta", partial_json='{"query'),
            stopped(2),
            block(3, type="compaction", content=None),
            delta(3, type="compaction_delta", content="In short."),
            stopped(3),
            ended(),
            STOP,
        )
        assert heard.tool_calls == []
        assert heard.of(RawBlock) == [
            RawBlock({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}}),
            RawBlock(found),
            RawBlock({"type": "server_tool_use", "id": "t", "name": "web_search", "input": {}}),
            RawBlock({"type": "compaction", "content": "In short."}),
        ]

    async def test_who_called_a_tool_goes_back_with_the_call(self):
        caller = {"type": "code_execution_20260120", "tool_id": "srvtoolu_1"}
        heard = await hear(
            started(),
            block(0, type="tool_use", id="a", name="add", input={}, caller=caller),
            stopped(0),
            block(1, type="tool_use", id="b", name="add", input={}, toolset_name=None),
            stopped(1),
            ended("tool_use"),
            STOP,
        )
        assert messages_of(said("assistant", *heard.parts))[1]["content"] == [
            {"type": "tool_use", "id": "a", "name": "add", "input": {}, "caller": caller},
            {"type": "tool_use", "id": "b", "name": "add", "input": {}},
        ]


class CancellingTests(SimpleTestCase):
    async def test_a_reply_cancelled_in_any_state_hangs_up_at_once(self):
        thought = (block(0, type="thinking", thinking=""), delta(0, type="thinking_delta", thinking="Hmm"))
        spoken = (block(1, type="text", text=""), delta(1, type="text_delta", text="Hi"))
        called = (
            block(2, type="tool_use", id="a", name="add", input={}),
            delta(2, type="input_json_delta", partial_json='{"x'),
        )
        searched = (block(3, type="server_tool_use", id="s", name="web_search", input={}),)
        for events in ((), (started(),), (started(), *thought), (started(), *spoken), (started(), *called), searched):
            body = sse(*events)
            async with RecordingServer(body, stall_headers=not events, stall_at=len(body)) as server:
                task = asyncio.create_task(listen(AnthropicProvider(model="m", base_url=server.base_url)))
                await (server.stalled if events else server.requested).wait()
                task.cancel()
                await server.wait_closed_by_client(seconds=1)
                with pytest.raises(asyncio.CancelledError):
                    await task
