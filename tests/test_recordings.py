from __future__ import annotations

import logging
import random
from unittest import skipUnless

from django.test import TestCase, override_settings

from converse.models import Conversation, Message
from tests.recordings import MISSING, Recording, RecordingServer, available, load
from tests.test_providers_recordings import ERRORS, PROVIDERS, named

BACKENDS = {api: f"{provider.__module__}.{provider.__name__}" for api, provider in PROVIDERS.items()}


@skipUnless(available(), MISSING)
@override_settings(CONVERSE_RETRIES=0, CONVERSE_MAX_STEPS=1)  # one answer each, also where the provider paused
class StoredRecordingTests(TestCase):
    """Every recorded answer, over real HTTP and through the real SDK, ends as the message it should be."""

    def setUp(self):
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)

    async def ask(self, recording: Recording, **knobs: object) -> Message:
        conversation = await Conversation.objects.astart()
        async with RecordingServer.of(recording, **knobs) as server:
            options = {"model": "m", "api_key": "sk-recorded", "base_url": server.base_url}
            provider = {"BACKEND": BACKENDS[recording.api], "OPTIONS": options}
            with override_settings(CONVERSE_PROVIDERS={"default": provider}):
                reply = await conversation.aask("Hello")
            await server.wait_closed_by_client()
        return await Message.objects.aget(pk=reply.pk)

    def check(self, recording: Recording, message: Message) -> None:
        expected = recording.expected
        assert message.content == expected.get("text", "")
        assert message.reasoning == expected.get("reasoning", "")
        assert message.refusal == expected.get("refusal", "")
        calls = [{key: call[key] for key in ("id", "name", "arguments")} for call in message.tool_calls]
        assert [named(call) for call in calls] == expected.get("tool_calls", [])
        assert (message.usage or None) == expected.get("usage")
        assert message.status == ("failed" if recording.name in ERRORS else "completed")
        if recording.name in ERRORS:
            assert message.error_type == ERRORS[recording.name]
            assert message.error_message
        else:
            assert message.metadata["provider_finish_reason"] == expected["finish_reason"]

    async def test_every_recording_ends_as_the_message_it_should_be(self):
        for api in BACKENDS:
            for recording in load(api):
                with self.subTest(recording.name):
                    self.check(recording, await self.ask(recording))

    async def test_it_does_so_however_the_network_cut_the_body_into_pieces(self):
        chance = random.Random(20)
        for api in BACKENDS:
            for recording in load(api):
                if len(recording.body) > 30_000:
                    continue
                pieces = sorted(chance.sample(range(1, len(recording.body)), min(20, len(recording.body) - 1)))
                with self.subTest(recording.name, pieces=pieces):
                    self.check(recording, await self.ask(recording, split=pieces))

    async def test_a_body_that_is_cut_in_the_middle_fails_the_message_and_keeps_what_came(self):
        kept = 0
        for api in BACKENDS:
            for recording in load(api):
                text = recording.expected.get("text", "")
                if recording.name in ERRORS or len(text) < 100:
                    continue
                with self.subTest(recording.name):
                    message = await self.ask(recording, cut_at=len(recording.body) // 2)
                    assert (message.status, message.error_type) == ("failed", "truncated")
                    kept += len(message.content)
                    assert text.startswith(message.content)
        assert kept > 1000
