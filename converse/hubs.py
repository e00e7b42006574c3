"""The ears of an event loop: one channel for all its readers, one sweeper for all their heads, one roster a room."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from time import monotonic
from typing import Any, ParamSpec, Protocol, TypeVar
from weakref import WeakKeyDictionary

from django.db import DatabaseError

from converse import loops, records
from converse.broadcasting import group_name, layer, whisper
from converse.conf import settings
from converse.events import Event, Here, Joining, Leaving, frame
from converse.loops import DatabaseThread
from converse.presence import ANNOUNCE, Member, Roster
from converse.replies import start_queued
from converse.streaming import settle_abandoned

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

IDLE = 5  # sweeps are this many times rarer while nothing happens
QUIET = 10.0  # seconds without an event after which a process counts as idle
REJOIN = 60.0  # seconds between two renewals of the groups: memberships end silently (channels#1371)
PATIENCE = 5.0  # seconds for the layer to add or discard a group
PAUSE = 1.0  # seconds before the layer is listened to again after it failed
PRESENCE = "Presence"


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
        self.thread = DatabaseThread()
        self.readers: dict[str, set[Reader]] = {}
        self.rosters: dict[str, Roster] = {}
        self._channel = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._active = 0.0
        self._joining = asyncio.Lock()

    async def query(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Ask the database, once more where a connection had gone stale."""
        try:
            return await self.thread.run(function, *args, **kwargs)
        except DatabaseError:
            return await self.thread.run(function, *args, **kwargs)

    async def join(self, reader: Reader) -> None:
        """Begin to listen for a reader: first listen, then look, so that nothing falls in between."""
        loops.settle()
        async with self._joining:
            if not self._tasks:
                self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._sweep())]
            newcomer = reader.uuid not in self.readers
            self.readers.setdefault(reader.uuid, set()).add(reader)
            if newcomer:
                await self._add_group(reader.uuid)
        await self._look([reader.uuid])
        if reader.member:
            self._enter(reader, reader.member)

    async def leave(self, reader: Reader) -> None:
        """Stop listening for a reader."""
        async with self._joining:
            here = self.readers.get(reader.uuid, set())
            if reader not in here:
                return
            here.discard(reader)
            if reader.member:
                self._presence(reader.uuid, gone=[reader.name])
            if not here:
                del self.readers[reader.uuid]
                self.rosters.pop(reader.uuid, None)
                if (found := layer()) and self._channel:
                    await _attempt(found.group_discard(group_name(reader.uuid), self._channel))
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
                if not self._channel:
                    await self._open_channel(found)
                self.deliver(await found.receive(self._channel))
            except Exception as exc:
                logger.warning("The channel layer failed: %r", exc)
                await asyncio.sleep(PAUSE)

    async def _open_channel(self, found: Any) -> None:
        self._channel = await found.new_channel("converse")

    async def _add_group(self, uuid: str) -> None:
        if (found := layer()) is not None:
            if not self._channel:
                await self._open_channel(found)
            await _attempt(found.group_add(group_name(uuid), self._channel))

    async def _sweep(self) -> None:
        """Compare every reader's head with the database's, so that even a lost last event is found."""
        rejoined = announced = monotonic()
        while True:
            idle = monotonic() - self._active > QUIET
            await asyncio.sleep(settings.CONVERSE_SWEEP_INTERVAL * (IDLE if idle else 1))
            now = monotonic()
            try:
                if await self._look(list(self.readers)):
                    self._active = now
                await self.query(_settle, [next(iter(readers)).conversation_id for readers in self.readers.values()])
            except DatabaseError as exc:
                logger.warning("Heads could not be looked at: %r", exc)
            if now - rejoined > REJOIN:
                rejoined = now
                for uuid in list(self.readers):
                    await self._add_group(uuid)
            if now - announced > ANNOUNCE:
                announced = now
                self._announce()

    async def _look(self, uuids: Iterable[str]) -> bool:
        """Tell readers their heads; say whether any of them was behind."""
        behind = False
        for uuid, head, epoch in await self.query(_heads, list(uuids)):
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

    def _presence(self, uuid: str, **data: Any) -> None:
        whisper({"type": "converse.presence", "event": PRESENCE, "data": {"conversationId": uuid, **data}})

    def _hear_presence(self, uuid: str, data: Mapping[str, Any]) -> None:
        roster = self.rosters.setdefault(uuid, Roster())
        joined = roster.announce(data.get("members", {}), monotonic())
        left = roster.forget(data.get("gone", ()))
        self._tell(uuid, [Joining(conversation_id=uuid, user=user) for user in joined])
        self._tell(uuid, [Leaving(conversation_id=uuid, user=user) for user in left])
        if data.get("ask") and (mine := self._members(uuid)) and not set(data["members"]) <= set(mine):
            self._presence(uuid, members=mine)

    def _announce(self) -> None:
        for uuid, roster in list(self.rosters.items()):
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


async def _attempt(call: Awaitable[Any]) -> None:
    """Ask something of the layer that may fail: the head sweeper makes good for it."""
    try:
        async with asyncio.timeout(PATIENCE):
            await call
    except Exception as exc:
        logger.warning("The channel layer failed: %r", exc)


def _heads(uuids: list[str]) -> list[tuple[str, int, str]]:
    rows = records.Conversation.all_objects.filter(uuid__in=uuids).values_list("uuid", "last_offset", "epoch")
    return [(str(uuid), head, epoch) for uuid, head, epoch in rows]


def _settle(conversation_ids: list[int]) -> None:
    """Whoever looks first closes what a dead writer left, and starts what waits behind it."""
    settle_abandoned(conversation_ids)
    start_queued(conversation_ids)


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def hub() -> Hub:
    """Give the hub of the running loop."""
    return _hubs.setdefault(asyncio.get_running_loop(), Hub())
