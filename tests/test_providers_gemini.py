from __future__ import annotations

import asyncio
import base64
import json
import os
from itertools import pairwise
from unittest import mock, skipUnless

import httpx2
import pytest
from django.test import SimpleTestCase
from google import genai
from google.genai import types
from hypothesis import example, given
from hypothesis import strategies as st

from converse.choices import ErrorType, FinishReason
from converse.deltas import (
    FileDelta,
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
from converse.providers.base import OutputSpec, ToolSpec
from converse.providers.gemini import BASE_URL, GeminiProvider
from tests.prompts import prompts
from tests.recordings import MISSING, RecordingServer, ask, available, listen, load, sse

SIGNATURE = base64.b64encode(b"signed").decode()


def chunk(*parts, finish=None, model="gemini-1", **besides):
    candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate | besides], "modelVersion": model, "responseId": "r1"}


async def hear(*events, prompt=None, status=200, headers=None, **options):
    body = events[0] if events and isinstance(events[0], bytes) else sse(*events)
    async with RecordingServer(body, status=status, headers=headers or {}) as server:
        options = {"model": "m", "api_key": "k", "base_url": server.base_url, **options}
        heard = await listen(GeminiProvider(**options), prompt)
        await server.wait_closed_by_client()
    heard.request = server.requests[0]
    return heard


def said(role, *parts):
    return PromptMessage(role=role, parts=parts)


def body_of(*turns, **fields):
    options = {"model": "gemini-3-pro", **fields.pop("settings", {})}
    return GeminiProvider(**options).request(Prompt(messages=turns, **fields))


def contents_of(*turns, **fields):
    return body_of(*turns, **fields)["contents"]


def understood(body):
    """Check a request against the models of Google's own SDK, which know no other fields than the service's."""
    for content in [*body["contents"], body.get("systemInstruction", {})]:
        types.Content.model_validate(content)
    types.GenerationConfig.model_validate(body.get("generationConfig", {}))
    types.ToolConfig.model_validate(body.get("toolConfig", {}))
    for tool in body.get("tools", ()):
        types.Tool.model_validate(tool)
    return json.dumps(body, allow_nan=False, ensure_ascii=False).encode()


class RequestTests(SimpleTestCase):
    async def test_system_messages_stand_apart_from_the_history(self):
        turns = [
            PromptMessage(role="system", text="Be kind."),
            PromptMessage(role="user", text="What is 2 + 2?"),
            PromptMessage(role="assistant", text=""),
            PromptMessage(role="system", text=" "),
            PromptMessage(role="user", text="Well?"),
            PromptMessage(role="assistant", text="4"),
            PromptMessage(role="user", text="Sure?"),
            PromptMessage(role="system", text="Be brief."),
        ]
        heard = await hear(chunk(finish="STOP"), prompt=Prompt(messages=turns))
        assert (heard.request.method, heard.request.path) == ("POST", "/models/m:streamGenerateContent?alt=sse")
        assert heard.request.headers["x-goog-api-key"] == "k"
        assert heard.request.body == {
            "systemInstruction": {"parts": [{"text": "Be kind."}, {"text": "Be brief."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "What is 2 + 2?"}, {"text": "Well?"}]},
                {"role": "model", "parts": [{"text": "4"}]},
                {"role": "user", "parts": [{"text": "Sure?"}]},
            ],
        }
        understood(heard.request.body)

    async def test_the_prompt_comes_before_the_parameters_and_those_before_the_defaults(self):
        prompt = ask(model="tunedModels/better", options={"temperature": 0.1, "labels": {"a": "b"}})
        thinking = {"thinkingLevel": "low", "includeThoughts": True}
        params = {"temperature": 1, "topK": 3, "maxOutputTokens": 7, "generationConfig": {"thinkingConfig": thinking}}
        heard = await hear(chunk(finish="STOP"), prompt=prompt, params=params, max_tokens=9)
        assert heard.request.path == "/tunedModels/better:streamGenerateContent?alt=sse"
        assert heard.request.body["labels"] == {"a": "b"}
        assert heard.request.body["generationConfig"] == {
            "temperature": 0.1,
            "topK": 3,
            "maxOutputTokens": 7,
            "thinkingConfig": thinking,
        }
        understood(heard.request.body)
        assert body_of(settings={"max_tokens": 9})["generationConfig"] == {"maxOutputTokens": 9}

    def test_a_conversation_that_the_assistant_began_gets_a_beginning(self):
        greeted = PromptMessage(role="assistant", text="Welcome!")
        opening = {"role": "user", "parts": [{"text": "Hello."}]}
        assert contents_of(greeted) == [opening, {"role": "model", "parts": [{"text": "Welcome!"}]}]
        assert contents_of(PromptMessage(role="system", text="Greet.")) == [opening]

    def test_a_turn_of_an_unknown_role_is_refused(self):
        with pytest.raises(KeyError, match="robot"):
            contents_of(PromptMessage(role="robot", text="Beep"))

    def test_the_form_of_the_answer_can_be_said(self):
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        config = body_of(
            output=OutputSpec(name="number", schema=schema),
            settings={"params": {"responseMimeType": "text/plain"}},
            options={"temperature": 0},
        )["generationConfig"]
        assert config == {"responseMimeType": "application/json", "responseJsonSchema": schema, "temperature": 0}

    async def test_without_settings_of_ones_own_it_asks_google(self):
        async def answer(request):
            assert str(request.url) == f"{BASE_URL}/models/m:streamGenerateContent?alt=sse"
            assert request.headers["x-goog-api-key"] == "from-the-environment"
            return httpx2.Response(200, content=sse(chunk({"text": "Hi"}, finish="STOP")))

        for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
            with mock.patch.dict(os.environ, {name: "from-the-environment"}):
                provider = GeminiProvider(model="m")
            line = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
            with mock.patch.object(provider, "new_client", return_value=line):
                assert (await listen(provider)).text == "Hi"
            assert line.is_closed

    async def test_vertex_is_asked_with_credentials_that_expire(self):
        class Credentials(httpx2.Auth):
            async def async_auth_flow(self, request):
                request.headers["authorization"] = "Bearer fresh"
                yield request

        async with RecordingServer(sse(chunk({"text": "Hi"}, finish="STOP"))) as server:
            base_url = f"{server.base_url}/v1/projects/p/locations/global/publishers/google/"
            heard = await listen(GeminiProvider(model="m", base_url=base_url, auth=Credentials()))
        [request] = server.requests
        assert heard.text == "Hi"
        assert request.headers["authorization"] == "Bearer fresh"
        assert request.path == (
            "/v1/projects/p/locations/global/publishers/google/models/m:streamGenerateContent?alt=sse"
        )


class ToolRequestTests(SimpleTestCase):
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tools = [ToolSpec(name="add", description="Add one.", schema=schema)]
    added = {"functionDeclarations": [{"name": "add", "description": "Add one.", "parametersJsonSchema": schema}]}

    def test_tools_stand_beside_those_that_run_at_googles(self):
        search = {"googleSearch": {}}
        body = body_of(tools=self.tools, options={"tools": [search]})
        assert body["tools"] == [self.added, search]
        assert "toolConfig" not in body
        assert body_of(options={"tools": [search]}, tool_choice="any")["tools"] == [search]
        assert "toolConfig" not in body_of(options={"tools": [search]}, tool_choice="any")
        assert "tools" not in body_of()
        understood(body)

    def test_a_tool_without_parameters_has_no_schema(self):
        tool = ToolSpec(name="now", description="Tell the time.", schema={"type": "object", "properties": {}})
        declared = {"name": "now", "description": "Tell the time."}
        assert body_of(tools=[tool])["tools"] == [{"functionDeclarations": [declared]}]

    def test_which_tool_is_to_be_called_can_be_said(self):
        retrieval = {"retrievalConfig": {"languageCode": "de"}}
        for choice, sent in (
            ("auto", {"mode": "AUTO"}),
            ("any", {"mode": "ANY"}),
            ("none", {"mode": "NONE"}),
            ("add", {"mode": "ANY", "allowedFunctionNames": ["add"]}),
        ):
            body = body_of(tools=self.tools, tool_choice=choice, settings={"params": {"toolConfig": retrieval}})
            assert body["toolConfig"] == {**retrieval, "functionCallingConfig": sent}
            understood(body)
            call = {"toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}}}
            assert body_of(tools=self.tools, tool_choice=choice, options=call)["toolConfig"] == call["toolConfig"]

    def test_results_follow_their_calls_and_stand_alone(self):
        turns = [
            said("user", Text("Add.")),
            said("assistant", Text("Gladly.")),
            said(
                "assistant",
                ToolCall(id="a", name="add", arguments='{"x": 1}', signature=SIGNATURE),
                ToolCall(id="gemini-r1-1", name="add", arguments="{}"),
            ),
            said(
                "tool_result",
                ToolResult(id="a", name="add", output="2"),
                ToolResult(id="gemini-r1-1", name="add", output="No x.", is_error=True),
            ),
            said("user", Text("Thanks.")),
            said("user", Text("Really.")),
        ]
        body = body_of(*turns)
        assert body["contents"][1:] == [
            {
                "role": "model",
                "parts": [
                    {"text": "Gladly."},
                    {"functionCall": {"id": "a", "name": "add", "args": {"x": 1}}, "thoughtSignature": SIGNATURE},
                    {"functionCall": {"name": "add", "args": {}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "a", "name": "add", "response": {"output": "2"}}},
                    {"functionResponse": {"name": "add", "response": {"error": "No x."}}},
                ],
            },
            {"role": "user", "parts": [{"text": "Thanks."}, {"text": "Really."}]},
        ]
        understood(body)

    def test_a_result_without_a_call_is_left_out(self):
        stray = said("tool_result", ToolResult(id="a", name="add", output="2"))
        assert contents_of(said("user", Text("Hi")), stray) == [{"role": "user", "parts": [{"text": "Hi"}]}]

    def test_a_call_that_another_model_made_says_so(self):
        calls = [ToolCall(id=name, name=name, arguments="{}") for name in "ab"]
        results = [ToolResult(id=name, name=name, output="1") for name in "ab"]
        turns = [said("assistant", *calls), said("tool_result", *results)]
        for model, signatures in (
            ("gemini-3-pro", ["skip_thought_signature_validator", None]),
            ("gemini-flash-latest", ["skip_thought_signature_validator", None]),
            ("gemini-2.5-flash", [None, None]),
            ("gemini-1.5-pro", [None, None]),
            ("gemma-4", [None, None]),
        ):
            _, called, _ = contents_of(*turns, model=model)
            assert [part.get("thoughtSignature") for part in called["parts"]] == signatures, model


class FileTests(SimpleTestCase):
    def test_files_go_in_their_place(self):
        data = base64.b64encode(b"\x00\xff").decode()
        for kind, sent in (
            ("image/png", "image/png"),
            ("Application/PDF", "application/pdf"),
            ("audio/wav", "audio/wav"),
            ("video/mp4", "video/mp4"),
            ("text/markdown; charset=utf-8", "text/plain"),
            ("application/json", "text/plain"),
        ):
            body = body_of(said("user", File(name="it", mime_type=kind, data=b"\x00\xff"), Text("What is this?")))
            blob = {"inlineData": {"mimeType": sent, "data": data}}
            assert body["contents"] == [{"role": "user", "parts": [blob, {"text": "What is this?"}]}]
            understood(body)

    async def test_a_file_that_gemini_cannot_take_is_named_before_anything_is_sent(self):
        for kind in ("image/gif", "application/zip", ""):
            prompt = Prompt(messages=[said("user", File(name="it", mime_type=kind, data=b"x"))])
            async with RecordingServer() as server:
                error = (await listen(GeminiProvider(model="m", base_url=server.base_url), prompt)).error
            assert (error.type, error.retryable, server.requests) == (ErrorType.INVALID, False, [])
            assert (kind or "unknown") in str(error)


class ReadingTests(SimpleTestCase):
    async def test_a_reply_starts_with_its_model_and_ends_with_its_usage_and_finish(self):
        first = {"promptTokenCount": 9, "thoughtsTokenCount": 4, "totalTokenCount": 13}
        last = {
            "promptTokenCount": 9,
            "cachedContentTokenCount": 5,
            "toolUsePromptTokenCount": 2,
            "candidatesTokenCount": 3,
            "thoughtsTokenCount": 4,
            "totalTokenCount": 18,
        }
        heard = await hear(
            {**chunk({"text": "Hmm", "thought": True}), "usageMetadata": first},
            {**chunk({"text": "Hi"}), "usageMetadata": first},
            {**chunk({"text": ""}, finish="STOP"), "usageMetadata": last},
        )
        assert heard.deltas == [
            Started(request_id="r1", model="gemini-1"),
            Usage(input=9, output=4, reasoning=4, raw=first),
            ReasoningDelta(text="Hmm"),
            TextDelta("Hi"),
            Usage(input=6, cached_input=5, output=7, reasoning=4, raw=last),
            Finish(reason=FinishReason.STOP, raw="STOP"),
        ]

    async def test_counts_that_are_not_told_are_unknown(self):
        heard = await hear({**chunk(finish="STOP"), "usageMetadata": {"trafficType": "ON_DEMAND"}})
        assert heard.usage == Usage(raw={"trafficType": "ON_DEMAND"})

    async def test_a_reply_is_traced_by_its_request_id(self):
        heard = await hear(chunk(finish="STOP"), headers={"x-request-id": "req_1"})
        assert heard.deltas[0] == Started(request_id="req_1", model="gemini-1")

    async def test_signatures_stay_with_their_parts(self):
        heard = await hear(
            chunk({"text": "Hmm", "thought": True, "thoughtSignature": SIGNATURE}, {"thought": True}),
            chunk({"text": "He", "thoughtSignature": SIGNATURE}, {"text": "llo"}, {"text": ""}),
            chunk({"text": "", "thoughtSignature": SIGNATURE}, finish="STOP"),
        )
        assert heard.parts == [
            Reasoning("Hmm", SIGNATURE),
            Text("He", SIGNATURE),
            Text("llo"),
            Text("", SIGNATURE),
        ]
        assert contents_of(said("assistant", *heard.parts))[1]["parts"] == [
            {"text": "Hmm", "thought": True, "thoughtSignature": SIGNATURE},
            {"text": "He", "thoughtSignature": SIGNATURE},
            {"text": "llo"},
            {"text": "", "thoughtSignature": SIGNATURE},
        ]

    async def test_calls_are_numbered_and_those_without_an_id_get_one(self):
        heard = await hear(
            chunk({"functionCall": {"name": "add", "args": {"x": "ü"}, "id": "a"}, "thoughtSignature": SIGNATURE}),
            chunk({"functionCall": {"name": "now"}}, {"functionCall": {"name": "now", "args": {}}}, finish="STOP"),
        )
        assert heard.deltas[1:] == [
            ToolCallDelta(index=0, id="a", name="add", arguments='{"x": "ü"}', signature=SIGNATURE),
            ToolCallDelta(index=1, id="gemini-r1-1", name="now", arguments="{}"),
            ToolCallDelta(index=2, id="gemini-r1-2", name="now", arguments="{}"),
            Finish(reason=FinishReason.TOOL_CALLS, raw="STOP"),
        ]

    async def test_an_image_is_a_file_and_goes_back_with_its_signature(self):
        image = {"inlineData": {"mimeType": "image/png", "data": "AP8="}, "thoughtSignature": SIGNATURE}
        sketch = {"thought": True, "inlineData": {"mimeType": "image/png", "data": "AP8="}}
        heard = await hear(chunk(sketch), chunk({"text": "Here:"}, image, {}, finish="STOP"))
        assert heard.of(FileDelta) == [FileDelta(data=b"\x00\xff", mime_type="image/png")]
        assert contents_of(said("assistant", *heard.parts))[1]["parts"] == [{"text": "Here:"}, image]
        del image["thoughtSignature"]
        heard = await hear(chunk(image, finish="STOP"))
        assert contents_of(said("assistant", *heard.parts))[1]["parts"] == [image]

    async def test_what_googles_own_tools_did_goes_back_as_it_came(self):
        code = {"executableCode": {"language": "PYTHON", "code": "1", "id": "c"}, "thoughtSignature": SIGNATURE}
        result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1", "id": "c"}}
        heard = await hear(chunk(code, result, {"text": "It is 1."}, finish="STOP"))
        assert heard.of(RawBlock) == [RawBlock(code), RawBlock(result)]
        assert contents_of(said("assistant", *heard.parts))[1]["parts"] == [code, result, {"text": "It is 1."}]

    async def test_each_source_is_told_once(self):
        web = {"web": {"uri": "https://example.org/a", "title": "A"}}
        passage = {"retrievedContext": {"title": "B", "text": "Wet."}}
        image = {"image": {"sourceUri": "https://example.org/c"}}
        heard = await hear(
            chunk({"text": "Rain."}, groundingMetadata={"groundingChunks": [web, passage]}),
            chunk(finish="STOP", groundingMetadata={"groundingChunks": [web, passage, image], "webSearchQueries": []}),
        )
        assert heard.sources == [
            SourceDelta(url="https://example.org/a", title="A"),
            SourceDelta(title="B", text="Wet."),
            SourceDelta(url="https://example.org/c"),
        ]

    async def test_of_several_candidates_the_first_is_heard(self):
        second = {"index": 1, "content": {"parts": [{"text": "No"}]}, "finishReason": "SAFETY"}
        event = chunk({"text": "Yes"}, finish="STOP")
        event["candidates"].append(second)
        heard = await hear(event)
        assert (heard.text, heard.finish.raw) == ("Yes", "STOP")

    async def test_a_reply_ends_for_reasons_common_to_all_providers(self):
        for word, reason in (
            ("MAX_TOKENS", FinishReason.LENGTH),
            ("SAFETY", FinishReason.CONTENT_FILTER),
            ("RECITATION", FinishReason.CONTENT_FILTER),
            ("PROHIBITED_CONTENT", FinishReason.CONTENT_FILTER),
            ("LANGUAGE", FinishReason.OTHER),
            ("BRAND_NEW", FinishReason.OTHER),
        ):
            assert (await hear(chunk({"text": "Hi"}, finish=word))).finish == Finish(reason=reason, raw=word)

    async def test_an_answer_that_reaches_a_limit_goes_on_where_it_stopped(self):
        event = chunk({"text": "Once"}, continuationToken="dG9r")
        heard = await hear(event, chunk({"text": " upon"}, finish="CONTINUATION"))
        assert heard.finish == Finish(reason=FinishReason.PAUSE, raw="CONTINUATION")
        asked, reply, more = said("user", Text("Tell.")), said("assistant", *heard.parts), said("user", Text("More."))
        body = body_of(asked, reply)
        assert body["continuationToken"] == "dG9r"
        assert body["contents"] == [{"role": "user", "parts": [{"text": "Tell."}]}]
        assert body_of(asked, said("assistant", heard.parts[-1]))["contents"] == body["contents"]
        later = body_of(asked, reply, more)
        assert "continuationToken" not in later
        assert later["contents"][1] == {"role": "model", "parts": [{"text": "Once upon"}]}
        finished = await hear(event, chunk({"text": " upon"}, finish="STOP"))
        assert finished.of(RawBlock) == []

    async def test_line_separators_inside_a_text_are_not_line_ends(self):
        text = "a\u2028b\x85c\x0bd"
        raw = json.dumps(chunk({"text": text}, finish="STOP"), ensure_ascii=False).encode()
        for end in (b"\n", b"\r\n"):
            body = b": hello" + end + b"event: x" + end + b"data:" + raw + end * 2
            async with RecordingServer(body, split=range(len(body))) as server:
                heard = await listen(GeminiProvider(model="m", base_url=server.base_url))
            assert heard.text == text


class FailureTests(SimpleTestCase):
    async def test_a_blocked_prompt_is_no_empty_answer(self):
        usage = {"promptTokenCount": 4}
        heard = await hear({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage})
        assert (heard.error.type, heard.error.retryable) == (ErrorType.CONTENT_BLOCKED, False)
        assert "PROHIBITED_CONTENT" in str(heard.error)
        assert (heard.usage.input, heard.finish) == (4, None)

    async def test_a_model_that_failed_may_be_asked_again(self):
        for word in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MALFORMED_RESPONSE"):
            event = chunk(finish=word, finishMessage="Malformed: add(x")
            heard = await hear({**event, "usageMetadata": {"promptTokenCount": 4}})
            assert (heard.error.type, heard.error.retryable, heard.error.request_id) == (ErrorType.SERVER, True, "r1")
            assert f"{word}. Malformed: add(x" in str(heard.error)
            assert (heard.usage.input, heard.finish) == (4, None)

    async def test_an_error_in_mid_stream_keeps_what_came(self):
        for code, status, kind in (
            (503, "UNAVAILABLE", ErrorType.OVERLOADED),
            (429, "RESOURCE_EXHAUSTED", ErrorType.RATE_LIMITED),
            (499, "CANCELLED", ErrorType.SERVER),
            (500, "INTERNAL", ErrorType.SERVER),
            (400, "INVALID_ARGUMENT", ErrorType.INVALID),
        ):
            error = {"error": {"code": code, "message": "Sorry", "status": status}}
            text = sse(chunk({"text": "Hal"}))
            for said in (sse(error), json.dumps(error, indent=2).encode(), json.dumps([error]).encode() + b"\r\n"):
                heard = await hear(text + said, headers={"x-request-id": "req_2"})
                assert heard.text == "Hal"
                assert (heard.error.type, heard.error.request_id) == (kind, "req_2")
                assert "Sorry" in str(heard.error)

    async def test_words_beside_the_events_are_no_error(self):
        heard = await hear(sse(chunk({"text": "Hi"}, finish="STOP")) + b'<!-- bye -->\n{"ok": true}')
        assert (heard.text, heard.error) == ("Hi", None)

    async def test_a_busy_service_says_in_its_error_how_long_to_wait(self):
        for delay, seconds in (("37s", 37.0), ("1.5s", 1.5), ("soon", None), (7, None)):
            details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}]
            error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota.", "details": details}}
            heard = await hear(json.dumps([error]).encode(), status=429)
            assert (heard.error.type, heard.error.retry_after) == (ErrorType.RATE_LIMITED, seconds)
        heard = await hear(b'{"error": {"details": ["?"]}}', status=429)
        assert heard.error.retry_after is None

    async def test_a_wrong_key_is_a_matter_of_set_up(self):
        error = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "API key not valid."}}
        heard = await hear(json.dumps(error).encode(), status=400)
        assert heard.error.type == ErrorType.AUTHENTICATION


class CancellingTests(SimpleTestCase):
    async def test_a_reply_cancelled_in_any_state_hangs_up_at_once(self):
        thought = chunk({"text": "Hmm", "thought": True})
        called = chunk({"functionCall": {"name": "add", "args": {"x": 1}}})
        for events in ((), (thought,), (thought, chunk({"text": "Hi"})), (thought, called)):
            whole = sse(*events)
            for body in (whole, whole[:-9]):
                async with RecordingServer(body, stall_headers=not events, stall_at=len(body)) as server:
                    task = asyncio.create_task(listen(GeminiProvider(model="m", base_url=server.base_url)))
                    await (server.stalled if events else server.requested).wait()
                    task.cancel()
                    await server.wait_closed_by_client(seconds=1)
                    with pytest.raises(asyncio.CancelledError):
                        await task


@skipUnless(available(), MISSING)
class RecordedReplayTests(SimpleTestCase):
    async def test_every_recorded_reply_goes_back_as_it_came(self):
        kinds = set()
        for recording in load("gemini.generateContent"):
            if recording.status != 200:
                continue
            heard = await self.play(recording)
            results = [ToolResult(id=call["id"], name=call["name"], output="1") for call in heard.tool_calls]
            after = [said("tool_result", *results)] if results else [said("user", Text("And?"))]
            body = body_of(said("user", Text("?")), said("assistant", *heard.parts), *after, model="gemini-2.5-pro")
            understood(body)
            _, back, answer = body["contents"]
            came = parts_of(recording)
            kinds |= {name for part in came for name in part}
            with self.subTest(recording.name):
                assert back == {"role": "model", "parts": came}
                assert not results or [part["functionResponse"].get("id") for part in answer["parts"]] == [
                    part["functionCall"].get("id") for part in came if "functionCall" in part
                ]
        assert kinds == {"text", "thoughtSignature", "functionCall", "executableCode", "codeExecutionResult"}

    async def test_googles_own_sdk_reads_the_same(self):
        for recording in load("gemini.generateContent"):
            if recording.status == 200 and "error" not in recording.expected:
                heard = await self.play(recording)
                chunks = await self.read(recording)
                candidates = [candidate for one in chunks for candidate in one.candidates]
                parts = [part for one in candidates for part in (one.content and one.content.parts) or ()]
                with self.subTest(recording.name):
                    assert heard.text == "".join(part.text or "" for part in parts if not part.thought)
                    assert heard.reasoning == "".join(part.text or "" for part in parts if part.thought)
                    assert [(call["name"], json.loads(call["arguments"])) for call in heard.tool_calls] == [
                        (part.function_call.name, part.function_call.args) for part in parts if part.function_call
                    ]
                    assert heard.finish.raw == candidates[-1].finish_reason
                    told = [one.usage_metadata for one in chunks if one.usage_metadata]
                    if told:
                        assert (heard.usage.cached_input or 0) + heard.usage.input + heard.usage.output == (
                            told[-1].total_token_count
                        )

    async def play(self, recording):
        async with RecordingServer.of(recording) as server:
            return await listen(GeminiProvider(model="m", base_url=server.base_url))

    async def read(self, recording):
        async with RecordingServer.of(recording) as server, httpx2.AsyncClient() as line:
            with httpx2.Client() as unused:
                options = types.HttpOptions(
                    base_url=server.base_url, httpx_async_client=line, httpx_client=unused, timeout=60_000
                )
                client = genai.Client(api_key="k", http_options=options)
                stream = await client.aio.models.generate_content_stream(model="m", contents="?")
                return [one async for one in stream]


def parts_of(recording):
    """Return the parts of a recorded reply that go back, read without the provider."""
    parts = []
    for line in recording.body.decode().splitlines():
        event = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
        for candidate in event.get("candidates", ()):
            for part in candidate.get("content", {}).get("parts", ()):
                unsigned = part.keys() == {"text"}
                if unsigned and parts and parts[-1].keys() == {"text"}:
                    parts[-1] = {"text": parts[-1]["text"] + part["text"]}
                elif not part.get("thought") and part != {"text": ""}:
                    parts.append(part)
    return parts


class EveryPromptTests(SimpleTestCase):
    own = (
        st.sampled_from(
            [Raw({"executableCode": {"code": "1", "language": "PYTHON"}}), Raw({"continuationToken": "dA"})]
        )
        | st.builds(Text, st.text(max_size=3), st.just(SIGNATURE))
        | st.builds(Reasoning, st.text(max_size=3), st.just(SIGNATURE))
    )
    files = ("image/png", "application/pdf", "audio/wav", "text/csv", "application/json")

    @given(prompt=prompts(own=own, files=files), model=st.sampled_from(["gemini-2.5-pro", "gemini-3-pro"]))
    @example(prompt=Prompt(messages=[]), model="m")
    def test_a_request_keeps_geminis_rules_whatever_was_said(self, prompt, model):
        body = GeminiProvider(model=model).request(prompt)
        understood(body)
        contents = body["contents"]
        assert contents[0]["role"] == "user"
        for first, second in pairwise(contents):
            assert first["role"] != second["role"] or answers(first)
            assert len(calls(first)) == len(answers(second))
            assert [call["name"] for call in calls(first)] == [answer["name"] for answer in answers(second)]
            assert [call.get("id") for call in calls(first)] == [answer.get("id") for answer in answers(second)]
        assert not answers(contents[0])
        assert not calls(contents[-1])
        for content in contents:
            assert content["parts"]
            assert {"text": ""} not in content["parts"]
            assert len(answers(content)) in {0, len(content["parts"])}


def calls(content):
    return [part["functionCall"] for part in content["parts"] if "functionCall" in part]


def answers(content):
    return [part["functionResponse"] for part in content["parts"] if "functionResponse" in part]
