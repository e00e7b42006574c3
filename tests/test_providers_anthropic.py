from __future__ import annotations

from django.test import SimpleTestCase

from converse.choices import ErrorType, FinishReason
from converse.deltas import Finish, ReasoningDelta, Started, TextDelta, ToolCallDelta, Usage
from converse.providers import Prompt, PromptMessage
from converse.providers.anthropic import AnthropicProvider
from tests.recordings import RecordingServer, ask, listen, sse

STOP = {"type": "message_stop"}


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


class RequestTests(SimpleTestCase):
    async def test_system_messages_stand_apart_from_the_history(self):
        turns = [
            PromptMessage(role="system", text="Be kind."),
            PromptMessage(role="user", text="What is 2 + 2?"),
            PromptMessage(role="assistant", text=" "),
            PromptMessage(role="tool_call", text="add(2, 2)"),
            PromptMessage(role="tool_result", text="4"),
            PromptMessage(role="system", text="Be brief."),
        ]
        heard = await hear(started(), ended(), STOP, prompt=Prompt(messages=turns))
        assert (heard.request.method, heard.request.path) == ("POST", "/v1/messages")
        assert heard.request.headers["anthropic-version"]
        assert heard.request.body == {
            "model": "m",
            "max_tokens": 4096,
            "system": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief."}],
            "messages": [
                {"role": "user", "content": "What is 2 + 2?"},
                {"role": "assistant", "content": "add(2, 2)"},
                {"role": "user", "content": "4"},
            ],
            "stream": True,
        }

    async def test_the_prompt_comes_before_the_parameters_and_those_before_the_defaults(self):
        prompt = ask(model="better", options={"temperature": 0.1, "stream": False})
        params = {"temperature": 1, "max_tokens": 7, "thinking": {"type": "adaptive"}}
        body = (await hear(started(), ended(), STOP, prompt=prompt, params=params, max_tokens=9)).request.body
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("better", 0.1, 7)
        assert (body["stream"], body["thinking"], "system" in body) == (True, {"type": "adaptive"}, False)


class ReadingTests(SimpleTestCase):
    async def test_a_reply_starts_with_its_model_and_ends_with_its_usage_and_finish(self):
        heard = await hear(
            started(input_tokens=5, cache_read_input_tokens=3, output_tokens=1),
            {"type": "ping"},
            {"type": "brand_new"},
            block(0, type="text", text=""),
            delta(0, type="text_delta", text="Hi"),
            delta(0, type="text_delta", text=""),
            delta(0, type="citations_delta", citation={"cited_text": "Hi"}),
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
        assert heard.deltas[1:-1] == [ReasoningDelta(text="Hmm"), ReasoningDelta(signature="c2ln")]

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
        heard = await hear(
            started(),
            block(0, type="server_tool_use", id="s", name="web_search", input={}),
            delta(0, type="input_json_delta", partial_json='{"query": "x"}'),
            stopped(0),
            block(1, type="web_search_tool_result", content=[]),
            stopped(1),
            ended(),
            STOP,
        )
        assert len(heard.deltas) == 2
