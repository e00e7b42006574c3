"""Processes come and go; a reply, its text and its readers stay."""

from __future__ import annotations

import asyncio
import json
from time import monotonic

from tests.faults.conftest import World
from tests.faults.readers import Reader, following, report

LEASE = 3.0
SWEEP = 0.5


async def until_everybody_has(readers: list[Reader], characters: int) -> None:
    """Wait until the reply, the only one, has come so far."""
    for reader in readers:
        for copy in reader.copies.values():
            await reader.until(lambda copy=copy: any(len(reply["content"]) > characters for reply in copy.replies))


async def test_what_another_process_streams_reaches_every_reader(world: World, kind: str) -> None:
    server = world.serve(kind)
    conversations = world.conversations(4)
    producer = world.open_shell()
    alone = [world.reader(server, [uuid], aborts=3, seed=seed) for seed, uuid in enumerate(conversations * 3)]
    async with following([*alone, world.reader(server, conversations)]) as readers:
        producer.begin("stream", conversations=conversations, deltas=200, pause=0.01)
        await asyncio.gather(*(reader.until_closed(dict.fromkeys(conversations, 1)) for reader in readers))
        await asyncio.to_thread(producer.end)
        report(f"producer elsewhere, {kind}, {world.stack.name}", readers)
    world.check(*readers)
    assert any(reader.live for reader in readers) == world.stack.crosses_processes
    assert server.complaints() == producer.complaints() == []


async def test_a_killed_producer_leaves_its_text_and_readers_learn_within_the_lease(world: World, kind: str) -> None:
    server = world.serve(kind, CONVERSE_SWEEP_INTERVAL=SWEEP)
    [conversation] = world.conversations(1)
    producer = world.open_shell(CONVERSE_LEASE=LEASE)
    async with following(world.reader(server, [conversation]) for _ in range(3)) as readers:
        reply = producer.do("reply", conversation=conversation, content=json.dumps({"deltas": 10_000, "pause": 0.01}))
        await until_everybody_has(readers, 1_000)
        producer.kill()
        killed = monotonic()
        kept = world.shell.do("message", message=reply)["text"]
        await asyncio.gather(*(reader.until_closed({conversation: 1}) for reader in readers))
        seconds = monotonic() - killed
        report(f"producer killed, learnt after {seconds:.1f} s, {kind}, {world.stack.name}", readers)
    world.check(*readers)
    assert seconds < LEASE + 2 * SWEEP
    facts = world.shell.do("message", message=reply)
    assert (facts["status"], facts["error_type"], facts["content"]) == ("failed", "interrupted", kept)
    assert server.complaints() == []


async def test_a_killed_server_comes_back_to_readers_that_lost_nothing(world: World, kind: str) -> None:
    server = world.serve(kind, CONVERSE_LEASE=LEASE, CONVERSE_SWEEP_INTERVAL=SWEEP)
    conversations = world.conversations(2)
    async with following(world.reader(server, conversations) for _ in range(4)) as readers:
        for conversation in conversations:
            await readers[0].say(conversation, deltas=10_000, pause=0.01)
        await until_everybody_has(readers, 1_000)
        server.kill()
        await asyncio.to_thread(server.start)
        await asyncio.gather(*(reader.until_closed(dict.fromkeys(conversations, 1)) for reader in readers))
        report(f"server killed, {kind}, {world.stack.name}", readers)
    world.check(*readers)
    assert all(reader.reconnects for reader in readers)
    assert {reply["status"] for reader in readers for copy in reader.copies.values() for reply in copy.replies} == {
        "failed"
    }
    assert server.complaints() == []


def test_after_a_killed_producer_the_next_to_write_need_not_wait_for_a_reader(world: World) -> None:
    [conversation] = world.conversations(1)
    producer = world.open_shell(CONVERSE_LEASE=1.0)
    dead = producer.do("reply", conversation=conversation, content=json.dumps({"deltas": 10_000, "pause": 0.01}))
    producer.kill()
    assert world.shell.do("reply_when_free", conversation=conversation, content='{"deltas": 3, "pause": 0}') != dead
    assert world.shell.do("message", message=dead)["error_type"] == "interrupted"
