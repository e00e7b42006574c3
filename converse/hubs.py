"""The ears of an event loop: one channel for all its readers, one sweeper for all their heads, one roster a room."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from time import monotonic
from typing import Any, ParamSpec, Protocol, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from django.db import DatabaseError, InterfaceError

from converse import calls, loops, records
from converse.broadcasting import group_name, layer, whisper
from converse.choices import Status
from converse.closing import settle_abandoned
from converse.conf import settings
from converse.events import Event, Here, Joining, Leaving, frame
from converse.log import database
from converse.loops import DatabaseThread, PerLoop
from converse.presence import ANNOUNCE, Member, Roster
from converse.replies import start_queued

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

IDLE = 5  # sweeps are this many times rarer while nothing happens
QUIET = 10.0  # seconds without an event after which a process counts as idle
GRACE = 0.2  # of a sweep's interval, for events on their way: without it a busy sweep has everybody read the table
RETUNE = 5.0  # seconds between two looks for groups that the layer would not let us into
REJOIN = 60.0  # seconds between two renewals of all groups: memberships end silently (channels#1371)
AUDIT = 60.0  # seconds between two looks for calls of providers that nobody will ever end
PATIENCE = 5.0  # seconds for the layer to add or discard a group
PAUSE = 1.0  # seconds before the layer is listened to again after it failed
PRESENCE = "Presence"
GONE = (0, "")  # head and epoch of a conversation that is there no more: no reader's epoch is this one


class Delivery:
    """An event on its way to readers, encoded once for all of them."""

    def __init__(self, name: str, data: dict[str, Any]) -> None:
        self.name = name
        self.data = data

    @classmethod
    def of(cls, event: Event) -> Delivery:
        framed = frame(event)
        return cls(framed["event"], framed["data"])

    @cached_property
    def text(self) -> str:
        """The event as a JSON object of ``event`` and ``data``."""
        return json.dumps({"event": self.name, "data": self.data}, ensure_ascii=False, separators=(",", ":"))


class Reader(Protocol):
    """What a hub serves."""

    name: str  # of the socket or request
    member: Member | None  # who is seen in the conversation, if anybody
    conversation_id: int
    uuid: str

    @property
    def offset(self) -> int: ...
    def offer(self, delivery: Delivery, epoch: str, *, pointer: bool = False) -> None: ...
    def hear(self, head: int, epoch: str) -> None: ...


class Hub:
    """Serves all readers of one event loop. What it does for a live event is free of I/O."""

    def __init__(self) -> None:
        self.name = uuid4().hex  # among the hubs of all processes
        self.thread = DatabaseThread()
        self.readers: dict[str, set[Reader]] = {}
        self.rosters: dict[str, Roster] = {}
        self._channel = ""
        self._opening = asyncio.Lock()
        self._groups: dict[str, str] = {}  # the channel by which we are in a conversation's group
        self._tuning: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: list[asyncio.Task[None]] = []
        self._active = 0.0

    async def query(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask the database, once more where a connection had gone stale."""
        try:
            return await self.thread.run(function, *args, **kwargs)
        except (DatabaseError, InterfaceError):
            return await self.thread.run(function, *args, **kwargs)

    async def join(self, reader: Reader) -> None:
        """Begin to listen for a reader: first listen, then look, so that nothing falls in between."""
        loops.settle()
        self._active = monotonic()
        self.readers.setdefault(reader.uuid, set()).add(reader)
        if not self._tasks:
            self._tasks = [asyncio.create_task(work) for work in (self._listen(), self._sweep(), self._stay())]
        try:
            await self._tune(reader.uuid)
            await self._look([reader.uuid])
        except BaseException:
            self.leave(reader)
            raise
        if reader.member:
            self._enter(reader, reader.member)

    def leave(self, reader: Reader) -> None:
        """Stop listening for a reader. It happens at once: whoever leaves may be in the course of being cancelled."""
        here = self.readers.get(reader.uuid, set())
        if reader not in here:
            return
        here.discard(reader)
        if reader.member:
            self._exit(reader)
        if not here:
            del self.readers[reader.uuid]
            self.rosters.pop(reader.uuid, None)
            loops.keep(asyncio.create_task(self._tune(reader.uuid)))
        if not self.readers:
            for task in self._tasks:
                task.cancel()
            self._tasks, self._channel = [], ""

    def deliver(self, message: Mapping[str, Any]) -> None:
        """Hand a group's message to the readers of its conversation; no I/O here."""
        data = message.get("data") or {}
        name = message.get("event", "")
        uuid = data.get("conversationId", "")
        if name == PRESENCE:
            self._hear_presence(uuid, data)
            return
        self._active = monotonic()
        delivery = Delivery(name, data)
        for reader in self.readers.get(uuid, ()):
            if not message.get("origin") or message["origin"] != reader.name:
                reader.offer(delivery, message.get("epoch", ""), pointer=bool(message.get("pointer")))

    async def _listen(self) -> None:
        while (found := layer()) is not None:
            try:
                message = await found.receive(await self._open_channel(found))
            except Exception as exc:
                logger.warning("The channel layer failed: %r", exc)
                await asyncio.sleep(PAUSE)
                continue
            try:
                self.deliver(message)
            except Exception:
                logger.exception("A message of the channel layer makes no sense.")

    async def _open_channel(self, found: Any) -> str:
        # Two who open one at a time would listen on one channel and be called on the other.
        async with self._opening:
            if not self._channel:
                self._channel = await found.new_channel("converse")
            return self._channel

    async def _tune(self, uuid: str, *, again: bool = False) -> None:
        """Be in a conversation's group while, and only while, somebody here reads it; one call at a time for each."""
        if (found := layer()) is None:
            return
        async with self._tuning.setdefault(uuid, asyncio.Lock()):
            had = self._groups.get(uuid, "")
            stale = bool(had) and (uuid not in self.readers or had != self._channel)
            if stale and await _attempt(found.group_discard(group_name(uuid), had)):
                del self._groups[uuid]
            if uuid in self.readers and (again or stale or not had):
                await _attempt(self._enter_group(found, uuid))

    async def _enter_group(self, found: Any, uuid: str) -> None:
        channel = await self._open_channel(found)
        await found.group_add(group_name(uuid), channel)
        self._groups[uuid] = channel

    async def _stay(self) -> None:
        """Keep the groups that we are in, and try again those that we could not enter."""
        renewed = monotonic()
        while True:
            await asyncio.sleep(RETUNE)
            if again := monotonic() - renewed > REJOIN:
                renewed = monotonic()
            for uuid in {*self.readers, *self._groups}:
                await self._tune(uuid, again=again)

    async def _sweep(self) -> None:
        """Compare every reader's head with the database's, so that even a lost last event is found."""
        announced = audited = monotonic()
        busy = False  # whether anything is being written in what is followed
        while True:
            idle = not busy and monotonic() - self._active > QUIET
            await asyncio.sleep(settings.CONVERSE_SWEEP_INTERVAL * (IDLE if idle else 1))
            try:
                if monotonic() - announced > ANNOUNCE:
                    announced = monotonic()
                    self._announce()
                if await self._look(list(self.readers), settings.CONVERSE_SWEEP_INTERVAL * GRACE):
                    self._active = monotonic()
                followed = [next(iter(readers)).conversation_id for readers in self.readers.values()]
                busy = await self.query(_settle, followed)
                if monotonic() - audited > AUDIT:
                    audited = monotonic()
                    await self.query(calls.settle)
            except Exception as exc:  # whatever it was: without a sweeper readers could wait for ever
                logger.warning("Heads could not be looked at: %r", exc)

    async def _look(self, uuids: Iterable[str], grace: float = 0) -> bool:
        """Tell readers their heads, when what is on its way had time to come; say whether any of them was behind."""
        behind = False
        heads = await self.query(_heads, list(uuids))
        await asyncio.sleep(grace)
        for uuid in uuids:
            head, epoch = heads.get(uuid, GONE)
            for reader in self.readers.get(uuid, ()):
                behind = behind or head > reader.offset
                reader.hear(head, epoch)
        return behind

    # Presence.

    def _enter(self, reader: Reader, member: Member) -> None:
        roster = self.rosters.setdefault(reader.uuid, Roster())
        joined = roster.announce({reader.name: member}, monotonic())
        self._tell(reader.uuid, [Joining(conversation_id=reader.uuid, user=user) for user in joined], but=reader.name)
        reader.offer(Delivery.of(Here(conversation_id=reader.uuid, users=roster.users())), "")
        self._presence(reader.uuid, members={reader.name: dict(member)}, ask=True)

    def _exit(self, reader: Reader) -> None:
        left = self.rosters.setdefault(reader.uuid, Roster()).forget([reader.name])
        self._tell(reader.uuid, [Leaving(conversation_id=reader.uuid, user=user) for user in left])
        self._presence(reader.uuid, gone=[reader.name])

    def _presence(self, uuid: str, **data: Any) -> None:
        told = {"conversationId": uuid, "hub": self.name, **data}
        whisper({"type": "converse.presence", "event": PRESENCE, "data": told})

    def _hear_presence(self, uuid: str, data: Mapping[str, Any]) -> None:
        if uuid not in self.readers or data.get("hub") == self.name:
            return
        roster = self.rosters.setdefault(uuid, Roster())
        joined = roster.announce(data.get("members", {}), monotonic())
        left = roster.forget(data.get("gone", ()))
        self._tell(uuid, [Joining(conversation_id=uuid, user=user) for user in joined])
        self._tell(uuid, [Leaving(conversation_id=uuid, user=user) for user in left])
        if data.get("ask") and (mine := self._members(uuid)):
            self._presence(uuid, members=mine)

    def _announce(self) -> None:
        for uuid, roster in self.rosters.items():
            if mine := self._members(uuid):
                roster.announce(mine, monotonic())
                self._presence(uuid, members=mine)
            self._tell(uuid, [Leaving(conversation_id=uuid, user=user) for user in roster.expire(monotonic())])

    def _members(self, uuid: str) -> dict[str, dict[str, str]]:
        return {reader.name: dict(reader.member) for reader in self.readers.get(uuid, ()) if reader.member}

    def _tell(self, uuid: str, events: Iterable[Event], but: str = "") -> None:
        for event in events:
            delivery = Delivery.of(event)
            for reader in self.readers.get(uuid, ()):
                if reader.member and reader.name != but:
                    reader.offer(delivery, "")


async def _attempt(call: Awaitable[Any]) -> bool:
    """Ask something of the layer that may fail: the head sweeper makes good for it. Say whether it did not."""
    try:
        async with asyncio.timeout(PATIENCE):
            await call
    except Exception as exc:
        logger.warning("The channel layer failed: %r", exc)
        return False
    return True


def _heads(uuids: list[str]) -> dict[str, tuple[int, str]]:
    rows = records.Conversation.all_objects.using(database()).filter(uuid__in=uuids)
    return {str(uuid): (head, epoch) for uuid, head, epoch in rows.values_list("uuid", "last_offset", "epoch")}


def _settle(conversation_ids: list[int]) -> bool:
    """Close what a dead writer left, and start what waits behind it; say whether anything is being written."""
    settle_abandoned(conversation_ids)
    start_queued(conversation_ids)
    being_written = records.Message.all_objects.using(database()).filter(status__in=(Status.PENDING, Status.STREAMING))
    return bool(being_written.filter(conversation_id__in=conversation_ids).exists())


_hubs = PerLoop(Hub)


def hub() -> Hub:
    """Give the hub of the running loop."""
    return _hubs()
