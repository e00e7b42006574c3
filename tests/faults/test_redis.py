"""A Redis that dies, hangs or was never there costs freshness, not a stream and not a byte."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.faults.conftest import World
from tests.faults.readers import following, report, talk

pytestmark = pytest.mark.parametrize("stack", ["postgresql-redis"], indirect=True)


@pytest.fixture(autouse=True)
def redis_for_those_who_come_after(world: World) -> Iterator[None]:
    yield
    world.redis.thaw()
    if world.redis.process.poll() is not None:
        world.redis.start()


async def test_redis_killed_and_restarted_in_mid_stream_costs_nobody_a_byte(world: World, kind: str) -> None:
    server = world.serve(kind)
    conversations = world.conversations(4)
    alone = [world.reader(server, [uuid], aborts=4, seed=seed) for seed, uuid in enumerate(conversations * 3)]
    async with following([*alone, world.reader(server, conversations)]) as readers:
        talking = asyncio.create_task(talk(readers, 1, deltas=500, pause=0.01))
        for _ in range(2):
            await asyncio.sleep(1)  # the fault falls into the middle of the stream
            world.redis.kill()
            await asyncio.sleep(1)
            await asyncio.to_thread(world.redis.start)
        await talking
        report(f"redis killed twice, {kind}", readers)
        await world.check(readers)
    assert server.complaints() == []


async def test_without_redis_people_subscribe_write_and_read_and_with_it_again_they_read_live(
    world: World, kind: str
) -> None:
    world.redis.kill()
    server = world.serve(kind, CONVERSE_SWEEP_INTERVAL=0.2)
    conversations = world.conversations(2)
    async with following(world.reader(server, [uuid]) for uuid in conversations * 2) as readers:
        await talk(readers, 1, deltas=100, pause=0.01)
        report(f"no redis, {kind}", readers)
        assert sum(reader.reconnects + reader.live for reader in readers) == 0
        await asyncio.to_thread(world.redis.start)
        async with asyncio.timeout(20):
            while not all(reader.live for reader in readers):
                await talk(readers, 1, deltas=20, pause=0.01)
        await world.check(readers)
    assert server.complaints() == []


async def test_a_redis_that_hangs_holds_nobody_up(world: World, kind: str) -> None:
    server = world.serve(kind)
    conversations = world.conversations(3)
    readers = [world.reader(server, [uuid]) for uuid in conversations[:2] * 2]
    async with following(readers):
        await talk(readers, 1, deltas=20, pause=0.01)
        world.redis.freeze()
        await talk(readers, 1, deltas=100, pause=0.01)
        async with following(world.reader(server, conversations) for _ in range(3)) as newcomers:
            await talk(newcomers, 1, deltas=20, pause=0.01)
        report(f"redis frozen, {kind}", [*readers, *newcomers])
        world.redis.thaw()
        async with asyncio.timeout(20):
            before = [reader.live for reader in readers]
            while any(reader.live == known for reader, known in zip(readers, before, strict=True)):
                await talk(readers, 1, deltas=20, pause=0.01)
        await world.check(readers)
    assert server.complaints() == []
