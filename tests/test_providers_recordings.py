from __future__ import annotations

import asyncio
import json
import random
from unittest import skipUnless

from django.test import SimpleTestCase
from hypothesis import given, settings
from hypothesis import strategies as st

from converse.choices import ErrorType
from converse.deltas import Finish, Started
from converse.providers.anthropic import AnthropicProvider, MessageReading
from converse.providers.openai import ChatReading, OpenAIProvider
from tests.recordings import MISSING, Heard, Recording, RecordingServer, available, listen, load

PROVIDERS = {
    "openai.chat": OpenAIProvider,
    "mistral.chat": OpenAIProvider,
    "anthropic.messages": AnthropicProvider,
}
READINGS = {"openai.chat": ChatReading, "mistral.chat": ChatReading, "anthropic.messages": MessageReading}

ERRORS = {
    "anthropic-error-http-ddtrace-2": ErrorType.INVALID,
    "anthropic-error-http-pydanticai-1": ErrorType.NOT_FOUND,
    "mistral-error-http-rubyllm-1": ErrorType.AUTHENTICATION,
    "oaichat-error-http-mirascope-1": ErrorType.AUTHENTICATION,
    "oaichat-error-http-mirascope-2": ErrorType.INVALID,
    "oaichat-error-http-rubyllm-1": ErrorType.RATE_LIMITED,
    "oaichat-error-http-rubyllm-2": ErrorType.CONTEXT_TOO_LONG,
    "oaichat-error-midstream-pydanticai-2": ErrorType.INVALID,
    "oaichat-error-midstream-pydanticai-3": ErrorType.INVALID,
    # GPUStack said why it gave up in a line that is none of the event stream's.
    "oaichat-quirk-rubyllm-1": ErrorType.TRUNCATED,
}

RECORDINGS = [recording for api in PROVIDERS for recording in load(api)]
WHOLE = [recording for recording in RECORDINGS if recording.name not in ERRORS]


async def play(recording: Recording, *, silence: float = 600.0, **knobs: object) -> Heard:
    async with RecordingServer.of(recording, **knobs) as server:
        provider = PROVIDERS[recording.api](model="m", api_key="sk-recorded", base_url=server.base_url, timeout=silence)
        heard = await listen(provider)
        await server.wait_closed_by_client()
    return heard


def check(recording: Recording, heard: Heard) -> None:
    expected = recording.expected
    assert heard.text == expected.get("text", "")
    assert heard.reasoning == expected.get("reasoning", "")
    assert heard.refusal == expected.get("refusal", "")
    assert heard.tool_calls == expected.get("tool_calls", [])
    assert (heard.finish.raw if heard.finish else None) == expected.get("finish_reason")
    assert (heard.usage.raw if heard.usage else None) == expected.get("usage")
    assert (heard.error.type if heard.error else None) == ERRORS.get(recording.name)
    if heard.deltas:
        started = heard.deltas[0]
        assert isinstance(started, Started)
        assert started.model == expected["model"]
        assert started.request_id == expected["response_id"]


def complete_events(recording: Recording, cut: int) -> list[object]:
    """Return the events that lie before a cut, read without any SDK."""
    blocks = recording.body[:cut].decode(errors="replace").split("\n\n")[:-1]
    lines = (line for block in blocks for line in block.split("\n"))
    data = (line.removeprefix("data:").strip() for line in lines if line.startswith("data:"))
    return [json.loads(text) for text in data if text != "[DONE]"]


@skipUnless(available(), MISSING)
class RecordingTests(SimpleTestCase):
    async def test_every_recording_is_understood(self):
        for recording in RECORDINGS:
            with self.subTest(recording.name):
                check(recording, await play(recording))

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
        reading = READINGS[recording.api]()
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
        reading = READINGS[recording.api]()
        expected = [delta for event in complete_events(recording, place) for delta in reading.read(event)]
        heard = await play(recording, stall_at=place, silence=0.5)
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
