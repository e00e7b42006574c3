from __future__ import annotations

from django.test import SimpleTestCase

from converse.choices import ErrorType, FinishReason
from converse.deltas import Finish, ReasoningDelta, RefusalDelta, Started, TextDelta, ToolCallDelta, Usage
from converse.providers import Prompt, PromptMessage
from converse.providers.openai import OpenAIProvider
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


class RequestTests(SimpleTestCase):
    async def test_the_history_is_sent_in_order_and_in_openais_words(self):
        turns = [
            PromptMessage(role="system", text="Be kind."),
            PromptMessage(role="user", text="What is 2 + 2?"),
            PromptMessage(role="assistant", text=" \n"),
            PromptMessage(role="tool_call", text="add(2, 2)"),
            PromptMessage(role="tool_result", text="4"),
            PromptMessage(role="system", text="Be brief."),
        ]
        heard = await hear(said(content="Four."), STOP, prompt=Prompt(messages=turns))
        assert (heard.request.method, heard.request.path) == ("POST", "/chat/completions")
        assert heard.request.body == {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "What is 2 + 2?"},
                {"role": "assistant", "content": "add(2, 2)"},
                {"role": "user", "content": "4"},
                {"role": "system", "content": "Be brief."},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        }

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

    async def test_counts_that_grow_replace_one_another(self):
        heard = await hear(
            {**said(content="a"), "usage": {"prompt_tokens": 1}}, {**STOP, "usage": {"prompt_tokens": 2}}
        )
        assert [usage.input for usage in heard.of(Usage)] == [1, 2]
