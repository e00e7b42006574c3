from __future__ import annotations

import base64
import copy
import io
import json
import re
import wave
from itertools import pairwise

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
from converse.providers.mistral import MistralProvider
from converse.providers.openai import OpenAIProvider
from converse.providers.openai_api import permits_strict
from tests.prompts import prompts
from tests.recordings import RecordingServer, ask, listen, sse

STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def said(**delta):
    return {"id": "c1", "model": "m-1", "choices": [{"index": 0, "delta": delta}]}


def called(**call):
    return said(tool_calls=[call])


def finished(word):
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": word}]}


async def hear(*chunks, prompt=None, headers=None, **options):
    async with RecordingServer(sse(*chunks, "[DONE]"), headers=headers or {}) as server:
        heard = await listen(OpenAIProvider(**{"model": "m", "base_url": server.base_url, **options}), prompt)
    heard.request = server.requests[0]
    return heard


async def requested(prompt=None, **options):
    return (await hear(said(content="Hi"), STOP, prompt=prompt, **options)).request.body


def turn(role, *parts):
    return PromptMessage(role=role, parts=parts)


def messages(*turns, **options):
    provider = OpenAIProvider(**{"model": "m", "base_url": "http://there.test", **options})
    return provider.request(Prompt(messages=turns))["messages"]


def asked(provider=None, **fields):
    return (provider or OpenAIProvider(model="m")).request(ask(**fields))


class RequestTests(SimpleTestCase):
    async def test_the_history_is_sent_in_order_and_in_openais_words(self):
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
        heard = await hear(said(content="Four."), STOP, prompt=Prompt(messages=turns))
        assert (heard.request.method, heard.request.path) == ("POST", "/chat/completions")
        assert heard.request.body == {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "What is 2 + 2?"},
                {
                    "role": "assistant",
                    "content": "I'll add.",
                    "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 2,"y":2}'}},
                        {"id": "b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
                    ],
                },
                {"role": "tool", "tool_call_id": "a", "content": "4"},
                {"role": "tool", "tool_call_id": "b", "content": ""},
                {"role": "system", "content": "Be brief."},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def test_turns_that_say_nothing_are_left_out(self):
        nothing = [turn(role, Text(" ")) for role in ("system", "user", "assistant")]
        stray = turn("tool_result", Text("no result"))
        assert messages(*nothing, turn("assistant", Reasoning("Hmm.")), stray) == []

    def test_a_call_without_words_has_no_content(self):
        [said] = messages(turn("assistant", ToolCall(id="a", name="now", arguments="{}")))
        assert said["content"] is None

    def test_arguments_that_are_no_object_are_mended_for_they_would_be_refused(self):
        for written, sent in (('{"x', {"arguments": '{"x'}), ("[1]", {"arguments": [1]}), ("null", {})):
            [said] = messages(turn("assistant", ToolCall(id="a", name="f", arguments=written)))
            assert json.loads(said["tool_calls"][0]["function"]["arguments"]) == sent

    async def test_a_role_that_does_not_exist_is_refused_before_anything_is_sent(self):
        for role in ("tool_call", "robot"):
            async with RecordingServer() as server:
                provider = OpenAIProvider(model="m", base_url=server.base_url)
                heard = await listen(provider, Prompt(messages=[PromptMessage(role=role, text="Beep")]))
            assert (heard.error.type, server.requests) == (ErrorType.INVALID, [])
            assert role in str(heard.error)

    def test_a_foreign_id_that_openai_would_refuse_becomes_another_in_the_call_and_its_result(self):
        long = "call_" + "x" * 60
        turns = [
            turn("assistant", ToolCall(id=long, name="f", arguments="{}"), ToolCall(id="a", name="f", arguments="{}")),
            turn("tool_result", ToolResult(id=long, name="f", output="1"), ToolResult(id="a", name="f", output="2")),
        ]
        [said, first, second] = messages(*turns, base_url=None)
        [short, kept] = [call["id"] for call in said["tool_calls"]]
        assert (len(short), kept) == (40, "a")
        assert (first["tool_call_id"], second["tool_call_id"]) == (short, kept)
        assert messages(*turns)[0]["tool_calls"][0]["id"] == long

    async def test_deepseek_gets_its_reasoning_back_where_it_asks_for_it(self):
        turns = [turn("assistant", Reasoning("Hmm"), Reasoning("."), ToolCall(id="a", name="f", arguments="{}"))]
        assert "reasoning_content" not in messages(*turns)[0]
        assert messages(*turns, replay_reasoning=True)[0]["reasoning_content"] == "Hmm."
        # Of another provider's call it has none, and refuses a call without any.
        turns = [turn("assistant", ToolCall(id="a", name="f", arguments="{}"))]
        assert messages(*turns, replay_reasoning=True)[0]["reasoning_content"] == "."
        assert "reasoning_content" not in messages(turn("assistant", Text("Hi")), replay_reasoning=True)[0]

    def test_reasoning_and_signatures_of_another_api_are_left_out(self):
        foreign = [Raw({"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}), Raw({"parts": []})]
        signed = [ToolCall(id="a", name="f", arguments="{}", signature=text) for text in ('{"id": "fc_1"}', "x", "[1]")]
        [said] = messages(turn("assistant", *foreign, *signed))
        assert set(said) == {"role", "content", "tool_calls"}
        assert all(set(call) == {"id", "type", "function"} for call in said["tool_calls"])

    async def test_azures_own_client_sends_to_the_deployment(self):
        async with (
            RecordingServer(sse(said(content="Hi"), STOP, "[DONE]")) as server,
            AsyncAzureOpenAI(api_key="k", api_version="2026-01-01", azure_endpoint=server.base_url) as client,
        ):
            heard = await listen(OpenAIProvider(model="gpt-x", client=client))
        [request] = server.requests
        assert heard.text == "Hi"
        assert request.path == "/openai/deployments/gpt-x/chat/completions?api-version=2026-01-01"
        assert request.headers["api-key"] == "k"


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
        own = {"type": "web_search"}
        body = asked(OpenAIProvider(model="m", params={"tools": [own, own]}), tools=[add, now])
        assert body["tools"] == [
            {
                "type": "function",
                "function": {"name": "add", "description": "Add.", "parameters": SCHEMA, "strict": True},
            },
            {"type": "function", "function": {"name": "now", "parameters": LOOSE}},
            own,
        ]
        assert asked(tools=[now], options={"tools": [own]})["tools"][1:] == [own]
        assert asked(options={"tools": [own]})["tools"] == [own]

    def test_other_servers_are_told_nothing_about_the_strictness_of_tools(self):
        add = ToolSpec(name="add", description="", schema=SCHEMA)
        body = asked(OpenAIProvider(model="m", base_url="http://there.test"), tools=[add])
        assert body["tools"][0]["function"] == {"name": "add", "parameters": SCHEMA}

    def test_the_choice_of_tools_is_put_in_openais_words(self):
        tools = [ToolSpec(name="add", description="", schema=SCHEMA)]
        named = {"type": "function", "function": {"name": "add"}}
        for choice, sent in (("auto", "auto"), ("any", "required"), ("none", "none"), ("add", named)):
            assert asked(tools=tools, tool_choice=choice)["tool_choice"] == sent
        assert "tool_choice" not in asked(tools=tools)
        assert "tool_choice" not in asked(tool_choice="none"), "without tools a choice is refused"
        assert asked(tool_choice="any", options={"tools": [{"type": "x"}]})["tool_choice"] == "required"

    def test_a_form_for_the_answer_is_a_schema_which_is_strict_if_it_can_be(self):
        for schema, strict in ((SCHEMA, True), (LOOSE, False)):
            before = copy.deepcopy(schema)
            body = asked(output=OutputSpec(name="The sum of it", schema=schema))
            sent = {"name": "The_sum_of_it", "schema": schema, "strict": strict}
            assert body["response_format"] == {"type": "json_schema", "json_schema": sent}
            assert schema == before

    def test_the_calls_own_words_come_before_what_is_asked_and_that_before_the_settings(self):
        provider = OpenAIProvider(model="m", params={"response_format": {"type": "text"}})
        output = OutputSpec(name="sum", schema=SCHEMA)
        assert asked(provider, output=output)["response_format"]["type"] == "json_schema"
        body = asked(provider, output=output, options={"response_format": {"type": "json_object"}})
        assert body["response_format"]["type"] == "json_object"


class StrictTests(SimpleTestCase):
    def test_a_schema_is_strict_if_nothing_is_optional_and_nothing_unknown(self):
        inner = {"type": ["object", "null"], "properties": {}, "additionalProperties": False}
        for part in (
            {"type": "string", "format": "date-time", "pattern": "^a"},
            {"type": "array", "items": {"$ref": "#/$defs/A"}, "minItems": 1},
            {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "A"},
            {"enum": ["a"], "type": "string"},
            inner,
        ):
            assert permits_strict({**SCHEMA, "properties": {"x": part}, "$defs": {"A": SCHEMA}}), part

    def test_what_openai_would_refuse_as_strict_is_not(self):
        for part in (
            True,
            {},
            {"enum": ["a"]},
            {"type": "string", "minLength": 1},
            {"type": "string", "format": "binary"},
            {"type": "string", "pattern": "(?=a)"},
            {"$ref": "#/$defs/A", "description": "Described"},
            {"type": "object", "additionalProperties": {"type": "integer"}},
            {"type": ["object", "null"], "properties": {}},
            {"type": "array", "items": {"type": "object"}},
            {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            {"anyOf": [{"type": "object"}]},
            {"type": "integer", "default": 1},
        ):
            assert not permits_strict({**SCHEMA, "properties": {"x": part}}), part
        assert not permits_strict({**SCHEMA, "$defs": {"A": LOOSE}})
        assert not permits_strict({**SCHEMA, "definitions": {"A": LOOSE}})
        assert not permits_strict({**SCHEMA, "required": []})
        assert not permits_strict({"type": "array", "items": {"type": "integer"}})
        assert not permits_strict({})


class FileTests(SimpleTestCase):
    def block(self, mime_type, data=b"data", name="a.b"):
        [sent] = messages(turn("user", Text("See"), File(name=name, mime_type=mime_type, data=data)))
        [text, block] = sent["content"]
        assert text == {"type": "text", "text": "See"}
        return block

    def test_an_image_goes_inside_the_message(self):
        for kind in ("image/png", "image/jpeg", "image/webp", "image/gif"):
            url = f"data:{kind};base64,ZGF0YQ=="
            assert self.block(kind.upper()) == {"type": "image_url", "image_url": {"url": url}}

    def test_sound_goes_by_its_format(self):
        for kind, name in (("audio/x-wav", "wav"), ("audio/mpeg", "mp3")):
            assert self.block(kind) == {"type": "input_audio", "input_audio": {"data": "ZGF0YQ==", "format": name}}

    def test_a_document_goes_with_its_name(self):
        for name, sent in (("a.pdf", "a.pdf"), ("", "document.pdf")):
            file = {"filename": sent, "file_data": "data:application/pdf;base64,ZGF0YQ=="}
            assert self.block("application/pdf", name=name) == {"type": "file", "file": file}

    def test_a_text_goes_as_text(self):
        for kind in ("text/markdown; charset=utf-8", "application/json", "image/svg+xml"):
            assert self.block(kind, "\ufeffGrüße".encode()) == {"type": "text", "text": "a.b:\n\nGrüße"}

    def test_files_alone_are_a_message_too(self):
        [sent] = messages(turn("user", Text(" "), File(name="a", mime_type="image/png", data=b"")))
        assert [block["type"] for block in sent["content"]] == ["image_url"]

    async def test_a_file_of_another_type_is_refused_by_its_type_before_anything_is_sent(self):
        for kind in ("video/mp4", "image/bmp", "application/zip", ""):
            file = File(name="it", mime_type=kind, data=b"")
            async with RecordingServer() as server:
                provider = OpenAIProvider(model="m", base_url=server.base_url)
                error = (await listen(provider, Prompt(messages=[turn("user", file)]))).error
            assert (error.type, server.requests) == (ErrorType.INVALID, [])
            assert (kind or "unknown") in str(error)


def paired(messages):
    """Fail unless each call is followed by its result, and each result follows its call."""
    waiting = []
    for message in messages:
        if message["role"] == "tool":
            waiting.remove(message["tool_call_id"])
        else:
            assert not waiting
            waiting = [call["id"] for call in message.get("tool_calls", ())]
    assert not waiting


details = st.fixed_dictionaries({"type": st.just("reasoning.text"), "text": st.text(max_size=5)})
own = (
    st.builds(lambda found: Raw({"reasoning_details": found}), st.lists(details, max_size=2))
    | st.builds(
        ToolCall,
        id=st.text(max_size=3),
        name=st.just("f"),
        arguments=st.just("{}"),
        signature=st.just('{"extra_content": {"google": {"thought_signature": "x"}}}'),
    )
    | st.builds(File, name=st.just("image.png"), mime_type=st.just("image/png"), data=st.binary(max_size=3))
)
files = ("image/png", "audio/wav", "application/pdf", "text/plain", "application/json")


class PromptTests(SimpleTestCase):
    @given(prompt=prompts(own=own, files=files), there=st.booleans(), reasoning=st.booleans())
    def test_every_prompt_becomes_a_request_without_orphans(self, prompt, there, reasoning):
        where = "http://there.test" if there else None
        body = OpenAIProvider(model="m", base_url=where, replay_reasoning=reasoning).request(prompt)
        json.dumps(body).encode()
        paired(body["messages"])
        assert all(
            message["content"] or message.get("tool_calls") or message["role"] == "tool" for message in body["messages"]
        )

    @given(prompt=prompts(own=own, files=files))
    def test_mistral_gets_it_in_an_order_that_it_takes(self, prompt):
        messages = MistralProvider(model="m").request(prompt)["messages"]
        paired(messages)
        roles = [message["role"] for message in messages]
        assert not {*pairwise(roles)} & {
            ("tool", "user"),
            ("tool", "system"),
            ("assistant", "system"),
            ("user", "system"),
        }
        for message in messages:
            called = [call["id"] for call in message.get("tool_calls", ())]
            assert bool(called) != bool(message["content"]) or message["role"] == "tool"
            for call_id in [*called, *([message["tool_call_id"]] if "tool_call_id" in message else [])]:
                assert re.fullmatch("[a-zA-Z0-9]{9}", call_id)


class OptionTests(SimpleTestCase):
    async def test_the_prompt_comes_before_the_parameters_and_those_before_the_defaults(self):
        prompt = ask(model="better", options={"temperature": 0.1, "stream": False})
        body = await requested(prompt, params={"temperature": 1, "top_k": 5, "stream_options": {"other": 1}})
        assert (body["model"], body["temperature"], body["top_k"]) == ("better", 0.1, 5)
        assert (body["stream"], body["stream_options"]) == (True, {"other": 1})

    async def test_usage_need_not_be_asked_for(self):
        assert "stream_options" not in await requested(include_usage=False)

    async def test_the_limit_goes_by_the_name_that_the_server_knows(self):
        assert (await requested(max_tokens=9))["max_tokens"] == 9
        assert OpenAIProvider(max_tokens=9).request(ask())["max_completion_tokens"] == 9

    async def test_headers_are_sent_along(self):
        async with RecordingServer(sse(said(content="Hi"), STOP)) as server:
            await listen(OpenAIProvider(model="m", base_url=server.base_url, headers={"X-Title": "Converse"}))
        assert server.requests[0].headers["x-title"] == "Converse"

    async def test_a_reply_is_traced_by_its_request_id(self):
        heard = await hear(said(content="Hi"), STOP, headers={"x-request-id": "r1"})
        assert heard.deltas[0] == Started(request_id="r1", model="m-1")


class ReadingTests(SimpleTestCase):
    async def test_a_reply_starts_with_its_model_and_ends_with_its_usage_and_finish(self):
        about_the_prompt = {"id": "", "model": "", "choices": []}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        heard = await hear(
            about_the_prompt,
            said(role="assistant", content="", refusal=None),
            said(content="Hi"),
            {"choices": [{"index": 0, "delta": None}]},
            STOP,
            {"choices": [], "usage": usage},
            {"choices": [], "usage": usage},
        )
        assert heard.deltas == [
            Started(request_id="c1", model="m-1"),
            TextDelta("Hi"),
            Usage(input=9, output=1, raw=usage),
            Finish(reason=FinishReason.STOP, raw="stop"),
        ]

    async def test_only_the_first_of_several_answers_is_heard(self):
        both = {"choices": [{"index": 1, "delta": {"content": "No"}}, {"index": 0, "delta": {"content": "Yes"}}]}
        other = {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]}
        heard = await hear(both, other, STOP)
        assert (heard.text, heard.finish.raw) == ("Yes", "stop")

    async def test_reasoning_under_two_names_is_heard_once(self):
        details = [{"type": "reasoning.text", "text": "Hmm"}]
        heard = await hear(
            said(reasoning="Hmm", reasoning_content="Hmm", reasoning_details=details, content=None),
            said(reasoning=".", reasoning_content=None, reasoning_details=[{"type": "reasoning.text", "text": "."}]),
            said(reasoning_details=[{"summary": " So"}, {"type": "reasoning.encrypted", "data": "x"}, {"text": "!"}]),
            said(reasoning=" Right.", reasoning_content={"no": "text"}),
            said(content="Yes"),
            STOP,
        )
        assert heard.of(ReasoningDelta) == [
            ReasoningDelta(text="Hmm"),
            ReasoningDelta(text="."),
            ReasoningDelta(text=" So!"),
            ReasoningDelta(text=" Right."),
        ]
        assert heard.text == "Yes"

    async def test_openrouters_reasoning_is_put_together_and_goes_back_as_it_came(self):
        thought = {"type": "reasoning.text", "index": 0}
        secret = {"type": "reasoning.encrypted", "data": "x", "index": 1}
        heard = await hear(
            said(reasoning_details=[{**thought, "text": "Hm", "format": None}]),
            said(reasoning_details=[{**thought, "text": "m."}]),
            said(reasoning_details=[{**thought, "text": None, "signature": "s", "format": "f"}, secret, secret]),
            called(index=0, id="a", function={"name": "f", "arguments": "{}"}),
            finished("tool_calls"),
            finished("tool_calls"),
        )
        details = [{**thought, "text": "Hmm.", "format": "f", "signature": "s"}, secret, secret]
        assert heard.of(RawBlock) == [RawBlock({"reasoning_details": details})]
        [sent] = messages(turn("assistant", *heard.parts))
        assert sent["reasoning_details"] == details

    async def test_googles_signature_goes_back_with_its_call(self):
        extra = {"google": {"thought_signature": "c2ln"}}
        heard = await hear(
            called(index=0, id="a", function={"name": "f", "arguments": "{}"}, extra_content=extra), STOP
        )
        [sent] = messages(turn("assistant", *heard.parts))
        assert sent["tool_calls"][0]["extra_content"] == extra

    async def test_what_an_answer_cites_is_a_source(self):
        cited = {"url": "https://a.test", "title": "A", "start_index": 0, "content": "So it is."}
        heard = await hear(
            said(
                annotations=[{"type": "url_citation", "url_citation": cited}, {"type": "file", "file": {"hash": "1"}}]
            ),
            said(content="Yes", annotations=None),
            STOP,
        )
        assert heard.sources == [SourceDelta(url="https://a.test", title="A", text="So it is.")]

    async def test_the_sources_of_a_whole_answer_are_told_once(self):
        listed = {"citations": ["https://a.test", "https://b.test"]}
        found = {"search_results": [{"url": "https://a.test", "title": "A", "snippet": "So"}], **listed}
        heard = await hear({**said(content="Yes"), **found}, {**STOP, **found}, {"choices": [], **listed})
        assert heard.sources == [
            SourceDelta(url="https://a.test", title="A", text="So"),
            SourceDelta(url="https://b.test"),
        ]

    async def test_an_image_is_a_file(self):
        url = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
        heard = await hear(
            said(images=[{"type": "image_url", "image_url": {"url": url}}]),
            said(images=[{"type": "image_url", "image_url": {"url": "https://a.test/i.png"}}]),
            STOP,
        )
        assert heard.of(FileDelta) == [FileDelta(data=b"pixels", mime_type="image/png", name="image.png")]
        assert heard.sources == [SourceDelta(url="https://a.test/i.png")]

    async def test_speech_is_heard_as_its_words_and_kept_as_a_file(self):
        samples = [base64.b64encode(bytes([n, 0] * 4)).decode() for n in (1, 2)]
        heard = await hear(
            said(audio={"id": "a", "transcript": "Hel"}),
            said(audio={"data": samples[0]}),
            said(audio={"transcript": "lo", "data": samples[1]}),
            STOP,
            said(audio={"expires_at": 1}),
        )
        assert heard.text == "Hello"
        [file] = heard.of(FileDelta)
        assert (file.mime_type, file.name) == ("audio/wav", "answer.wav")
        with wave.open(io.BytesIO(file.data)) as sound:
            assert sound.getparams()[:3] == (1, 2, 24_000)
            assert sound.readframes(100) == bytes([1, 0] * 4 + [2, 0] * 4)

    async def test_thoughts_and_words_in_one_list_are_told_apart(self):
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": "12"}, {"type": "text", "text": "²"}]}
        reference = {"type": "reference", "reference_ids": [1]}
        empty = [{"type": "thinking", "thinking": []}, {"type": "text", "text": ""}]
        heard = await hear(
            said(content=[thought, reference, {"type": "text", "text": "144"}]), said(content=empty), STOP
        )
        assert heard.deltas[1:3] == [ReasoningDelta(text="12²"), TextDelta("144")]
        assert len(heard.deltas) == 4

    async def test_a_refusal_is_kept_apart_and_is_why_the_reply_ended(self):
        heard = await hear(said(refusal="I can't"), said(refusal=" do that."), STOP)
        assert heard.of(RefusalDelta) == [RefusalDelta("I can't"), RefusalDelta(" do that.")]
        assert heard.finish == Finish(reason=FinishReason.REFUSAL, raw="stop")

    async def test_a_reply_ends_for_reasons_common_to_all_providers(self):
        for word, reason in (
            ("length", FinishReason.LENGTH),
            ("tool_calls", FinishReason.TOOL_CALLS),
            ("content_filter", FinishReason.CONTENT_FILTER),
            ("brand_new", FinishReason.OTHER),
        ):
            assert (await hear(finished(word))).finish == Finish(reason=reason, raw=word)

    async def test_a_finish_that_says_it_failed_is_a_failure(self):
        for word, kind in (("error", ErrorType.SERVER), ("insufficient_system_resource", ErrorType.OVERLOADED)):
            heard = await hear(said(content="Hal"), finished(word))
            assert (heard.text, heard.finish) == ("Hal", None)
            assert (heard.error.type, heard.error.retryable, word in str(heard.error)) == (kind, True, True)

    async def test_an_error_in_mid_stream_keeps_what_came(self):
        heard = await hear(said(content="Hal"), {"error": {"code": 429, "message": "Slow down"}})
        assert heard.text == "Hal"
        assert heard.error.type == ErrorType.RATE_LIMITED
        assert "Slow down" in str(heard.error)


class ToolCallTests(SimpleTestCase):
    async def test_fragments_of_parallel_calls_are_joined_by_index(self):
        heard = await hear(
            called(index=0, id="a", function={"name": "add", "arguments": ""}),
            called(index=1, id="b", function={"name": "sub", "arguments": '{"x"'}),
            called(index=0, function={"arguments": "{}"}),
            called(index=1, id="", function={"name": "", "arguments": ":1}"}),
            finished("tool_calls"),
        )
        assert heard.of(ToolCallDelta)[0] == ToolCallDelta(index=0, id="a", name="add")
        assert heard.of(ToolCallDelta)[3] == ToolCallDelta(index=1, arguments=":1}")
        assert heard.tool_calls == [
            {"id": "a", "name": "add", "arguments": "{}"},
            {"id": "b", "name": "sub", "arguments": '{"x":1}'},
        ]

    async def test_calls_that_a_server_does_not_number_are_told_apart_by_id(self):
        for index in ({}, {"index": 0}):
            heard = await hear(
                called(id="a", function={"name": "add", "arguments": "{"}, **index),
                called(id="a", function={"name": "add", "arguments": "}"}, **index),
                called(id="b", function={"name": "sub", "arguments": {"x": 1}}, **index),
                called(**index),
                STOP,
            )
            assert heard.tool_calls == [
                {"id": "a", "name": "add", "arguments": "{}"},
                {"id": "b", "name": "sub", "arguments": '{"x": 1}'},
            ]

    async def test_a_call_without_an_id_gets_one_for_its_result_has_to_name_it(self):
        heard = await hear(
            called(index=0, function={"name": "add", "arguments": "{"}),
            called(index=0, function={"arguments": "}"}),
            called(index=1, id="", function={"name": "sub", "arguments": "{}"}),
            STOP,
        )
        [add, sub] = heard.tool_calls
        assert add["id"].startswith("call_")
        assert add["id"] != sub["id"] != ""
        assert [delta.id for delta in heard.of(ToolCallDelta)][1] is None

    async def test_a_server_that_says_stop_after_tool_calls_means_the_calls(self):
        heard = await hear(called(index=0, id="a", function={"name": "add", "arguments": "{}"}), STOP)
        assert heard.finish == Finish(reason=FinishReason.TOOL_CALLS, raw="stop")


class UsageTests(SimpleTestCase):
    async def usage(self, **raw):
        usage = (await hear(STOP, {"choices": [], "usage": raw})).usage
        assert usage.raw == raw
        return usage

    async def test_input_excludes_what_a_cache_read_or_wrote(self):
        usage = await self.usage(
            prompt_tokens=100,
            completion_tokens=20,
            prompt_tokens_details={"cached_tokens": 60, "cache_write_tokens": 30},
            completion_tokens_details={"reasoning_tokens": 8},
        )
        assert (usage.input, usage.cached_input, usage.cache_write) == (10, 60, 30)
        assert (usage.output, usage.reasoning) == (20, 8)

    async def test_cached_tokens_are_found_under_the_names_of_deepseek_and_mistral(self):
        for name in ("prompt_cache_hit_tokens", "num_cached_tokens"):
            usage = await self.usage(prompt_tokens=100, completion_tokens=20, **{name: 64})
            assert (usage.input, usage.cached_input, usage.cache_write, usage.reasoning) == (36, 64, None, None)

    async def test_what_is_not_told_is_unknown_and_never_zero(self):
        assert await self.usage(cost=1) == Usage(raw={"cost": 1})

    async def test_more_cached_than_sent_counts_as_no_input(self):
        assert (await self.usage(prompt_tokens=1, num_cached_tokens=2)).input == 0

    async def test_groqs_counts_are_found_where_it_puts_them(self):
        usage = (await hear({**STOP, "x_groq": {"id": "r", "usage": {"prompt_tokens": 3}}})).usage
        assert usage.input == 3

    async def test_counts_that_grow_replace_one_another(self):
        heard = await hear(
            {**said(content="a"), "usage": {"prompt_tokens": 1}}, {**STOP, "usage": {"prompt_tokens": 2}}
        )
        assert [usage.input for usage in heard.of(Usage)] == [1, 2]
