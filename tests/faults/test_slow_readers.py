"""A client that stops reading costs the server next to nothing, and itself not a byte."""

from __future__ import annotations

import asyncio
import os

from tests.faults.conftest import World
from tests.faults.readers import following, report
from tests.servers import Server

SECONDS = float(os.environ.get("CONVERSE_TEST_STALL", "10"))
SCRIPT = {"pause": 0.004, "size": 4_000, "deltas": int(SECONDS / 0.004)}
BOUND = 8_000_000  # bytes a server may grow by for two who do not read, while tens of megabytes pass them by
BOUND_CATCHING_UP = 16_000_000  # and while three read all that at once: a window each, in several encodings


class Meter:
    """How far a server's memory grows."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.before = self.highest = server.memory

    async def watch(self) -> None:
        while True:
            self.highest = max(self.highest, self.server.memory)
            await asyncio.sleep(0.1)

    @property
    def growth(self) -> int:
        return self.highest - self.before


async def test_readers_who_stop_for_ten_seconds_cost_no_memory_and_lose_nothing(world: World) -> None:
    servers = [world.serve(kind) for kind in ("daphne", "uvicorn")]
    [conversation] = world.conversations(1)
    producer = world.open_shell(CONVERSE_FLUSH_INTERVAL=0.02)
    steady = [world.reader(server, [conversation]) for server in servers]
    slow = [world.reader(server, [conversation]) for server in servers * 2]
    async with following([*steady, *slow]) as readers:
        producer.begin("stream", conversations=[conversation], **SCRIPT)
        await asyncio.gather(*(reader.until_told(100_000) for reader in readers))
        for reader in slow:
            reader.reading.clear()
        meters = [Meter(server) for server in servers]
        watching = [asyncio.create_task(meter.watch()) for meter in meters]
        await asyncio.sleep(SECONDS)
        passed = len(steady[0].copies[conversation].replies[0].text.encode())
        stalled = [meter.growth for meter in meters]
        for reader in slow:
            reader.reading.set()
        await asyncio.gather(*(reader.until_closed() for reader in readers))
        await asyncio.to_thread(producer.end)
        for task in watching:
            task.cancel()
        for meter, growth in zip(meters, stalled, strict=True):
            grown = f"grew {growth / 1e6:.1f} MB, and {meter.growth / 1e6:.1f} MB catching up"
            print(f"\nslow, {meter.server.kind}, {world.stack.name}: {passed / 1e6:.0f} MB passed, {grown}")
        report(f"slow, {world.stack.name}", readers)
        await world.check(readers)
    assert [reader.reconnects for reader in readers] == [0] * len(readers)
    assert max(stalled) < BOUND
    assert max(meter.growth for meter in meters) < BOUND_CATCHING_UP
    assert [server.complaints() for server in servers] == [[], []]


async def test_megabytes_of_history_come_in_frames_that_every_server_lets_through(world: World, kind: str) -> None:
    server = world.serve(kind)
    conversations = world.conversations(1)
    known = world.reader(server, conversations)
    async with following([known]):
        pass
    world.shell.do("add_messages", conversation=conversations[0], count=500, size=4_000)
    async with following([known]):
        await world.check([known])
    async with following([world.reader(server, conversations)]) as [new]:
        [latest] = new.copies.values()
    stored = world.shell.do("stored", conversation=conversations[0])["messages"]
    assert [message.text for message in latest.messages.values()] == [
        text for *_, text in stored[-len(latest.messages) :]
    ]
    assert len(latest.messages) > 50
    assert 500_000 < new.largest < 2**20
    assert 500_000 < known.largest < 2**20
    assert server.complaints() == []
