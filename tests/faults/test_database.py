"""A database that goes away for a moment, or takes back what it was given, makes no reader see what is not stored."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.conftest import World
from tests.faults.readers import following, report, talk

pytestmark = pytest.mark.parametrize("stack", ["postgresql-redis"], indirect=True)


async def test_connections_cut_in_mid_stream_cost_nobody_a_byte(world: World, kind: str) -> None:
    server = world.serve(kind)
    conversations = world.conversations(3)
    async with following(world.reader(server, conversations) for _ in range(4)) as readers:
        talking = asyncio.create_task(talk(readers, 1, deltas=300, pause=0.01))
        await asyncio.gather(*(reader.until_told(300) for reader in readers))
        for _ in range(3):
            await asyncio.to_thread(world.shell.do, "cut_connections")
            await asyncio.sleep(0.5)  # the next cut is to hit connections at work
        await talking
        report(f"connections cut, {kind}", readers)
        await world.check(readers)
    assert [copy.replies[0].data["status"] for copy in readers[0].copies.values()] == ["completed"] * 3
    assert server.complaints() == []


async def test_what_fails_to_be_committed_is_seen_by_nobody(world: World, kind: str) -> None:
    server = world.serve(kind)
    conversations = world.conversations(2)
    with world.committing_fails_beyond(sequence=5):
        async with following(world.reader(server, conversations) for _ in range(3)) as readers:
            await talk(readers, 1, deltas=100, pause=0.01)
            await world.check(readers)
    for reader in readers:
        for copy in reader.copies.values():
            assert copy.replies[0].data["status"] == "failed"
            assert copy.replies[0].text.count("\n") >= 5
            assert copy.replies[0].sequence == 5
