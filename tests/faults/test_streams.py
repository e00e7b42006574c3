"""Server-sent events over real servers: words come before the end, who does not read costs little."""

from __future__ import annotations

import asyncio
import os
import socket

from tests.faults.conftest import World
from tests.faults.test_slow_readers import Meter
from tests.servers import Server

SECONDS = float(os.environ.get("CONVERSE_TEST_STALL", "10"))
SCRIPT = {"pause": 0.004, "size": 4_000, "deltas": int(SECONDS / 0.004)}
STALLED = 5  # readers of each server who do not read
LIMIT = 1_000_000  # bytes of one response
BOUND = 30_000_000  # bytes that a server may grow by for all of them
PATIENCE = 20


class Connection:
    """A plain HTTP/1.1 request for events, read only when told to."""

    def __init__(self, server: Server, session: str, conversation: str) -> None:
        self.server = server
        self.head = (
            f"GET /converse/conversations/{conversation}/events/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            f"Cookie: sessionid={session}\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        self.said = b""

    async def open(self) -> Connection:
        plain = socket.create_connection(("127.0.0.1", self.server.port))
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
        plain.setblocking(False)
        self.reader, self.writer = await asyncio.open_connection(sock=plain, limit=8_192)
        self.writer.write(self.head.encode())
        await self.writer.drain()
        return self

    async def until(self, words: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while words not in self.said:
                piece = await self.reader.read(4_096)
                assert piece, self.said[-500:]
                self.said += piece

    async def close(self) -> None:
        """Hang up, without a word."""
        self.writer.transport.abort()
        await asyncio.sleep(0)


async def test_words_come_before_the_end_and_who_leaves_stops_nothing(world: World, kind: str) -> None:
    server = world.serve(kind)
    [conversation] = world.conversations(1)
    producer = world.open_shell()
    reader = await Connection(server, world.session, conversation).open()
    await reader.until(b"event: Snapshot")
    for header in (b"text/event-stream", b"no-transform", b"X-Accel-Buffering: no", b"Content-Encoding: identity"):
        assert header.lower() in reader.said.lower()
    producer.begin("stream", conversations=[conversation], deltas=200, pause=0.01)
    await reader.until(b"StreamUpdate")  # in a replay, where the layer is in memory
    assert b"MessageCompleted" not in reader.said
    await reader.close()
    await asyncio.to_thread(producer.end)
    [(_, status, content)] = world.shell.do("stored", conversation=conversation)["messages"]
    assert (status, content.count("\n")) == ("completed", 200)
    assert server.complaints() == []


async def test_readers_who_do_not_read_cost_a_server_no_more_than_the_limit(world: World, kind: str) -> None:
    server = world.serve(kind, CONVERSE_SSE_LIMIT=LIMIT)
    [conversation] = world.conversations(1)
    producer = world.open_shell(CONVERSE_FLUSH_INTERVAL=0.02)
    stalled = [await Connection(server, world.session, conversation).open() for _ in range(STALLED)]
    for reader in stalled:
        await reader.until(b"event: Snapshot")
    meter = Meter(server)
    watching = asyncio.create_task(meter.watch())
    producer.begin("stream", conversations=[conversation], **SCRIPT)
    await asyncio.to_thread(producer.end)
    watching.cancel()
    passed = SCRIPT["deltas"] * SCRIPT["size"]
    grown = f"grew {meter.growth / 1e6:.1f} MB"
    print(f"\nevents, {kind}, {world.stack.name}: {passed / 1e6:.0f} MB passed {STALLED} who do not read, {grown}")
    for reader in stalled:
        await reader.close()
    assert meter.growth < BOUND
    assert server.complaints() == []
