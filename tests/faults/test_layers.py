"""Whatever the channel layer and the sockets do, every reader ends up with what is stored."""

from __future__ import annotations

import os

from tests.faults.conftest import World
from tests.faults.readers import following, report, talk

FACTOR = int(os.environ.get("CONVERSE_TEST_FACTOR", "1"))  # how many times more of everything
READERS = 4  # a conversation


async def test_a_lossy_layer_and_aborted_sockets_cost_nobody_a_byte(world: World, kind: str) -> None:
    server = world.serve(kind, {"drop": 0.3, "double": 0.05, "late": 0.05})
    conversations = world.conversations(5 * FACTOR)
    alone = [world.reader(server, [uuid], aborts=2, seed=seed) for seed, uuid in enumerate(conversations * READERS)]
    of_all = world.reader(server, conversations, aborts=4)
    async with following([*alone, of_all]) as readers:
        await talk(readers, 2, deltas=120 * FACTOR, pause=0.01)
        report(f"lossy, {kind}, {world.stack.name}", readers)
        await world.check(readers)
    assert sum(reader.reconnects for reader in readers) > 0
    assert sum(reader.live for reader in readers) > 0
    assert server.complaints() == []


async def test_a_layer_that_drops_everything_costs_freshness_only(world: World, kind: str) -> None:
    server = world.serve(kind, {"drop": 1})
    conversations = world.conversations(4 * FACTOR)
    alone = [world.reader(server, [uuid], aborts=4, seed=seed) for seed, uuid in enumerate(conversations * READERS)]
    async with following([*alone, world.reader(server, conversations)]) as readers:
        await talk(readers, 1, deltas=150 * FACTOR, pause=0.01)
        report(f"all dropped, {kind}, {world.stack.name}", readers)
        await world.check(readers)
    assert sum(reader.live for reader in readers) == 0
    assert server.complaints() == []
