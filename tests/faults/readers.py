"""A client of the websocket that trusts nothing: it checks the order of every event and keeps what it assembled."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from random import Random
from time import monotonic, time
from typing import Any, Self
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from tests.servers import Server

LINE = re.compile(r"^\d+ (\d+\.\d+) ", re.MULTILINE)  # what ScriptedProvider says
OPEN = ("pending", "streaming", "waiting")
GROWS = {"tool_call": "arguments", "tool_result": "output"}  # where the text of a part is; under "text" for all others
BROKEN = (ConnectionClosed, InvalidHandshake, InvalidMessage, OSError, TimeoutError)


class Told:
    """A message as assembled so far."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)
        content = data.get("content") or ""
        known = data.get("parts") or ([{"type": "text", "text": content}] if content else [])
        self.pieces = [(dict(part), [part[GROWS.get(part["type"], "text")]]) for part in known]
        self.size = len(content)
        self.sequence = data["sequence"]

    @property
    def parts(self) -> list[dict[str, Any]]:
        return [{**facts, GROWS.get(facts["type"], "text"): "".join(pieces)} for facts, pieces in self.pieces]

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def is_open(self) -> bool:
        return self.data["status"] in OPEN

    def add(self, data: Mapping[str, Any]) -> None:
        """Take in a StreamUpdate; a replay tells of parts in the order in which they ended."""
        while len(self.pieces) <= data["part"]:
            self.pieces.append(({}, []))
        facts, pieces = self.pieces[data["part"]]
        named = {key: data[name] for key, name in (("id", "toolCallId"), ("name", "toolName")) if name in data}
        facts.update({"type": data["kind"], **named, **(data.get("data") or {})})
        pieces.append(data["chunk"])
        self.size += len(data["chunk"]) if data["kind"] == "text" else 0
        self.sequence = data["sequence"]


class Copy:
    """A conversation as assembled from events, and every breach of the order on the way."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.epoch: str | None = None
        self.offset: int | None = None
        self.messages: dict[str, Told] = {}
        self.events = self.replays = self.snapshots = 0
        self.violations: list[str] = []
        self.delays: list[float] = []  # seconds from a provider's word to its reader

    def apply(self, event: str, data: dict[str, Any]) -> None:
        match event:
            case "Snapshot":
                self.snapshots += 1
                self.messages = {message["messageId"]: Told(message) for message in data["messages"]}
            case "Replay":
                self.replays += 1
                self.apply_replay(data)
            case _:
                self.events += 1
                self.expect(self.offset is not None and data["offset"] == self.offset + 1, "live", event, data)
                self.tell(event, data)
        self.offset, self.epoch = data["offset"], data.get("epoch", self.epoch)

    def apply_replay(self, data: dict[str, Any]) -> None:
        self.expect(self.offset is not None and data["offset"] > self.offset, "replay", "Replay", data)
        self.expect(data["epoch"] == self.epoch, "epoch", "Replay", data)
        for part in data["events"]:
            inside = self.offset < part["data"]["offset"] <= data["offset"]
            self.expect(inside, "inside a replay", part["event"], part["data"])
            self.tell(part["event"], part["data"])

    def tell(self, event: str, data: dict[str, Any]) -> None:
        known = self.messages.get(data.get("messageId", ""))
        match event, known:
            case "MessageCreated", _:
                self.expect(known is None, "new", event, data)
                self.messages[data["messageId"]] = Told(data)
            case "StreamUpdate", Told():
                self.expect(known.is_open, "of an open message", event, data)
                self.expect(data["sequence"] > known.sequence, "sequence", event, data)
                known.add(data)
                self.delays += [time() - float(told) for told in LINE.findall(data["chunk"])]
            case _, Told():
                known.data.update(data)
            case _, None:
                self.expect("messageId" not in data, "of a known message", event, data)

    def expect(self, held: bool, what: str, event: str, data: Mapping[str, Any]) -> None:
        if not held:
            brief = {key: value for key, value in data.items() if key in ("offset", "sequence", "messageId", "status")}
            self.violations.append(f"{what}: {event} {brief} at {self.offset} of {self.uuid}")

    @property
    def replies(self) -> list[Told]:
        return [message for message in self.messages.values() if message.data["role"] == "assistant"]

    @property
    def closed(self) -> int:
        """Count the replies that have come to their end."""
        return sum(not reply.is_open for reply in self.replies)


class Reader:
    """Follows conversations over one socket at a time; comes back, with its cursors, whenever that breaks."""

    def __init__(
        self, server: Server, session: str, conversations: Iterable[str], *, aborts: float = 0, seed: int = 0
    ) -> None:
        self.server = server
        self.session = session
        self.copies = {uuid: Copy(uuid) for uuid in conversations}
        self.aborts = aborts  # seconds that a socket lasts on average, where it does not last
        self.dice = Random(seed)
        self.reconnects = -1
        self.largest = 0  # bytes of a frame
        self.errors: list[dict[str, Any]] = []
        self.reading = asyncio.Event()  # clear it and nothing is read, nor acknowledged
        self.reading.set()
        self._socket: ClientConnection | None = None
        self._connected = asyncio.Event()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = count(1)
        self._changed = asyncio.Condition()
        self._unacknowledged = 0
        self._acknowledged = monotonic()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    @property
    def live(self) -> int:
        """Count the events that came one by one."""
        return sum(copy.events for copy in self.copies.values())

    @property
    def violations(self) -> list[str]:
        return [violation for copy in self.copies.values() for violation in copy.violations]

    async def until_subscribed(self) -> None:
        """Wait for the first snapshots."""
        await self.until(lambda: all(copy.offset is not None for copy in self.copies.values()))

    async def until_closed(self, replies: int | Mapping[str, int] = 1) -> None:
        """Wait until so many replies, of each conversation, have come to their end."""
        wanted = dict.fromkeys(self.copies, replies) if isinstance(replies, int) else replies
        await self.until(lambda: all(copy.closed >= wanted[uuid] for uuid, copy in self.copies.items()), 60)

    async def until_told(self, characters: int) -> None:
        """Wait until the latest reply of every conversation has come so far."""
        await self.until(lambda: all(c.replies and c.replies[-1].size >= characters for c in self.copies.values()))

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        async with asyncio.timeout(seconds), self._changed:
            while not condition():
                assert not self._task.done(), self._task.exception()
                await self._changed.wait()

    async def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a command and give its answer; again where the socket broke in between."""
        while True:
            await self._connected.wait()
            number = next(self._ids)
            self._answers[number] = asyncio.get_running_loop().create_future()
            try:
                await self._socket.send(json.dumps({"type": type, "id": number, **fields}))
                async with asyncio.timeout(20):
                    return await self._answers[number]
            except ConnectionClosed:
                await asyncio.sleep(0.01)

    async def say(self, conversation: str, *, provider: str = "", **script: Any) -> str:
        """Ask for a reply, exactly one however often the socket breaks; give its uuid."""
        turn = {"conversation": conversation, "content": json.dumps(script), "clientId": uuid4().hex}
        answer = await self.ask("send", **turn, provider=provider)
        assert answer["type"] == "sent", answer
        return answer["reply"]

    async def _run(self) -> None:
        while True:
            try:
                async with self._open() as socket:
                    self.reconnects += 1
                    for copy in self.copies.values():
                        await self._subscribe(socket, copy)
                    pieces: list[str] = []
                    async for text in socket:
                        await self.reading.wait()
                        self.largest = max(self.largest, len(text.encode()))
                        frame = json.loads(text)
                        if frame.get("type") == "piece":
                            pieces.append(frame["text"])
                            if frame["more"]:
                                continue
                            text, pieces = "".join(pieces), []
                            frame = json.loads(text)
                        await self._take(socket, frame, len(text.encode()))
            except BROKEN:
                pass
            await asyncio.sleep(self.dice.uniform(0, 0.1))

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[ClientConnection]:
        async with connect(
            self.server.socket_url,
            origin=self.server.origin,
            additional_headers={"Cookie": f"sessionid={self.session}"},
            compression=None,
            max_size=None,
            ping_interval=None,
            proxy=None,
        ) as socket:
            if self.aborts:
                lifetime = self.dice.expovariate(1 / self.aborts)
                asyncio.get_running_loop().call_later(lifetime, socket.transport.abort)
            self._socket = socket
            self._connected.set()
            try:
                yield socket
            finally:
                self._connected.clear()
                for answer in self._answers.values():
                    if not answer.done():
                        answer.set_exception(ConnectionClosed(None, None))
                self._answers.clear()

    async def _subscribe(self, socket: ClientConnection, copy: Copy) -> None:
        cursor = {} if copy.offset is None else {"after": copy.offset, "epoch": copy.epoch}
        await socket.send(json.dumps({"type": "subscribe", "conversation": copy.uuid, **cursor}))

    async def _take(self, socket: ClientConnection, frame: dict[str, Any], size: int) -> None:
        if "event" in frame:
            data = frame["data"]
            copy = self.copies[data["conversationId"]]
            copy.apply(frame["event"], data)
            await self._acknowledge(socket, copy, size)
            async with self._changed:
                self._changed.notify_all()
        elif answer := self._answers.pop(frame.get("id"), None):
            answer.set_result(frame)
        elif frame["type"] == "error":
            self.errors.append(frame)

    async def _acknowledge(self, socket: ClientConnection, copy: Copy, size: int) -> None:
        self._unacknowledged += size
        if self._unacknowledged > 32_000 or monotonic() - self._acknowledged > 1:
            self._unacknowledged, self._acknowledged = 0, monotonic()
            await socket.send(json.dumps({"type": "ack", "conversation": copy.uuid, "offset": copy.offset}))


def report(name: str, readers: Iterable[Reader]) -> None:
    """Say what happened, to those who run pytest with -s."""
    readers = list(readers)
    copies = [copy for reader in readers for copy in reader.copies.values()]
    delays = sorted(delay * 1000 for copy in copies for delay in copy.delays) or [0]
    print(
        f"\n{name}: {len(readers)} clients, {sum(copy.offset or 0 for copy in copies)} events, "
        f"{sum(reader.live for reader in readers)} of them live, "
        f"{sum(copy.replays for copy in copies)} replays, {sum(copy.snapshots for copy in copies)} snapshots, "
        f"{sum(reader.reconnects for reader in readers)} reconnects, "
        f"{sum(len(reader.violations) for reader in readers)} violations, "
        f"ms p50 {delays[len(delays) // 2]:.0f}, p99 {delays[len(delays) * 99 // 100]:.0f}, max {delays[-1]:.0f}"
    )


async def talk(readers: Iterable[Reader], replies: int, **script: float) -> None:
    """Have so many replies streamed, one after the other, into every conversation; wait until all have them."""
    readers = list(readers)
    asking = {uuid: reader for reader in reversed(readers) for uuid in reader.copies}

    def closed(copy: Copy, number: int) -> bool:
        return copy.closed >= number

    async def ask(reader: Reader, uuid: str) -> None:
        known = len(reader.copies[uuid].replies)
        for number in range(known + 1, known + replies + 1):
            await reader.say(uuid, **script)
            await reader.until(partial(closed, reader.copies[uuid], number), 60)

    await asyncio.gather(*(ask(reader, uuid) for uuid, reader in asking.items()))
    wanted = {uuid: len(reader.copies[uuid].replies) for uuid, reader in asking.items()}
    await asyncio.gather(*(reader.until_closed(wanted) for reader in readers))


@asynccontextmanager
async def following(readers: Iterable[Reader]) -> AsyncIterator[list[Reader]]:
    """Keep readers going, all of them subscribed."""
    readers = list(readers)
    try:
        await asyncio.gather(*(reader.__aenter__() for reader in readers))
        await asyncio.gather(*(reader.until_subscribed() for reader in readers))
        yield readers
    finally:
        await asyncio.gather(*(reader.__aexit__() for reader in readers))
