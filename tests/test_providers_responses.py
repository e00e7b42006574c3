from __future__ import annotations

import base64
import json

from django.test import SimpleTestCase
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncAzureOpenAI

from converse.choices import ErrorType, FinishReason
from converse.deltas import (
    FileDelta,
    Finish,
    RawBlock,
    ReasoningDelta,
    RefusalDelta,
    SourceDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from converse.parts import File, Raw, Reasoning, Text, ToolCall, ToolResult
from converse.providers import Prompt, PromptMessage
from converse.providers.base import OutputSpec, ToolSpec
from converse.providers.responses import ResponsesProvider
from tests.prompts import prompts
from tests.recordings import RecordingServer, ask, listen, sse

CREATED = {"type": "response.created", "response": {"id": "resp_1", "model": "m-1", "status": "in_progress"}}
COMPLETED = {"type": "response.completed", "response": {"id": "resp_1", "status": "completed"}}


def ended(status, **fields):
    return {"type": f"response.{status}", "response": {"status": status, **fields}}


def delta(kind, text, place=0):
    return {"type": f"response.{kind}.delta", "output_index": place, "delta": text}


def added(item, place=0):
    return {"type": "response.output_item.added", "output_index": place, "item": item}


def done(item, place=0):
    return {"type": "response.output_item.done", "output_index": place, "item": item}


def call_item(number, arguments="", **more):
    named = {"id": f"fc_{number}", "call_id": f"call_{number}", "name": "f", "arguments": arguments}
    return {"type": "function_call", **named, **more}


def message_item(text="Hello", **more):
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content, **more}


async def hear(*events, prompt=None, headers=None, **options):
    async with RecordingServer(sse(*events), headers=headers or {}) as server:
        heard = await listen(ResponsesProvider(**{"model": "m", "base_url": server.base_url, **options}), prompt)
    heard.request = server.requests[0]
    return heard


def turn(role, *parts):
    return PromptMessage(role=role, parts=parts)


def items(*turns, **options):
    return ResponsesProvider(**{"model": "m", **options}).request(Prompt(messages=turns))["input"]


def asked(provider=None, **fields):
    return (provider or ResponsesProvider(model="m")).request(ask(**fields))


class RequestTests(SimpleTestCase):
    async def test_the_history_is_sent_in_order_and_nothing_is_kept_there(self):
        turns = [
            PromptMessage(role="system", text="Be kind."),
            PromptMessage(role="user", text="What is 2 + 2?"),
            PromptMessage(role="assistant", text=" \n"),
            turn(
                "assistant",
                Reasoning("Hmm."),
                Text("I'll "),
                Text("add."),
                ToolCall(id="a", name="add", arguments='{"x": 2,"y":2}'),
                ToolCall(id="b", name="now", arguments=""),
            ),
            turn("tool_result", ToolResult(id="a", name="add", output="4"), ToolResult(id="b", name="now", output="")),
            PromptMessage(role="system", text="Be brief."),
        ]
        heard = await hear(CREATED, COMPLETED, prompt=Prompt(messages=turns))
        assert (heard.request.method, heard.request.path) == ("POST", "/responses")
        assert heard.request.body == {
            "model": "m",
            "input": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "What is 2 + 2?"},
                {"role": "assistant", "content": "I'll add."},
                {"type": "function_call", "call_id": "a", "name": "add", "arguments": '{"x": 2,"y":2}'},
                {"type": "function_call", "call_id": "b", "name": "now", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a", "output": "4"},
                {"type": "function_call_output", "call_id": "b", "output": ""},
                {"role": "system", "content": "Be brief."},
            ],
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "stream": True,
        }

    def test_turns_that_say_nothing_are_left_out(self):
        nothing = [turn(role, Text(" ")) for role in ("system", "user", "assistant")]
        stray = turn("tool_result", Text("no result"))
        assert items(*nothing, turn("assistant", Reasoning("Hmm.")), stray) == []

    async def test_a_role_that_does_not_exist_is_refused_before_anything_is_sent(self):
        async with RecordingServer() as server:
            provider = ResponsesProvider(model="m", base_url=server.base_url)
            heard = await listen(provider, Prompt(messages=[PromptMessage(role="robot", text="Beep")]))
        assert (heard.error.type, server.requests) == (ErrorType.INVALID, [])

    def test_a_foreign_id_that_it_would_refuse_becomes_another_in_the_call_and_its_result(self):
        for foreign in ("functions.add:0", "x" * 65, ""):
            call = ToolCall(id=foreign, name="f", arguments="{}")
            result = ToolResult(id=foreign, name="f", output="1")
            [said, answered] = items(turn("assistant", call), turn("tool_result", result))
            assert said["call_id"] == answered["call_id"]
            assert len(said["call_id"]) == 64

    def test_models_that_do_not_reason_are_not_asked_for_their_reasoning(self):
        for model in ("gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo", "chatgpt-4o-latest", "gpt-5-chat-latest", "a/gpt-4o"):
            assert "include" not in asked(model=model), model
        for model in ("gpt-5", "gpt-5.4-codex", "o4-mini", "mine"):
            assert asked(model=model)["include"] == ["reasoning.encrypted_content"], model
        assert "include" not in asked(ResponsesProvider(model="mine", encrypted_reasoning=False))
        assert "include" in asked(ResponsesProvider(model="gpt-4o", encrypted_reasoning=True))

    def test_the_call_comes_before_the_settings_and_those_before_the_defaults(self):
        provider = ResponsesProvider(model="m", max_tokens=9, params={"store": True, "include": ["x"], "top_p": 1})
        body = asked(provider, options={"top_p": 0.5, "max_output_tokens": 8})
        assert (body["store"], body["top_p"], body["max_output_tokens"]) == (True, 0.5, 8)
        assert body["include"] == ["reasoning.encrypted_content", "x"]
        assert asked(provider)["max_output_tokens"] == 9

    async def test_azures_own_client_takes_it_as_well(self):
        async with (
            RecordingServer(sse(CREATED, delta("output_text", "Hi"), COMPLETED)) as server,
            AsyncAzureOpenAI(api_key="k", api_version="2026-01-01", azure_endpoint=server.base_url) as client,
        ):
            heard = await listen(ResponsesProvider(model="gpt-x", client=client))
        assert heard.text == "Hi"
        assert server.requests[0].path == "/openai/responses?api-version=2026-01-01"


SCHEMA = {
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}
LOOSE = {"type": "object", "properties": {"x": {"type": "integer"}}}


class AskedTests(SimpleTestCase):
    """What a prompt asks for besides an answer."""

    def test_tools_are_functions_beside_those_that_the_provider_runs(self):
        add = ToolSpec(name="add", description="Add.", schema=SCHEMA)
        now = ToolSpec(name="now", description="", schema=LOOSE)
        body = asked(ResponsesProvider(model="m", params={"tools": [{"type": "web_search"}]}), tools=[add, now])
        assert body["tools"] == [
            {"type": "function", "name": "add", "description": "Add.", "parameters": SCHEMA, "strict": True},
            {"type": "function", "name": "now", "parameters": LOOSE, "strict": False},
            {"type": "web_search"},
        ]

    def test_the_choice_of_tools_is_put_in_its_words(self):
        tools = [ToolSpec(name="add", description="", schema=SCHEMA)]
        named = {"type": "function", "name": "add"}
        for choice, sent in (("auto", "auto"), ("any", "required"), ("none", "none"), ("add", named)):
            assert asked(tools=tools, tool_choice=choice)["tool_choice"] == sent
        assert "tool_choice" not in asked(tool_choice="any")

    def test_a_form_for_the_answer_stands_beside_what_the_settings_say_of_its_text(self):
        provider = ResponsesProvider(model="m", params={"text": {"verbosity": "low"}})
        for schema, strict in ((SCHEMA, True), (LOOSE, False)):
            sent = {"type": "json_schema", "name": "sum", "schema": schema, "strict": strict}
            body = asked(provider, output=OutputSpec(name="sum", schema=schema))
            assert body["text"] == {"verbosity": "low", "format": sent}


class FileTests(SimpleTestCase):
    def block(self, mime_type, name="a.b"):
        [sent] = items(turn("user", Text("See"), Text(" "), File(name=name, mime_type=mime_type, data=b"data")))
        [text, block] = sent["content"]
        assert text == {"type": "input_text", "text": "See"}
        return block

    def test_an_image_goes_inside_the_message(self):
        url = "data:image/png;base64,ZGF0YQ=="
        assert self.block("image/png") == {"type": "input_image", "detail": "auto", "image_url": url}

    def test_documents_tables_and_texts_go_as_files(self):
        office = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
        for kind in ("application/pdf", "text/csv", "application/json", "application/vnd.ms-excel", office):
            sent = {"type": "input_file", "filename": "a.b", "file_data": f"data:{kind};base64,ZGF0YQ=="}
            assert self.block(kind) == sent
        assert self.block("text/plain", name="")["filename"] == "document"

    async def test_a_file_of_another_type_is_refused_by_its_type_before_anything_is_sent(self):
        for kind in ("audio/wav", "image/svg+xml", "application/zip"):
            file = File(name="it", mime_type=kind, data=b"")
            async with RecordingServer() as server:
                provider = ResponsesProvider(model="m", base_url=server.base_url)
                error = (await listen(provider, Prompt(messages=[turn("user", file)]))).error
            assert (error.type, kind in str(error), server.requests) == (ErrorType.INVALID, True, [])


class ReadingTests(SimpleTestCase):
    async def test_a_reply_starts_with_its_model_and_ends_with_its_usage_and_finish(self):
        usage = {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 8},
        }
        heard = await hear(
            CREATED,
            {"type": "response.in_progress", "response": CREATED["response"]},
            added(message_item("")),
            {"type": "response.brand_new", "delta": "?"},
            delta("output_text", "Hel"),
            delta("output_text", ""),
            delta("output_text", "lo"),
            done(message_item(phase="final_answer")),
            ended("completed", usage=usage),
        )
        marker = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "final_answer"}
        assert heard.deltas == [
            Started(request_id="resp_1", model="m-1"),
            TextDelta("Hel"),
            TextDelta("lo"),
            RawBlock(marker),
            Usage(input=10, cached_input=60, cache_write=30, output=20, reasoning=8, raw=usage),
            Finish(reason=FinishReason.STOP, raw="completed"),
        ]

    async def test_a_reply_is_traced_by_its_request_id(self):
        heard = await hear(CREATED, COMPLETED, headers={"x-request-id": "r1"})
        assert heard.deltas[0] == Started(request_id="r1", model="m-1")

    async def test_counts_that_are_not_told_are_unknown(self):
        usage = (await hear(CREATED, ended("completed", usage={"total_tokens": 3}))).usage
        assert usage == Usage(raw={"total_tokens": 3})

    async def test_reasoning_is_heard_as_a_summary_or_itself_and_kept_whole(self):
        thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}
        heard = await hear(
            CREATED, delta("reasoning_summary_text", "Hm"), delta("reasoning_text", "m."), done(thought), COMPLETED
        )
        assert heard.of(ReasoningDelta) == [ReasoningDelta(text="Hm"), ReasoningDelta(text="m.")]
        assert heard.of(RawBlock) == [RawBlock(thought)]

    async def test_a_refusal_is_kept_apart_and_is_why_the_reply_ended(self):
        refused = {**message_item(), "content": [{"type": "refusal", "refusal": "I can't."}]}
        heard = await hear(CREATED, delta("refusal", "I can't."), done(refused), COMPLETED)
        assert heard.of(RefusalDelta) == [RefusalDelta("I can't.")]
        assert heard.of(RawBlock) == []
        assert heard.finish == Finish(reason=FinishReason.REFUSAL, raw="completed")

    async def test_an_incomplete_reply_says_why(self):
        for why, reason in (
            ("max_output_tokens", FinishReason.LENGTH),
            ("content_filter", FinishReason.CONTENT_FILTER),
            ("brand_new", FinishReason.OTHER),
        ):
            heard = await hear(CREATED, ended("incomplete", incomplete_details={"reason": why}))
            assert heard.finish == Finish(reason=reason, raw=f"incomplete:{why}")
        assert (await hear(CREATED, ended("incomplete"))).finish.raw == "incomplete"

    async def test_citations_are_sources(self):
        annotation = {"type": "response.output_text.annotation.added"}
        heard = await hear(
            CREATED,
            {**annotation, "annotation": {"type": "url_citation", "url": "https://a.test", "title": "A"}},
            {**annotation, "annotation": {"type": "file_citation", "file_id": "f", "filename": "b.pdf"}},
            {**annotation, "annotation": {"type": "file_path", "file_id": "f"}},
            COMPLETED,
        )
        assert heard.sources == [SourceDelta(url="https://a.test", title="A"), SourceDelta(title="b.pdf")]

    async def test_an_image_is_a_file_and_its_call_goes_back_with_it(self):
        made = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "revised_prompt": "A cat"}
        result = base64.b64encode(b"pixels").decode()
        for kind, mime_type in ((None, "image/png"), ("svg", "image/svg+xml"), ("webp", "image/webp")):
            item = {**made, "output_format": kind}
            heard = await hear(CREATED, done({**item, "result": result}), COMPLETED)
            assert heard.of(RawBlock) == [RawBlock(item)]
            assert heard.of(FileDelta) == [
                FileDelta(data=b"pixels", mime_type=mime_type, name=f"image.{kind or 'png'}"),
            ]
            assert items(turn("assistant", *heard.parts)) == [{**item, "result": result}]
            another = File(name="b", mime_type="image/png", data=b"others")
            assert items(turn("assistant", *heard.parts, another)) == [{**item, "result": result}]
            assert items(turn("assistant", *heard.parts[:1])) == []
            assert items(turn("assistant", *heard.parts[:1]), params={"store": True}) == [item]

    async def test_an_image_that_failed_is_no_file(self):
        heard = await hear(CREATED, done({"type": "image_generation_call", "id": "ig_1", "result": None}), COMPLETED)
        assert heard.of(FileDelta) == []


class ToolCallTests(SimpleTestCase):
    async def test_calls_come_in_fragments_and_are_why_the_reply_ended(self):
        heard = await hear(
            CREATED,
            added({"type": "reasoning", "id": "rs_1"}, 0),
            added(call_item(1), 1),
            delta("function_call_arguments", '{"x"', 1),
            added(call_item(2, namespace="n"), 2),
            delta("function_call_arguments", "{}", 2),
            delta("function_call_arguments", ":1}", 1),
            done(call_item(1, '{"x":1}'), 1),
            done(call_item(2, "{}", namespace="n"), 2),
            COMPLETED,
        )
        assert heard.of(ToolCallDelta)[0] == ToolCallDelta(
            index=0, id="call_1", name="f", signature=json.dumps({"id": "fc_1"})
        )
        assert heard.tool_calls == [
            {"id": "call_1", "name": "f", "arguments": '{"x":1}'},
            {"id": "call_2", "name": "f", "arguments": "{}"},
        ]
        assert heard.finish == Finish(reason=FinishReason.TOOL_CALLS, raw="completed")
        assert items(turn("assistant", *heard.parts)) == [
            call_item(1, '{"x":1}'),
            call_item(2, "{}", namespace="n"),
        ]

    async def test_servers_that_send_a_call_whole_are_understood(self):
        for events in (
            [done(call_item(1, "{}"))],
            [added(call_item(1)), done(call_item(1, "{}"))],
        ):
            heard = await hear(CREATED, *events, COMPLETED)
            assert heard.tool_calls == [{"id": "call_1", "name": "f", "arguments": "{}"}]

    async def test_a_call_without_an_id_gets_one(self):
        [call] = (await hear(CREATED, done({"type": "function_call", "name": "f"}), COMPLETED)).tool_calls
        assert call["id"].startswith("call_")


class FailureTests(SimpleTestCase):
    async def fail(self, *events, **options):
        heard = await hear(CREATED, delta("output_text", "Hal"), *events, **options)
        assert (heard.text, heard.finish) == ("Hal", None)
        return heard.error

    async def test_a_failure_in_mid_stream_keeps_what_came(self):
        for code, kind, retryable in (
            ("server_error", ErrorType.SERVER, True),
            ("rate_limit_exceeded", ErrorType.RATE_LIMITED, True),
            ("insufficient_quota", ErrorType.PERMISSION, False),
            ("context_length_exceeded", ErrorType.CONTEXT_TOO_LONG, False),
            ("invalid_prompt", ErrorType.INVALID, False),
            ("image_too_large", ErrorType.INVALID, False),
            ("image_content_policy_violation", ErrorType.CONTENT_BLOCKED, False),
            ("bio_policy", ErrorType.CONTENT_BLOCKED, False),
            ("misalignment_policy_violation", ErrorType.CONTENT_BLOCKED, False),
            ("vector_store_timeout", ErrorType.TIMEOUT, True),
        ):
            error = {"code": code, "message": "It was so."}
            for event in (
                ended("failed", error=error),
                {"type": "error", "param": None, "sequence_number": 3, **error},
                {"type": "error", "error": {"type": code, **error}},
            ):
                found = await self.fail(event)
                assert (found.type, found.retryable) == (kind, retryable), event
                assert "It was so." in str(found)

    async def test_a_failure_that_says_nothing_is_the_servers(self):
        assert (await self.fail(ended("failed"))).type == ErrorType.SERVER

    async def test_a_key_in_a_failure_reaches_nobody(self):
        error = {"code": "server_error", "message": "Key sk-very-secret failed"}
        found = await self.fail(ended("failed", error=error), api_key="sk-very-secret")
        assert str(found).count("[redacted]") == 1
        assert "very" not in str(found)

    async def test_a_failure_is_traced_by_its_request_id(self):
        heard = await hear(CREATED, ended("failed"), headers={"x-request-id": "r1"})
        assert heard.error.request_id == "r1"


def reasoning(number, *, encrypted=True):
    more = {"encrypted_content": "x"} if encrypted else {}
    return Raw({"type": "reasoning", "id": f"rs_{number}", "summary": [], **more})


MESSAGE = Raw({"type": "message", "id": "msg_1", "status": "completed", "phase": "commentary"})
SEARCH = Raw({"type": "web_search_call", "id": "ws_1", "status": "completed"})


def call(number):
    return ToolCall(id=f"call_{number}", name="f", arguments="{}", signature=f'{{"id": "fc_{number}"}}')


def names(found):
    return [item.get("id") or item.get("role") or item["call_id"] for item in found]


class ReplayTests(SimpleTestCase):
    """Items of a step go back together, or without what they have of each other."""

    def test_a_whole_step_goes_back_as_it_came(self):
        parts = (reasoning(1), SEARCH, reasoning(2), reasoning(3), Text("Let me "), Text("see."), MESSAGE, call(1))
        found = items(turn("assistant", *parts, Text("Then.")))
        assert names(found) == ["rs_1", "ws_1", "rs_2", "rs_3", "msg_1", "fc_1", "assistant"]
        said = {"type": "output_text", "text": "Let me see.", "annotations": []}
        assert found[4] == {**MESSAGE.data, "role": "assistant", "content": [said]}
        assert found[6] == {"role": "assistant", "content": "Then."}

    def test_reasoning_that_led_to_nothing_stays_away(self):
        assert items(turn("assistant", reasoning(1))) == []
        # The reply was cut in its words: they have no id yet.
        assert items(turn("assistant", reasoning(1), Text("Hal"))) == [{"role": "assistant", "content": "Hal"}]
        assert names(items(turn("assistant", reasoning(1), SEARCH, reasoning(2)))) == ["rs_1", "ws_1"]

    def test_without_its_reasoning_nothing_goes_with_an_id(self):
        parts = (reasoning(1, encrypted=False), SEARCH, Text("So."), MESSAGE, call(1))
        assert items(turn("assistant", *parts)) == [
            {"role": "assistant", "content": "So.", "phase": "commentary"},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        ]
        kept = items(turn("assistant", *parts), params={"store": True})
        assert names(kept) == ["rs_1", "ws_1", "msg_1", "fc_1"]

    def test_calls_that_only_a_client_could_answer_stay_away(self):
        custom = Raw({"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "f", "input": "x"})
        approval = Raw({"type": "mcp_approval_request", "id": "mcpr_1", "name": "f"})
        shell = Raw({"type": "shell_call", "id": "sh_1", "call_id": "c2"})
        output = Raw({"type": "shell_call_output", "id": "sho_1", "call_id": "c2"})
        hosted = Raw({"type": "tool_search_call", "id": "ts_1", "call_id": None})
        found = items(turn("assistant", reasoning(1), custom, approval, reasoning(2), shell, output, hosted))
        assert names(found) == ["rs_1", "rs_2", "sh_1", "sho_1", "ts_1"]

    def test_what_another_api_signed_is_left_out(self):
        foreign = ToolCall(id="a", name="f", arguments="{}", signature='{"extra_content": {"google": 1}}')
        found = items(turn("assistant", Raw({"reasoning_details": []}), MESSAGE, foreign))
        assert found == [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}]


numbers = st.sampled_from(["1", "2", "3"])
own = st.one_of(
    st.builds(reasoning, numbers, encrypted=st.booleans()),
    st.sampled_from(
        [MESSAGE, SEARCH, Raw({"type": "image_generation_call", "id": "ig_1"}), Raw({"reasoning_details": []})]
    ),
    st.builds(
        lambda kind, number: Raw({"type": kind, "id": f"x_{number}", "call_id": number}),
        st.sampled_from(["custom_tool_call", "shell_call", "shell_call_output"]),
        numbers,
    ),
    st.builds(call, numbers),
    st.builds(File, name=st.just("image.png"), mime_type=st.just("image/png"), data=st.binary(max_size=3)),
)
files = ("image/png", "application/pdf", "text/plain")


class PromptTests(SimpleTestCase):
    @given(prompt=prompts(own=own, files=files), store=st.booleans())
    def test_every_prompt_becomes_a_request_without_orphans(self, prompt, store):
        body = ResponsesProvider(model="m", params={"store": store}).request(prompt)
        json.dumps(body).encode()
        waiting = []
        for before, item in zip([{}, *body["input"]], body["input"], strict=False):
            if item.get("type") == "function_call_output":
                waiting.remove(item["call_id"])
            elif item.get("type") == "function_call":
                waiting.append(item["call_id"])
            elif item.get("role") in ("user", "system"):
                assert not waiting
                assert item["content"]
            if before.get("type") == "reasoning":
                assert "id" in item, "reasoning has to lead to something"
        assert not waiting
        assert not body["input"] or body["input"][-1].get("type") != "reasoning"
        for item in body["input"]:
            if "call_id" in item and not item["type"].startswith("function_call"):
                assert [other.get("call_id") for other in body["input"]].count(item["call_id"]) >= 2
