from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import tempfile
import traceback
from unittest import mock

import httpx2
import pytest
from anthropic import AsyncAnthropic
from django.test import SimpleTestCase
from openai import AsyncOpenAI

from converse.choices import ErrorType
from converse.deltas import Finish, TextDelta
from converse.exceptions import ProviderError
from converse.providers import Prompt, PromptMessage
from converse.providers.anthropic import AnthropicProvider
from converse.providers.failures import error_type, redact, retry_after
from converse.providers.gemini import GeminiProvider
from converse.providers.mistral import MistralProvider
from converse.providers.openai import OpenAIProvider
from converse.providers.responses import ResponsesProvider
from tests.recordings import RecordingServer, ask, listen, sse

KEY = "sk-very-secret-0123456789"

CHAT_TEXT = sse({"id": "c1", "model": "m", "choices": [{"index": 0, "delta": {"content": "Hello"}}]})
CHAT_END = sse({"id": "c1", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
CHAT_USAGE = sse({"id": "c1", "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 1}})

MESSAGE_TEXT = sse(
    {"type": "message_start", "message": {"id": "m1", "model": "m", "usage": {"input_tokens": 2, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
)
MESSAGE_END = sse(
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
)

RESPONSE_TEXT = sse(
    {"type": "response.created", "response": {"id": "r1", "model": "m", "status": "in_progress"}},
    {"type": "response.output_text.delta", "output_index": 0, "delta": "Hello"},
)
RESPONSE_END = sse(
    {
        "type": "response.completed",
        "response": {"status": "completed", "usage": {"input_tokens": 2, "output_tokens": 1}},
    },
)

CONTENT_TEXT = sse({"candidates": [{"content": {"parts": [{"text": "Hello"}]}}], "modelVersion": "m"})
CONTENT_END = sse(
    {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 2, "candidatesTokenCount": 1}}
)


class Spoken:
    """A provider with a body that says Hello, its finish, and what comes after."""

    def __init__(self, provider, text, finish, rest):
        self.provider, self.text, self.finish, self.end = provider, text, finish, finish + rest

    @property
    def client(self):
        if self.provider is GeminiProvider:
            return lambda *, api_key, base_url: httpx2.AsyncClient(base_url=base_url)
        return AsyncAnthropic if self.provider is AnthropicProvider else AsyncOpenAI

    def at(self, server, **options):
        return self.provider(**{"model": "m", "api_key": KEY, "base_url": server.base_url, **options})


SPOKEN = [
    Spoken(OpenAIProvider, CHAT_TEXT, CHAT_END, CHAT_USAGE + sse("[DONE]")),
    Spoken(MistralProvider, CHAT_TEXT, CHAT_END, CHAT_USAGE + sse("[DONE]")),
    Spoken(ResponsesProvider, RESPONSE_TEXT, RESPONSE_END, b""),
    Spoken(AnthropicProvider, MESSAGE_TEXT, MESSAGE_END, sse({"type": "message_stop"})),
    Spoken(GeminiProvider, CONTENT_TEXT, CONTENT_END, b""),
]


def is_closed(client):
    return client.is_closed if isinstance(client, httpx2.AsyncClient) else client.is_closed()


def error_body(message, **fields):
    return sse({"error": {"message": message, **fields}}).removeprefix(b"data: ").strip()


class EverySDK(SimpleTestCase):
    """Promises that hold whoever's SDK carries the bytes."""

    def each(self):
        for spoken in SPOKEN:
            with self.subTest(spoken.provider.__name__):
                yield spoken

    async def fail(self, spoken, body=b"{}", *, status=200, headers=None, **options):
        headers = {"content-type": "application/json", **(headers or {})}
        async with RecordingServer(body, status=status, headers=headers) as server:
            heard = await listen(spoken.at(server, **options))
            await server.wait_closed_by_client()
        assert len(server.requests) == 1, "retrying is the caller's business"
        assert heard.deltas == []
        return heard.error


class ClosingTests(EverySDK):
    async def test_a_finished_reply_leaves_no_connection_open(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text + spoken.end) as server:
                heard = await listen(spoken.at(server))
                await server.wait_closed_by_client()
            assert (heard.text, heard.error) == ("Hello", None)
            assert isinstance(heard.deltas[-1], Finish)
            assert heard.usage.output == 1

    async def test_a_reply_cancelled_before_any_answer_hangs_up_at_once(self):
        for spoken in self.each():
            async with RecordingServer(stall_headers=True) as server:
                task = asyncio.create_task(listen(spoken.at(server)))
                await server.requested.wait()
                await self.cancel(task, server)

    async def test_a_reply_cancelled_before_the_first_word_hangs_up_at_once(self):
        for spoken in self.each():
            async with RecordingServer(b": wait\n\n", stall_at=8) as server:
                task = asyncio.create_task(listen(spoken.at(server)))
                await server.stalled.wait()
                await self.cancel(task, server)

    async def test_a_reply_cancelled_in_mid_sentence_hangs_up_at_once(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text, stall_at=len(spoken.text)) as server:
                spoke = asyncio.Event()

                async def follow(provider, spoke=spoke):
                    async for delta in provider.astream(ask()):
                        if isinstance(delta, TextDelta):
                            spoke.set()

                task = asyncio.create_task(follow(spoken.at(server)))
                await spoke.wait()
                await self.cancel(task, server)

    async def test_a_reader_that_closes_the_iterator_hangs_up_at_once(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text + spoken.end, stall_at=len(spoken.text)) as server:
                deltas = spoken.at(server).astream(ask())
                while not isinstance(await anext(deltas), TextDelta):
                    pass
                await deltas.aclose()
                await server.wait_closed_by_client(seconds=1)
                await self.nothing_is_left(server)

    async def test_a_reader_that_fails_hangs_up_at_once(self):
        async def fail(provider):
            async with contextlib.aclosing(provider.astream(ask())) as deltas:
                async for _ in deltas:
                    raise ZeroDivisionError

        for spoken in self.each():
            async with RecordingServer(spoken.text + spoken.end, stall_at=len(spoken.text)) as server:
                with pytest.raises(ZeroDivisionError):
                    await fail(spoken.at(server))
                await server.wait_closed_by_client(seconds=1)
                await self.nothing_is_left(server)

    async def test_closing_the_iterator_returns_when_the_client_is_closed_and_not_before(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text + spoken.end, stall_at=len(spoken.text)) as server:
                provider = spoken.at(server)
                client = provider.new_client()
                with mock.patch.object(provider, "new_client", return_value=client):
                    deltas = provider.astream(ask())
                    await anext(deltas)
                    assert not is_closed(client)
                    await deltas.aclose()
                    assert is_closed(client)

    async def test_a_borrowed_client_stays_open_and_its_stream_does_not(self):
        for spoken in self.each():
            async with (
                RecordingServer(spoken.text + spoken.end, stall_at=len(spoken.text)) as server,
                spoken.client(api_key=KEY, base_url=server.base_url) as client,
            ):
                deltas = spoken.provider(model="m", client=client).astream(ask())
                await anext(deltas)
                await deltas.aclose()
                await server.wait_closed_by_client(seconds=1)
                assert not is_closed(client)

    async def cancel(self, task, server):
        task.cancel()
        await server.wait_closed_by_client(seconds=1)
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.nothing_is_left(server)

    async def nothing_is_left(self, server):
        assert server.connections_open == 0
        gc.collect()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            _, pending = await asyncio.wait(others, timeout=1)
            assert not pending


class BrokenStreamTests(EverySDK):
    async def test_a_body_that_just_ends_is_truncated(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text, headers={"request-id": "r1"}) as server:
                heard = await listen(spoken.at(server))
            assert heard.text == "Hello"
            assert (heard.error.type, heard.error.retryable) == (ErrorType.TRUNCATED, True)
            assert heard.error.request_id == "r1"

    async def test_an_empty_body_is_truncated(self):
        for spoken in self.each():
            async with RecordingServer() as server:
                heard = await listen(spoken.at(server))
            assert (heard.deltas, heard.error.type) == ([], ErrorType.TRUNCATED)

    async def test_a_body_that_ends_inside_a_character_is_truncated(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text + 'data: "ü'.encode()[:-1]) as server:
                heard = await listen(spoken.at(server))
            assert (heard.text, heard.error.type) == ("Hello", ErrorType.TRUNCATED)

    async def test_a_dropped_connection_keeps_what_came(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text, drop=True) as server:
                heard = await listen(spoken.at(server))
            assert heard.text == "Hello"
            assert (heard.error.type, heard.error.retryable) == (ErrorType.CONNECTION, True)

    async def test_silence_in_mid_sentence_is_a_timeout(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text, stall_at=len(spoken.text)) as server:
                heard = await listen(spoken.at(server, timeout=0.2))
                await server.wait_closed_by_client(seconds=1)
            assert heard.text == "Hello"
            assert (heard.error.type, heard.error.retryable) == (ErrorType.TIMEOUT, True)

    async def test_silence_instead_of_an_answer_is_a_timeout(self):
        for spoken in self.each():
            async with RecordingServer(stall_headers=True) as server:
                heard = await listen(spoken.at(server, timeout=0.2))
                await server.wait_closed_by_client(seconds=1)
            assert (heard.deltas, heard.error.type) == ([], ErrorType.TIMEOUT)

    def test_connecting_gets_less_time_than_answering(self):
        for spoken in self.each():
            for seconds, connect in ((60, 5), (2, 2)):
                timeout = spoken.provider(timeout=seconds).client_options()["timeout"]
                assert (timeout.read, timeout.connect) == (seconds, connect)

    async def test_a_server_that_is_not_there_is_a_connection_error(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            for spoken in self.each():
                provider = spoken.provider(
                    model="m", api_key=KEY, base_url=f"http://127.0.0.1:{unused.getsockname()[1]}"
                )
                error = (await listen(provider)).error
                assert (error.type, error.retryable) == (ErrorType.CONNECTION, True)
                assert "attempts failed" in str(error)

    async def test_a_whole_reply_whose_last_bytes_are_lost_is_whole(self):
        for spoken in self.each():
            whole = spoken.text + spoken.finish
            for knobs in ({"drop": True}, {"stall_at": len(whole)}, {}):
                async with RecordingServer(whole, **knobs) as server:
                    heard = await listen(spoken.at(server, timeout=0.2))
                assert (heard.text, heard.error) == ("Hello", None)
                assert isinstance(heard.deltas[-1], Finish)

    async def test_an_error_after_the_finish_reason_still_counts(self):
        error = {"type": "error", "error": {"type": "api_error", "message": "Oops"}}
        for spoken in self.each():
            async with RecordingServer(spoken.text + spoken.finish + sse(error)) as server:
                heard = await listen(spoken.at(server))
            assert isinstance(heard.deltas[-1], Finish)
            assert heard.error.type == ErrorType.SERVER

    async def test_an_event_that_is_not_json_is_the_servers_failure(self):
        for spoken in self.each():
            for damage in (b"event: message_stop\ndata: {oops\n\n", b"event: message_stop\ndata: \xff\n\n"):
                async with RecordingServer(spoken.text + damage + spoken.end) as server:
                    heard = await listen(spoken.at(server))
                assert heard.text == "Hello"
                assert (heard.error.type, heard.error.retryable) == (ErrorType.SERVER, True)

    async def test_json_that_is_no_event_is_the_servers_failure(self):
        for spoken in self.each():
            for data in (b"[1]", b"null", b'{"choices": 7, "type": 7}'):
                body = spoken.text + b"event: message_stop\ndata: " + data + b"\n\n"
                async with RecordingServer(body, headers={"x-request-id": "r2"}) as server:
                    heard = await listen(spoken.at(server))
                assert heard.text == "Hello"
                assert heard.error.type in {ErrorType.SERVER, ErrorType.TRUNCATED}
                assert heard.error.request_id == "r2"


class RefusedRequestTests(EverySDK):
    async def test_a_status_becomes_a_type_of_error(self):
        table = [
            (400, ErrorType.INVALID, False),
            (401, ErrorType.AUTHENTICATION, False),
            (402, ErrorType.PERMISSION, False),
            (403, ErrorType.PERMISSION, False),
            (404, ErrorType.NOT_FOUND, False),
            (408, ErrorType.TIMEOUT, True),
            (409, ErrorType.SERVER, True),
            (413, ErrorType.CONTEXT_TOO_LONG, False),
            (418, ErrorType.INVALID, False),
            (422, ErrorType.INVALID, False),
            (429, ErrorType.RATE_LIMITED, True),
            (500, ErrorType.SERVER, True),
            (502, ErrorType.SERVER, True),
            (503, ErrorType.OVERLOADED, True),
            (504, ErrorType.TIMEOUT, True),
            (529, ErrorType.OVERLOADED, True),
        ]
        for spoken in self.each():
            for status, kind, retryable in table:
                error = await self.fail(spoken, error_body("No."), status=status)
                assert (error.type, error.retryable) == (kind, retryable), status
                assert "No." in str(error)

    async def test_a_busy_provider_says_how_long_to_wait_and_which_request_it_was(self):
        headers = {"retry-after": "7", "x-request-id": "r3"}
        for spoken in self.each():
            for status in (429, 529):
                error = await self.fail(spoken, error_body("Slow down."), status=status, headers=headers)
                assert (error.retry_after, error.request_id) == (7.0, "r3")

    async def test_a_provider_may_say_itself_whether_to_try_again(self):
        for spoken in self.each():
            error = await self.fail(spoken, error_body("No."), status=429, headers={"x-should-retry": "false"})
            assert not error.retryable
            error = await self.fail(spoken, error_body("Yes."), status=400, headers={"x-should-retry": "true"})
            assert error.retryable

    async def test_an_answer_that_is_a_web_page_is_an_error_like_any_other(self):
        for spoken in self.each():
            error = await self.fail(spoken, b"<h1>Bad gateway</h1>", status=502, headers={"content-type": "text/html"})
            assert error.type == ErrorType.SERVER
            assert "Bad gateway" in str(error)

    async def test_options_that_cannot_be_sent_are_an_invalid_request(self):
        for spoken in self.each():
            async with RecordingServer() as server:
                error = (await listen(spoken.at(server, params={"tools": object()}))).error
            assert (error.type, error.retryable, server.requests) == (ErrorType.INVALID, False, [])


class SecretTests(EverySDK):
    async def test_a_key_that_the_server_echoes_reaches_nobody(self):
        echo = error_body(f"Incorrect API key provided: {KEY}.")
        for spoken in self.each():
            with self.assertLogs(level=logging.DEBUG) as logs:
                logging.getLogger().debug("Logging is on.")
                error = await self.fail(spoken, echo, status=401)
            told = "".join(traceback.format_exception(error)) + "".join(logs.output)
            assert error.type == ErrorType.AUTHENTICATION
            assert "[redacted]" in str(error)
            assert KEY not in told

    async def test_a_half_masked_key_is_struck_out_too(self):
        for spoken in self.each():
            error = await self.fail(spoken, error_body("Incorrect API key provided: sk-ve*****6789."), status=401)
            assert "sk-ve" not in str(error)
            assert "6789" not in str(error)

    async def test_an_error_that_tells_no_secret_keeps_its_cause(self):
        for spoken in self.each():
            error = await self.fail(spoken, error_body("No."), status=500)
            assert "No." in str(error.__cause__)

    async def test_a_key_in_a_header_is_a_secret_as_well(self):
        headers = {"X-Api-Key": "hunter2-hunter2", "X-Team": "blue"}
        for spoken in self.each():
            async with RecordingServer(error_body("hunter2-hunter2, blue"), status=403) as server:
                error = (await listen(spoken.at(server, headers=headers))).error
            assert server.requests[0].headers["x-api-key"] == "hunter2-hunter2"
            assert "hunter2" not in str(error)
            assert "blue" in str(error)

    def test_a_provider_does_not_print_its_key(self):
        for spoken in self.each():
            assert KEY not in repr(spoken.provider(api_key=KEY, model="m"))

    async def test_the_key_in_the_environment_is_not_sent_to_another_server(self):
        ours = {"OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY, "OPENAI_ADMIN_KEY": KEY, "MISTRAL_API_KEY": KEY}
        ours |= {"GOOGLE_API_KEY": KEY, "GEMINI_API_KEY": KEY}
        for spoken in self.each():
            async with RecordingServer(spoken.text + spoken.end) as server:
                with mock.patch.dict(os.environ, ours):
                    heard = await listen(spoken.at(server, api_key=None))
            assert heard.text == "Hello"
            assert KEY not in str(server.requests[0].headers)

    async def test_the_key_goes_where_it_belongs(self):
        for spoken in self.each():
            async with RecordingServer(spoken.text + spoken.end) as server:
                await listen(spoken.at(server))
            sent = server.requests[0].headers
            assert sent.get("x-goog-api-key") == KEY or sent["authorization"] == f"Bearer {KEY}"

    async def test_without_any_key_the_set_up_is_at_fault(self):
        names = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "MISTRAL_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
        names += ("GOOGLE_API_KEY", "GEMINI_API_KEY")
        with tempfile.TemporaryDirectory() as nothing:
            for place in ("HOME", "ANTHROPIC_CONFIG_DIR"):
                with mock.patch.dict(os.environ, {place: nothing}):
                    for name in names:
                        os.environ.pop(name, None)
                    for spoken in self.each():
                        error = (await listen(spoken.provider(model="m"))).error
                        assert (error.type, error.retryable) == (ErrorType.AUTHENTICATION, False)
                        assert error.public == "The assistant is not set up correctly."


class FailureTests(SimpleTestCase):
    def test_a_prompt_that_is_too_long_is_recognised_in_many_words(self):
        for body in (
            {"error": {"code": "context_length_exceeded", "message": "Your input exceeds the context window."}},
            {"error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000"}},
            {"error": {"type": "exceed_context_size_error", "code": 400}},
            {"error": {"type": "request_too_large"}},
            {"error": {"message": "Please reduce the length of the messages or completion."}},
            "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        ):
            assert error_type(400, body) == ErrorType.CONTEXT_TOO_LONG
            assert error_type(None, body) == ErrorType.CONTEXT_TOO_LONG

    def test_blocked_content_is_recognised_in_many_words(self):
        for body in (
            {"error": {"code": "content_filter", "message": "Azure's content management policy"}},
            {"error": {"code": "content_policy_violation"}},
            {"error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}},
            {"error": {"code": 403, "message": "Your chosen model requires moderation"}},
        ):
            assert error_type(403, body) == ErrorType.CONTENT_BLOCKED

    def test_a_spent_budget_is_no_reason_to_wait(self):
        assert error_type(429, {"code": "insufficient_quota"}) == ErrorType.PERMISSION
        assert error_type(400, {"error": {"message": "Your credit balance is too low"}}) == ErrorType.PERMISSION

    def test_a_failure_of_the_server_is_not_read_as_one_of_the_prompt(self):
        assert error_type(500, {"message": "context window worker crashed"}) == ErrorType.SERVER

    def test_a_prompt_quoted_in_an_error_does_not_decide_what_it_is(self):
        body = {"detail": [{"msg": "Field required", "input": "Explain the context window and moderation."}]}
        assert error_type(422, body) == ErrorType.INVALID

    def test_an_error_in_mid_stream_is_read_by_its_code_or_its_words(self):
        for error, kind in (
            ({"code": 429, "message": "Provider returned error"}, ErrorType.RATE_LIMITED),
            ({"code": "502"}, ErrorType.SERVER),
            ({"status_code": 400, "type": "x"}, ErrorType.INVALID),
            ({"type": "rate_limit_error"}, ErrorType.RATE_LIMITED),
            ({"type": "overloaded_error"}, ErrorType.OVERLOADED),
            ({"type": "authentication_error"}, ErrorType.AUTHENTICATION),
            ({"type": "permission_error"}, ErrorType.PERMISSION),
            ({"type": "not_found_error"}, ErrorType.NOT_FOUND),
            ({"type": "invalid_request_error"}, ErrorType.INVALID),
            ({"type": "timeout_error"}, ErrorType.TIMEOUT),
            ({"type": "api_error"}, ErrorType.SERVER),
            ("Too many requests", ErrorType.RATE_LIMITED),
            (None, ErrorType.SERVER),
        ):
            assert error_type(200, {"error": error}) == kind, error
            assert error_type(None, error) == kind, error

    def test_the_time_to_wait_is_read_in_every_form(self):
        date = {"date": "Wed, 21 Oct 2026 07:28:00 GMT"}
        for headers, seconds in (
            ({}, None),
            ({"retry-after": "1.5"}, 1.5),
            ({"retry-after": "-1"}, 0.0),
            ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
            ({"retry-after-ms": "soon", "retry-after": "1"}, 1.0),
            ({"retry-after": "inf"}, None),
            ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", **date}, 30.0),
            ({"retry-after": "Wed, 21 Oct 2026 07:27:30 GMT", **date}, 0.0),
            ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
            ({"retry-after": "later", **date}, None),
        ):
            assert retry_after(headers) == seconds, headers

    def test_the_longer_of_two_secrets_is_struck_out_whole(self):
        assert redact("key abcdef", ["abc", "abcdef"]) == "key [redacted]"

    async def test_a_turn_of_an_unknown_role_is_an_invalid_request(self):
        prompt = Prompt(messages=[PromptMessage(role="robot", text="Beep")])
        for spoken in SPOKEN:
            with self.subTest(spoken.provider.__name__):
                error = (await listen(spoken.provider(model="m", api_key=KEY), prompt)).error
                assert isinstance(error, ProviderError)
                assert error.type == ErrorType.INVALID
