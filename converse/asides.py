"""What a provider is asked beside any reply, such as for a title; accounted for as a reply's calls are."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

from django.utils import timezone

from converse import calls, journal, loops
from converse.choices import CallOutcome
from converse.deltas import Delta, Finish, Started, TextDelta, Usage
from converse.providers import get_provider
from converse.providers.base import Prompt

if TYPE_CHECKING:
    from converse.models import Conversation, ProviderCall


async def ask(conversation: Conversation, alias: str, prompt: Prompt, *, limit: int) -> str:
    """Give the text that a provider answers, and let it go once that has so many characters.

    Raise what the provider does.
    """
    provider = get_provider(alias)
    heard = _Heard()
    thread = journal.current().thread
    beginning = asyncio.ensure_future(thread.run(calls.begin, conversation, alias, prompt.model))
    loops.keep(beginning)
    error: Exception | None = None
    try:
        await asyncio.shield(beginning)
        async with aclosing(provider.astream(prompt)) as deltas:
            async for delta in deltas:
                heard.take(delta)
                if len(heard.text) >= limit:
                    break
    except Exception as exc:
        error = exc
        raise
    finally:
        ending = asyncio.ensure_future(heard.account(beginning, error))
        loops.keep(ending)
        await asyncio.shield(ending)
    return heard.text


class _Heard:
    def __init__(self) -> None:
        self.text = ""
        self.started = Started()
        self.usage: Usage | None = None
        self.finish = ""
        self.first_delta_at: datetime | None = None

    def take(self, delta: Delta) -> None:
        match delta:
            case TextDelta():
                self.first_delta_at = self.first_delta_at or timezone.now()
                self.text += delta.text
            case Started():
                self.started = delta
            case Usage():
                self.usage = delta
            case Finish():
                self.finish = delta.reason.value

    async def account(self, beginning: asyncio.Future[ProviderCall], error: Exception | None) -> None:
        ended = CallOutcome.COMPLETED if self.finish else CallOutcome.CANCELLED
        await journal.current().thread.run(
            calls.end,
            await beginning,
            CallOutcome.FAILED if error else ended,
            usage=self.usage,
            finish_reason=self.finish,
            model=self.started.model,
            request_id=self.started.request_id,
            first_delta_at=self.first_delta_at,
            error=error,
        )
