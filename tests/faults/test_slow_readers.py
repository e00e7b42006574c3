"""A client that stops reading costs the server next to nothing, and itself nothing either."""

from __future__ import annotations

import asyncio
import os

from tests.faults.conftest import World
from tests.faults.readers import following, report

SECONDS = float(os.environ.get("CONVERSE_TEST_STALL", "10"))
SIZE = 4_000  # characters a delta
PAUSE = 0.002
BOUND = 8_000_000  # bytes the server may grow by, for all who do not read


async def test_readers_that_stop_for_ten_seconds_cost_no_memory_and_lose_nothing(world: World, kind: str) -> None:
    server = world.serve(kind)
    [conversation] = world.conversations(1)
    producer = world.open_shell(CONVERSE_FLUSH_INTERVAL=0.02)
    readers = [world.reader(server, [conversation], seed=seed) for seed in range(4)]
    deltas = int(SECONDS / PAUSE)
    async with following(readers):
        producer.begin("stream", conversations=[conversation], deltas=deltas, pause=PAUSE, size=SIZE)
        for reader in readers:
            await reader.until(lambda reader=reader: any(len(m["content"]) > 200_000 for m in reader.copies[conversation].replies))
        for reader in readers[1:]:
            reader.reading.clear()
        before = highest = server.memory
        for _ in range(int(SECONDS / 0.1)):
            await asyncio.sleep(0.1)
            highest = max(highest, server.memory)
        streamed = len(readers[0].copies[conversation].replies[0]["content"].encode())
        for reader in readers[1:]:
            reader.reading.set()
        after = 0
        while not all(reader.copies[conversation].closed(1) for reader in readers):
            await asyncio.sleep(0.05)
            after = max(after, server.memory)
        await asyncio.to_thread(producer.end)
        report(f"slow, {kind}, {world.stack.name}: {streamed / 1e6:.1f} MB in the stall, grew {(highest-before) / 1e6:.1f} then {(after-before) / 1e6:.1f} MB", readers)
    world.check(*readers)
    assert sum(reader.reconnects for reader in readers) == 0
    assert highest - before < BOUND
    assert server.complaints() == []
