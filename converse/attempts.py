"""One attempt at a provider: take what it says into the stream, and account for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError
from django.utils import timezone

from converse import attachments, calls, journal, loops
from converse.choices import CallOutcome, ErrorType, FinishReason
from converse.conf import settings
from converse.deltas import (
    Delta,
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
from converse.drafts import storable
from converse.exceptions import ProviderError, Stopped, UnknownProvider
from converse.prompts import origin_of
from converse.providers import get_provider
from converse.providers.base import Prompt, Provider
from converse.streaming import Stream

if TYPE_CHECKING:
    from converse.models import ProviderCall

logger = logging.getLogger(__name__)

# After its end a reply is whole: what such an error cuts off is at most its counts.
BROKEN_OFF = (ErrorType.TIMEOUT, ErrorType.CONNECTION, ErrorType.TRUNCATED)

AFTER_FINISH = 3.0  # seconds in which a provider that has ended its answer may still say what it counted


@dataclass(slots=True)
class Reply:
    """What the attempts at one reply share."""

    stream: Stream
    limit: asyncio.Timeout  # of the whole reply
    call_ids: set[str]  # of its calls of tools


class Attempt:
    """One call of a provider."""

    def __init__(self, reply: Reply, alias: str) -> None:
        self.reply = reply
        self.stream = reply.stream
        self.alias = alias
        self.request_id = ""
        self.model = ""
        self.usage: Usage | None = None
        self.finish: Finish | None = None
        self.first_delta_at: datetime | None = None
        self._indexes: set[int] = set()

    async def make(self, prompt: Prompt) -> FinishReason:
        """Append the provider's answer to the stream, and say how it ended; raise ProviderError when it failed."""
        provider = _provider(self.alias)
        facts = self.stream.facts
        facts.pop("finish_reason", None)
        self.stream.metadata.pop("provider_finish_reason", None)
        self.stream.begin_step(origin_of(self.alias, prompt.model))
        thread = journal.current().thread
        beginning = asyncio.ensure_future(thread.run(calls.begin, self.stream.message, self.alias, prompt.model))
        loops.keep(beginning)
        try:
            await asyncio.shield(beginning)  # a row that is written when this is cancelled has to be ended as well
            finish = await self._listen(provider, prompt)
        except BaseException as exc:
            await self._account(beginning, exc)
            raise
        await self._account(beginning)
        facts["finish_reason"] = finish.reason.value
        self.stream.metadata["provider_finish_reason"] = finish.raw
        return finish.reason

    async def _listen(self, provider: Provider, prompt: Prompt) -> Finish:
        """Take all that the provider says; only what says something counts as a sign of life."""
        idle = settings.CONVERSE_IDLE_TIMEOUT
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(idle) as limit, aclosing(provider.astream(prompt)) as deltas:
                async for delta in deltas:
                    if isinstance(delta, Finish):
                        limit.reschedule(clock() + AFTER_FINISH)
                    elif self.finish is None and says_something(delta):
                        self.first_delta_at = self.first_delta_at or timezone.now()
                        limit.reschedule(clock() + idle)
                    await self._take(delta)
        except TimeoutError as exc:
            if self.finish is None:
                detail = str(exc) or f"The provider was silent for {idle:g} seconds."
                raise ProviderError(detail, type=ErrorType.TIMEOUT, retryable=True) from exc
        except ProviderError as exc:
            if self.finish is None or exc.type not in BROKEN_OFF:
                raise
            logger.info("Reply %s: the provider failed after its end: %s", self.stream.message.uuid, exc)
        if self.finish is None:
            raise ProviderError("The reply ended without its end.", type=ErrorType.TRUNCATED, retryable=True)
        return self.finish

    async def _take(self, delta: Delta) -> None:
        stream = self.stream
        match delta:
            case Started():
                self.request_id = delta.request_id or self.request_id
                self.model = delta.model or self.model
                if delta.model:
                    stream.facts["model"] = delta.model
            case Usage():
                self.usage = delta
            case Finish():
                self.finish = delta
            case TextDelta() | RefusalDelta() | ReasoningDelta():
                await stream.aappend(replace(delta, text=storable(delta.text)))
            case ToolCallDelta():
                await stream.aappend(self._identified(replace(delta, arguments=storable(delta.arguments))))
            case SourceDelta():
                url, title, text = storable((delta.url, delta.title, delta.text))
                await stream.aappend(SourceDelta(url=url, title=title, text=text))
            case RawBlock():
                await stream.aappend(RawBlock(storable(delta.data)))
            case _:
                await stream.aappend(await attachments.akeep(stream.message, delta))

    def _identified(self, delta: ToolCallDelta) -> ToolCallDelta:
        """Give each call of the reply an id of its own: some services give none, or begin to count anew each time."""
        if delta.index in self._indexes:
            return replace(delta, id=None)
        known = self.reply.call_ids
        own = delta.id if delta.id and delta.id not in known else f"call_{uuid4().hex[:16]}"
        known.add(own)
        self._indexes.add(delta.index)
        return replace(delta, id=own)

    async def _account(self, call: Awaitable[ProviderCall], exc: BaseException | None = None) -> None:
        """Store what came of it, and have the message's counts be those of all its calls; also when cancelled."""
        outcome, error = self._outcome(exc)
        ending = asyncio.ensure_future(self._end_of(call, outcome, error))
        loops.keep(ending)
        self.stream.usage = await asyncio.shield(ending) or self.stream.usage

    def _outcome(self, exc: BaseException | None) -> tuple[CallOutcome, BaseException | None]:
        if exc is None:
            return CallOutcome.COMPLETED, None
        if self.reply.limit.expired():
            return CallOutcome.FAILED, ProviderError("CONVERSE_TOTAL_TIMEOUT was over.", type=ErrorType.TIMEOUT)
        if self.stream.writer.lost or isinstance(exc, Stopped) or not isinstance(exc, Exception):
            return CallOutcome.CANCELLED, None
        return CallOutcome.FAILED, exc

    async def _end_of(
        self, call: Awaitable[ProviderCall], outcome: CallOutcome, error: BaseException | None
    ) -> Usage | None:
        return await journal.current().thread.run(self._end, await call, outcome, error)

    def _end(self, call: ProviderCall, outcome: CallOutcome, error: BaseException | None) -> Usage | None:
        calls.end(
            call,
            outcome,
            usage=self.usage,
            finish_reason=self.finish.reason.value if self.finish else "",
            model=self.model,
            request_id=self.request_id,
            first_delta_at=self.first_delta_at,
            error=error,
        )
        try:
            totals = calls.totals(self.stream.message.pk)
        except DatabaseError:  # a reply does not fail because of its account
            logger.exception("The counts of reply %s could not be read", self.stream.message.uuid)
            return self.usage
        raw = (self.usage or self.stream.usage or Usage()).raw
        counts = {name: totals[f"{name}_tokens"] for name in calls.BUCKETS}
        return Usage(**counts, raw=raw) if raw or any(count is not None for count in counts.values()) else None


def _provider(alias: str) -> Provider:
    try:
        return get_provider(alias)
    except (ImproperlyConfigured, UnknownProvider) as exc:
        raise ProviderError(str(exc), type=ErrorType.NOT_FOUND) from exc


def says_something(delta: Delta) -> bool:
    """Say whether a delta is more than a sign that the connection stands."""
    match delta:
        case Started() | Usage() | Finish():
            return False
        case TextDelta() | RefusalDelta():
            return bool(delta.text)
        case ReasoningDelta():
            return bool(delta.text or delta.signature)
        case ToolCallDelta():
            return bool(delta.arguments or delta.name)
        case _:
            return True
