"""Following a conversation: replay what a reader missed, then hand on what is live. The same for every transport."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from django.core.exceptions import ObjectDoesNotExist

from converse import records
from converse.choices import Action
from converse.conf import settings
from converse.cursors import Cursor
from converse.events import Replay, Snapshot
from converse.hubs import Delivery, hub
from converse.log import database
from converse.permissions import fresh, may
from converse.presence import Member
from converse.replays import read

if TYPE_CHECKING:
    from converse.models import Conversation

ASIDES = 100  # events without an offset that wait for a reader; the oldest are let go
REASONS_TO_DOUBT = ("ConversationUpdated", "ConversationDeleted")  # a right may have been withdrawn


class Withdrawn(Exception):
    """The reader may not read this conversation any more, or it is gone."""


class Subscription:
    """One reader's way through one conversation: an async iterator of deliveries, bounded in memory."""

    def __init__(
        self,
        conversation: Conversation,
        user: Any,
        *,
        after: int | None,
        epoch: str | None,
        name: str = "",
        member: Member | None = None,
    ) -> None:
        self.conversation_id = conversation.pk
        self.uuid = str(conversation.uuid)
        self.user = user
        self.name = name or uuid4().hex
        self.member = member
        self._epoch = conversation.epoch
        # Whether there is no cursor to go on from.
        self._lost = after is None or after > conversation.last_offset or epoch != conversation.epoch
        self._cursor: Cursor[Delivery] = Cursor(0 if self._lost else after or 0, settings.CONVERSE_WINDOW)
        self._asides: deque[Delivery] = deque(maxlen=ASIDES)
        self._wake = asyncio.Event()
        self._due = monotonic() + settings.CONVERSE_REAUTHORIZE_INTERVAL  # when to look at the right to read again
        self._doubted = False

    @property
    def offset(self) -> int:
        """The cursor: the offset of the last event handed on."""
        return self._cursor.offset

    def offer(self, delivery: Delivery, epoch: str, *, pointer: bool = False) -> None:
        """Take in what the layer brought; no I/O here."""
        offset = delivery.data.get("offset")
        if offset is None:
            self._asides.append(delivery)
        elif epoch != self._epoch:
            self._lost = True
        elif pointer:
            self._cursor.hear(offset)
        else:
            self._cursor.offer(offset, delivery, len(delivery.text))
        self._doubted = self._doubted or delivery.name in REASONS_TO_DOUBT
        self._wake.set()

    def hear(self, head: int, epoch: str) -> None:
        """Take in how far the log has come."""
        self._lost = self._lost or epoch != self._epoch
        self._cursor.hear(head)
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[Delivery]:
        return self

    async def __anext__(self) -> Delivery:
        while True:
            if self._doubted or monotonic() > self._due:
                await self._authorise()
            if self._lost or self._cursor.behind:
                if found := await self._read():
                    return found
                continue
            if self._cursor.ready:
                return self._cursor.take()
            if self._asides:
                return self._asides.popleft()
            self._wake.clear()
            await self._wake.wait()

    async def _read(self) -> Delivery | None:
        """Read what is missing; None where there is nothing, whatever was heard."""
        known = None if self._lost else self._cursor.offset
        found = await hub().query(read, self.conversation_id, known, self._epoch)
        if found is None:
            raise Withdrawn
        if self._doubted or _casts_doubt(found, self._epoch):
            await self._authorise()
        if found.epoch == self._epoch and found.offset > self._cursor.offset:
            self._cursor.jump(found.offset)
        else:
            self._epoch = found.epoch
            self._cursor.reset(found.offset)
        self._lost = False
        return None if found.offset == known else Delivery.of(found)

    async def _authorise(self) -> None:
        self._due, self._doubted = monotonic() + settings.CONVERSE_REAUTHORIZE_INTERVAL, False
        if self.user is not None and not await hub().query(_still_may, self.user, self.conversation_id):
            raise Withdrawn

    async def __aenter__(self) -> Self:
        await hub().join(self)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        hub().leave(self)


def _casts_doubt(found: Replay | Snapshot, epoch: str) -> bool:
    """Say whether a right may have been withdrawn in what was read."""
    if isinstance(found, Snapshot):
        return found.epoch != epoch
    return any(event["event"] in REASONS_TO_DOUBT for event in found.events)


def _still_may(user: Any, conversation_id: int) -> bool:
    try:
        conversation = records.Conversation.all_objects.using(database()).get(pk=conversation_id)
        return may(fresh(user), Action.READ, conversation)
    except ObjectDoesNotExist:
        return False


def subscribe(
    conversation: Conversation,
    user: Any = None,
    *,
    after: int | None = None,
    epoch: str | None = None,
    name: str = "",
    member: Member | None = None,
) -> Subscription:
    """Follow a conversation: ``async with subscribe(conversation, after=17, epoch="…") as events: async for …``.

    What is assembled from the events equals what is stored, whatever the channel layer loses. Without a cursor, or with
    one that cannot be honoured, the first is a snapshot. With a ``user`` the right to read is looked at again whenever
    it may have changed; when it ended, Withdrawn is raised. A ``member`` is seen by others who are.
    """
    return Subscription(conversation, user, after=after, epoch=epoch, name=name, member=member)
