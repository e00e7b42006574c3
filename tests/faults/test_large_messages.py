"""A message larger than a server sends in one frame arrives whole: Daphne sends nothing beyond a mebibyte."""

from __future__ import annotations

import asyncio

from tests.faults.conftest import World
from tests.faults.readers import following

SIZE = 2_000_000  # characters, of two and a half bytes on average


async def test_it_arrives_whole_in_a_snapshot_and_in_a_replay(world: World, kind: str) -> None:
    server = world.serve(kind)
    [conversation] = world.conversations(1)
    async with following([world.reader(server, [conversation])]) as [early]:
        await asyncio.to_thread(world.shell.do, "add_messages", conversation=conversation, count=1, size=SIZE)
        async with following([world.reader(server, [conversation])]) as [late]:
            await world.check([early, late])
    for reader in (early, late):
        assert reader.reconnects == 0
        assert 2**19 < reader.largest <= 2**20
    assert late.copies[conversation].snapshots == 1
    assert early.copies[conversation].replays >= 1
