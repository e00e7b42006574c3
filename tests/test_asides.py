from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from django.test import TestCase, override_settings

from converse import asides
from converse.deltas import Started, ToolCallDelta, Usage
from converse.exceptions import ProviderError
from converse.models import Conversation, ProviderCall
from converse.providers import Prompt, PromptMessage
from converse.testing import scripted
from tests.accounts import BUSY, PRICES
from tests.owners.models import Team


@override_settings(CONVERSE_PRICES=PRICES)
class AsideTests(TestCase):
    """What is asked beside the replies of a conversation."""

    @classmethod
    def setUpTestData(cls):
        cls.team = Team.objects.create(name="Blue")
        cls.conversation = Conversation.objects.start(cls.team)
        cls.prompt = Prompt(messages=[PromptMessage(role="user", text="A title?")], model="m-1")

    async def asked(self, *steps: object, limit: int = 100) -> str:
        with scripted(steps) as script:
            try:
                return await asides.ask(self.conversation, "default", self.prompt, limit=limit)
            finally:
                assert script.closed == 1

    async def test_it_is_a_call_of_the_conversation_and_its_owner(self):
        started = Started(request_id="r", model="m-1")
        for _ in range(2):
            assert await self.asked(started, Usage(input=1000, output=10), "A ", ToolCallDelta(index=0), "b") == "A b"
        call = await ProviderCall.objects.select_related("conversation", "message").afirst()
        assert (call.conversation, call.message, call.owner_id) == (self.conversation, None, str(self.team.pk))
        assert (call.outcome, call.finish_reason, call.request_id, call.cost) == (
            "completed",
            "stop",
            "r",
            Decimal("0.0011"),
        )
        assert call.first_delta_at
        assert (await self.team.ausage())["calls"] == 2

    async def test_who_says_too_much_is_let_go(self):
        assert await self.asked("12345", "67890", "more", limit=10) == "1234567890"
        assert (await ProviderCall.objects.aget()).outcome == "cancelled"

    async def test_a_failure_is_one(self):
        with pytest.raises(ProviderError, match="busy"):
            await self.asked("so far", BUSY)
        call = await ProviderCall.objects.aget()
        assert (call.outcome, call.error_type) == ("failed", "overloaded")

    async def test_a_row_that_is_being_written_when_it_is_cancelled_is_ended(self):
        with scripted(["Never."]) as script:
            asking = asyncio.create_task(asides.ask(self.conversation, "default", self.prompt, limit=100))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert script.prompts == []
        assert (await ProviderCall.objects.aget()).outcome == "cancelled"

    async def test_whoever_is_cancelled_has_an_account_too(self):
        with scripted(["so far", asyncio.Event()]) as script:
            asking = asyncio.create_task(asides.ask(self.conversation, "default", self.prompt, limit=100))
            async with asyncio.timeout(5):
                while not script.prompts:
                    await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert script.closed == 1
        assert (await ProviderCall.objects.aget()).outcome == "cancelled"
