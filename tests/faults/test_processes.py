"""Processes come and go; a reply, its text and its readers stay."""

from __future__ import annotations

import asyncio
import json
from time import monotonic

from tests.faults.conftest import World
from tests.faults.readers import following, report

LEASE = 3.0
SWEEP = 0.5
ENDLESS = {"deltas": 100_000, "pause": 0.01}


async def test_what_another_process_streams_reaches_every_reader(world: World, kind: str) -> None:
    server = world.serve(kind)
    conversations = world.conversations(4)
    producer = world.open_shell()
    alone = [world.reader(server, [uuid], aborts=3, seed=seed) for seed, uuid in enumerate(conversations * 3)]
    async with following([*alone, world.reader(server, conversations)]) as readers:
        producer.begin("stream", conversations=conversations, deltas=200, pause=0.01)
        await asyncio.gather(*(reader.until_closed() for reader in readers))
        await asyncio.to_thread(producer.end)
        report(f"producer elsewhere, {kind}, {world.stack.name}", readers)
        await world.check(readers)
    assert any(reader.live for reader in readers) == world.stack.crosses_processes
    assert server.complaints() == producer.complaints() == []


async def test_a_killed_producer_leaves_its_text_and_readers_learn_within_the_lease(world: World, kind: str) -> None:
    server = world.serve(kind, CONVERSE_SWEEP_INTERVAL=SWEEP)
    [conversation] = world.conversations(1)
    producer = world.open_shell(CONVERSE_LEASE=LEASE)
    async with following(world.reader(server, [conversation]) for _ in range(3)) as readers:
        reply = producer.do("reply", conversation=conversation, content=json.dumps(ENDLESS))
        await asyncio.gather(*(reader.until_told(1_000) for reader in readers))
        producer.kill()
        killed = monotonic()
        kept = world.shell.do("message", message=reply)["text"]
        await asyncio.gather(*(reader.until_closed() for reader in readers))
        seconds = monotonic() - killed
        report(f"producer killed, told {seconds:.1f} s later, {kind}, {world.stack.name}", readers)
        await world.check(readers)
    facts = world.shell.do("message", message=reply)
    assert (facts["status"], facts["error_type"], facts["content"]) == ("failed", "interrupted", kept)
    assert seconds < LEASE + 2 * SWEEP  # it is looked for once a sweep
    assert server.complaints() == []


async def test_a_killed_server_comes_back_to_readers_who_have_lost_nothing(world: World, kind: str) -> None:
    server = world.serve(kind, CONVERSE_LEASE=LEASE, CONVERSE_SWEEP_INTERVAL=SWEEP)
    conversations = world.conversations(2)
    async with following(world.reader(server, conversations) for _ in range(4)) as readers:
        for conversation in conversations:
            await readers[0].say(conversation, **ENDLESS)
        await asyncio.gather(*(reader.until_told(1_000) for reader in readers))
        server.kill()
        await asyncio.to_thread(server.start)
        await asyncio.gather(*(reader.until_closed() for reader in readers))
        report(f"server killed, {kind}, {world.stack.name}", readers)
        await world.check(readers)
    for reader in readers:
        assert reader.reconnects > 0
        assert [copy.replies[0].data["status"] for copy in reader.copies.values()] == ["failed", "failed"]
    assert server.complaints() == []


def test_after_a_killed_producer_the_next_to_write_needs_no_reader_who_settles_it(world: World) -> None:
    [conversation] = world.conversations(1)
    producer = world.open_shell(CONVERSE_LEASE=1.0)
    dead = producer.do("reply", conversation=conversation, content=json.dumps(ENDLESS))
    producer.kill()
    assert world.shell.do("reply_when_free", conversation=conversation, content='{"deltas": 3, "pause": 0}') != dead
    assert world.shell.do("message", message=dead)["error_type"] == "interrupted"
