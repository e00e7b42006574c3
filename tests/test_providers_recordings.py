from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import skipUnless

import pytest
from django.test import SimpleTestCase
from hypothesis import given, settings
from hypothesis import strategies as st

from converse.choices import ErrorType
from converse.deltas import Finish, RawBlock, Started, TextDelta
from converse.parts import ToolCall, ToolResult
from converse.providers import Prompt, PromptMessage
from converse.providers.anthropic import AnthropicProvider
from converse.providers.failures import redact
from converse.providers.gemini import GeminiProvider
from converse.providers.mistral import MistralProvider
from converse.providers.openai import OpenAIProvider
from converse.providers.responses import ResponsesProvider
from tests.recordings import MISSING, Heard, Recording, RecordingServer, available, listen, load

PROVIDERS = {
    "openai.chat": OpenAIProvider,
    "openai.responses": ResponsesProvider,
    "mistral.chat": MistralProvider,
    "anthropic.messages": AnthropicProvider,
    "gemini.generateContent": GeminiProvider,
}

ERRORS = {
    "anthropic-error-http-ddtrace-2": ErrorType.INVALID,
    "anthropic-error-http-pydanticai-1": ErrorType.NOT_FOUND,
    "gemini-error-http-otel-1": ErrorType.NOT_FOUND,
    "gemini-error-http-rubyllm-2": ErrorType.AUTHENTICATION,
    "gemini-error-midstream-firebase-1": ErrorType.SERVER,
    "mistral-error-http-rubyllm-1": ErrorType.AUTHENTICATION,
    "oaichat-error-http-mirascope-1": ErrorType.AUTHENTICATION,
    "oaichat-error-http-mirascope-2": ErrorType.INVALID,
    "oaichat-error-http-rubyllm-1": ErrorType.RATE_LIMITED,
    "oaichat-error-http-rubyllm-2": ErrorType.CONTEXT_TOO_LONG,
    "oaichat-error-midstream-pydanticai-2": ErrorType.INVALID,
    "oaichat-error-midstream-pydanticai-3": ErrorType.INVALID,
    "oairesp-error-http-mirascope-1": ErrorType.AUTHENTICATION,
    "oairesp-error-http-rubyllm-1": ErrorType.CONTEXT_TOO_LONG,
    "oairesp-error-midstream-vercelai-1": ErrorType.PERMISSION,
    # GPUStack said why it gave up in a line that is none of the event stream's.
    "oaichat-quirk-rubyllm-1": ErrorType.TRUNCATED,
}


def told(recording: Recording) -> Recording:
    """Reduce the error that is expected to what the provider said in so many words."""
    error = recording.expected.get("error")
    if not error:
        return recording
    return replace(recording, expected={**recording.expected, "error": error.get("message") or error["detail"]})


RECORDINGS = [told(recording) for api in PROVIDERS for recording in load(api)]
WHOLE = [recording for recording in RECORDINGS if recording.name not in ERRORS]


async def play(recording: Recording, *, silence: float = 600.0, **knobs: object) -> Heard:
    async with RecordingServer.of(recording, **knobs) as server:
        provider = PROVIDERS[recording.api](model="m", api_key="sk-recorded", base_url=server.base_url, timeout=silence)
        heard = await listen(provider)
        await server.wait_closed_by_client()
    return heard


# What of "expected" is compared; the rest says how the recording was made.
COMPARED = (
    "text",
    "reasoning",
    "refusal",
    "tool_calls",
    "server_tool_calls",
    "citations",
    "finish_reason",
    "usage",
    "error",
    "model",
    "response_id",
    "text_deltas",
    "server_tool_calls",
)
UNCOMPARED = {
    "block_types",
    "choices",
    "done_marker",
    "events",
    "reasoning_deltas",
    "stream_terminated",
    "text_by_choice",
}


def check(recording: Recording, heard: Heard) -> None:
    expected = recording.expected
    assert heard.text == expected.get("text", "")
    assert heard.reasoning == expected.get("reasoning", "")
    assert heard.refusal == expected.get("refusal", "")
    assert [named(call) for call in heard.tool_calls] == expected.get("tool_calls", [])
    assert server_calls(heard) == expected.get("server_tool_calls", [])
    assert len(heard.sources) == expected.get("citations", 0)
    assert len([delta for delta in heard.of(TextDelta) if delta.text]) == expected.get("text_deltas", 0)
    assert calls_there(heard) == expected.get("server_tool_calls", [])
    assert finish_of(recording, heard) == expected.get("finish_reason")
    assert (heard.usage.raw if heard.usage else None) == expected.get("usage")
    assert (heard.error.type if heard.error else None) == ERRORS.get(recording.name)
    if "error" in expected:
        assert redact(expected["error"], []) in str(heard.error)
    if heard.deltas:
        started = heard.deltas[0]
        assert isinstance(started, Started)
        assert started.model == (expected["model"] or "")
        assert started.request_id == (expected["response_id"] or "")


def calls_there(heard: Heard) -> list[dict[str, str]]:
    """Return the calls of tools that ran at the provider's, where they look like those that run here."""
    blocks = [delta.data for delta in heard.of(RawBlock) if delta.data.get("type") == "server_tool_use"]
    return [{"id": data["id"], "name": data["name"], "arguments": json.dumps(data["input"])} for data in blocks]


def finish_of(recording: Recording, heard: Heard) -> str | None:
    """Return the provider's word for the end; a response that failed ends as an error."""
    if recording.api == "openai.responses" and heard.error and heard.deltas:
        return "failed"
    return heard.finish.raw if heard.finish else None


def named(call: dict[str, str]) -> dict[str, str | None]:
    """Return a call as it came; an id that we had to make was none."""
    return {**call, "id": None} if call["id"].startswith("gemini-") else call


def server_calls(heard: Heard) -> list[dict[str, Any]]:
    """Return the calls of Anthropic's own tools."""
    calls = [block.data for block in heard.of(RawBlock) if block.data.get("type") == "server_tool_use"]
    return [{"id": call["id"], "name": call["name"], "arguments": json.dumps(call["input"])} for call in calls]


def mutations(value: Any) -> Iterator[Any]:
    """Yield what differs from a value in a single place."""
    match value:
        case dict():
            for name, inner in value.items():
                yield from ({**value, name: other} for other in mutations(inner))
        case list():
            for place, inner in enumerate(value):
                yield from ([*value[:place], other, *value[place + 1 :]] for other in mutations(inner))
            yield value[:-1] if value else [{"id": "c", "name": "n", "arguments": "{}"}]
        case str():
            half = len(value) // 2
            yield f"{value[:half]}~{value[half + 1 :]}"
        case None:
            yield "other"
        case _:
            yield value + 1


def complete_events(recording: Recording, cut: int) -> list[object]:
    """Return the events that lie before a cut, read without any SDK."""
    blocks = re.split(r"(?:\r?\n){2}", recording.body[:cut].decode(errors="replace"))[:-1]
    lines = (line for block in blocks for line in block.splitlines())
    data = (line.removeprefix("data:").strip() for line in lines if line.startswith("data:"))
    return [json.loads(text) for text in data if text != "[DONE]"]


@skipUnless(available(), MISSING)
class RecordingTests(SimpleTestCase):
    async def test_every_recording_is_understood(self):
        for recording in RECORDINGS:
            with self.subTest(recording.name):
                check(recording, await play(recording))

    async def test_an_expectation_that_is_changed_in_any_place_is_not_met(self):
        for recording in RECORDINGS:
            heard = await play(recording)
            assert set(recording.expected) <= {*COMPARED, *UNCOMPARED}
            for name in set(COMPARED) & set(recording.expected):
                for other in mutations(recording.expected[name]):
                    changed = replace(recording, expected={**recording.expected, name: other})
                    with self.subTest(recording.name, changed=name), pytest.raises(AssertionError):
                        check(changed, heard)

    async def test_the_other_kind_of_line_ends_changes_nothing(self):
        for recording in RECORDINGS:
            if "event-stream" in recording.headers["content-type"]:
                unix = recording.body.replace(b"\r\n", b"\n")
                other = unix if b"\r\n" in recording.body else unix.replace(b"\n", b"\r\n")
                assert other != recording.body
                with self.subTest(recording.name):
                    check(recording, await play(replace(recording, body=other), split=(len(other) // 2,)))

    async def test_bytes_that_arrive_one_by_one_change_nothing(self):
        for recording in RECORDINGS:
            if "unicode" in recording.name and len(recording.body) < 8000:
                with self.subTest(recording.name):
                    check(recording, await play(recording, split=range(len(recording.body))))

    @settings(max_examples=150, deadline=None)
    @given(recording=st.sampled_from(RECORDINGS or [None]), seed=st.integers(0, 2**32), pieces=st.integers(2, 200))
    def test_places_at_which_the_network_cuts_change_nothing(self, recording, seed, pieces):
        split = random.Random(seed).choices(range(len(recording.body)), k=pieces)
        check(recording, asyncio.run(play(recording, split=split)))

    @settings(max_examples=150, deadline=None)
    @given(recording=st.sampled_from(WHOLE or [None]), share=st.floats(0, 1), drop=st.booleans())
    def test_what_came_before_a_cut_is_kept_and_the_reply_is_not_taken_for_complete(self, recording, share, drop):
        cut = int(share * len(recording.body))
        reading = PROVIDERS[recording.api].reading()
        expected = [delta for event in complete_events(recording, cut) for delta in reading.read(event)]
        heard = asyncio.run(play(recording, cut_at=cut, drop=drop))
        if reading.finish:
            assert heard.deltas == [*expected, reading.finish]
            assert heard.error is None
        else:
            assert heard.deltas == expected
            assert heard.error.type == (ErrorType.CONNECTION if drop else ErrorType.TRUNCATED)
            assert heard.error.retryable

    async def test_a_reply_that_stalls_keeps_what_came(self):
        one_of_each = list({recording.name.rsplit("-", 2)[0]: recording for recording in WHOLE}.values())
        stalled = [self.stall(recording) for recording in one_of_each]
        for start in range(0, len(stalled), 10):
            await asyncio.gather(*stalled[start : start + 10])

    async def stall(self, recording):
        place = len(recording.body) // 2
        reading = PROVIDERS[recording.api].reading()
        expected = [delta for event in complete_events(recording, place) for delta in reading.read(event)]
        heard = await play(recording, stall_at=place, silence=1.5)
        assert (heard.deltas, reading.finish) == (expected, None), recording.name
        assert heard.error.type == ErrorType.TIMEOUT, recording.name

    @settings(max_examples=150, deadline=None)
    @given(
        recording=st.sampled_from([recording for recording in WHOLE if len(recording.body) < 50_000] or [None]),
        seed=st.integers(0, 2**32),
        flips=st.integers(1, 20),
    )
    def test_damaged_bytes_end_in_a_provider_error_or_not_at_all(self, recording, seed, flips):
        chance, body = random.Random(seed), bytearray(recording.body)
        for _ in range(flips):
            body[chance.randrange(len(body))] = chance.choice(b'{}[]":,0n\n\xff')
        damaged = Recording(name=recording.name, api=recording.api, body=bytes(body))
        heard = asyncio.run(play(damaged))
        assert heard.error or isinstance(heard.deltas[-1], Finish)


def prompt_after(heard: Heard) -> Prompt:
    """Return what a provider is asked after it said all this: its own turn and the results of its calls."""
    turns = [PromptMessage(role="user", text="Hello?"), PromptMessage(role="assistant", parts=heard.parts)]
    calls = [part for part in heard.parts if isinstance(part, ToolCall)]
    results = [ToolResult(id=call.id, name=call.name, output=f"of {call.id}") for call in calls]
    last = PromptMessage(role="tool_result", parts=results) if results else PromptMessage(role="user", text="And?")
    return Prompt(messages=[*turns, last])


def without(item: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in names}


@skipUnless(available(), MISSING)
class ReplayTests(SimpleTestCase):
    """What a provider said goes back to it as it came."""

    async def sent_back(self, recording: Recording, **options: object) -> dict[str, Any]:
        heard = await play(recording)
        return PROVIDERS[recording.api](model="m", **options).request(prompt_after(heard))

    async def test_a_chats_calls_and_reasoning_go_back_as_they_came(self):
        compared = 0
        for recording in WHOLE:
            if recording.api not in ("openai.chat", "mistral.chat") or "refusal" in recording.expected:
                continue
            with self.subTest(recording.name):
                body = await self.sent_back(recording, base_url="http://the-same.test")
                [said, *results] = (turn for turn in body["messages"] if turn["role"] != "user")
                expected = recording.expected
                assert (said["content"] or "") == expected["text"]
                calls = [{"id": call["id"], **call["function"]} for call in said.get("tool_calls", ())]
                assert calls == expected["tool_calls"]
                assert [turn["tool_call_id"] for turn in results] == [call["id"] for call in calls]
                deltas = [choice["delta"] for choice in choices_of(recording)]
                thought = "".join(d["text"] for delta in deltas for d in delta.get("reasoning_details") or ())
                assert "".join(detail["text"] for detail in said.get("reasoning_details", ())) == thought
                compared += len(calls) + bool(thought)
        assert compared > 10

    async def test_a_responses_items_go_back_as_they_came(self):
        kinds = set()
        for recording in WHOLE:
            if recording.api == "openai.responses":
                with self.subTest(recording.name):
                    # The service kept what was recorded: some of its reasoning has an id and nothing else.
                    body = await self.sent_back(recording, params={"store": True})
                    items = [item for item in body["input"] if item.get("role") != "user"]
                    came = items_of(recording)
                    results = [
                        {"type": "function_call_output", "call_id": item["call_id"], "output": f"of {item['call_id']}"}
                        for item in came
                        if item["type"] == "function_call"
                    ]
                    assert items == [*came, *results]
                    kinds |= {item["type"] for item in items}
        assert kinds == {
            *("message", "reasoning", "function_call", "function_call_output"),
            *("web_search_call", "mcp_list_tools", "mcp_call"),
        }

    async def test_encrypted_reasoning_goes_back_though_nothing_is_kept(self):
        compared = 0
        for recording in WHOLE:
            if recording.api == "openai.responses":
                thought = [item for item in items_of(recording) if item["type"] == "reasoning"]
                if thought and all(item.get("encrypted_content") for item in thought):
                    with self.subTest(recording.name):
                        body = await self.sent_back(recording)
                        assert body["store"] is False
                        assert [item for item in body["input"] if item.get("type") == "reasoning"] == thought
                        compared += 1
        assert compared >= 3


def choices_of(recording: Recording) -> list[Any]:
    events = complete_events(recording, len(recording.body))
    return [choice for event in events for choice in event.get("choices") or () if not choice["index"]]


def items_of(recording: Recording) -> list[dict[str, Any]]:
    """Return the items of a response, written as they go back."""
    events = complete_events(recording, len(recording.body))
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    # A refusal is no part of a turn.
    return [written(item) for item in items if item["type"] != "message" or item["content"][0]["type"] != "refusal"]


def written(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] == "function_call":
        return without(item, "status")
    if item["type"] == "message":
        said = "".join(part["text"] for part in item["content"])
        return {**item, "content": [{"type": "output_text", "text": said, "annotations": []}]}
    return item
