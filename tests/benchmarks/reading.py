"""What it costs to deliver streams, and what a reader feels of it."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

from django.test import override_settings

from converse.models import Conversation
from tests.benchmarks.figures import Figure
from tests.benchmarks.layers import ObservedLayer
from tests.benchmarks.meters import compare, percentile
from tests.benchmarks.producers import DELTA, RATE, grown, pace, published, streams, until
from tests.benchmarks.readers import Inbox, Server, followers, serving, stock_followers, subscription

CHUNKS = 10_000  # of a message that is resumed

# Every delta is a chunk and an event of its own, so that both sides deliver the same frames.
each_delta_by_itself = override_settings(CONVERSE_FLUSH_INTERVAL=0)


def delivery_vs_stock(quick: bool) -> list[Figure]:
    """The server's processor time for one frame to one reader, ours against a stock consumer; 50 readers."""
    readers, seconds = 50, 2 if quick else 5

    async def cost(server: Server, follow: object) -> float:
        conversation = await Conversation.objects.astart(server.user)
        async with streams([conversation]) as [recorder], follow(server, [conversation] * readers) as inboxes:
            frames = sum(len(inbox.frames) for inbox in inboxes)
            before = await server.processor_time()
            await pace(RATE, seconds, [recorder.append])
            await published(RATE * seconds)
            await _delivered(inboxes)
            spent = await server.processor_time() - before
            return spent / (sum(len(inbox.frames) for inbox in inboxes) - frames)

    with each_delta_by_itself, serving() as server:
        compared = compare(
            3 if quick else 5,
            lambda: asyncio.run(cost(server, followers)),
            lambda: asyncio.run(cost(server, stock_followers)),
        )
    remark = f"{compared.one * 1e6:.0f} against {compared.other * 1e6:.0f} µs of the server's processor time a frame"
    return [Figure(key="delivery_vs_stock", value=compared.ratio, target=0.4, remark=remark)]


def p99_beside_slow_query(quick: bool) -> list[Figure]:
    """From published to received, beside a neighbour whose queries take 50 ms, against without."""
    count, seconds = 5, 3 if quick else 5

    async def p99(server: Server, *, disturbed: bool) -> float:
        conversations = [await Conversation.objects.astart(server.user) for _ in range(count)]
        async with AsyncExitStack() as stack:
            recorders = await stack.enter_async_context(streams(conversations))
            inboxes = await stack.enter_async_context(followers(server, conversations))
            if disturbed:
                await stack.enter_async_context(server.connect("neighbour/"))
            await pace(RATE, seconds, [recorder.append for recorder in recorders])
            await published(count * RATE * seconds)
            await _delivered(inboxes)
            return percentile(_delays(inboxes), 0.99)

    with each_delta_by_itself, serving() as server:
        compared = compare(
            3 if quick else 5,
            lambda: asyncio.run(p99(server, disturbed=True)),
            lambda: asyncio.run(p99(server, disturbed=False)),
        )
    remark = f"{compared.one * 1e3:.2f} against {compared.other * 1e3:.2f} ms"
    return [Figure(key="p99_beside_slow_query", value=compared.ratio, target=2, remark=remark)]


async def _delivered(inboxes: list[Inbox]) -> None:
    """Wait until every reader has come to the end of what was published."""
    heads = {(chunk.conversation_id, chunk.offset) for chunk in ObservedLayer.published}
    last = {conversation: max(offset for known, offset in heads if known == conversation) for conversation, _ in heads}
    await until(lambda: all(inbox.offset >= last[str(inbox.conversation.uuid)] for inbox in inboxes))


def _delays(inboxes: list[Inbox]) -> list[float]:
    """Give the seconds from publication to arrival, of the chunks that came live."""
    sent = {(chunk.conversation_id, chunk.offset): chunk.began for chunk in ObservedLayer.published}
    found = []
    for inbox in inboxes:
        for at, text in inbox.frames:
            frame = json.loads(text)
            if frame.get("event") == "StreamUpdate":
                found.append(at - sent[frame["data"]["conversationId"], frame["data"]["offset"]])
    return found


def resume_10k_vs_content(quick: bool) -> list[Figure]:
    """From a cursor to the last byte: a growing message's 10 000 chunks, against the same text of a finished one."""

    async def last_byte(server: Server, conversation: Conversation, after: int) -> float:
        async with server.connect("converse/ws/") as socket:
            began = time.perf_counter()
            await socket.send(subscription(conversation, after=after, epoch=conversation.epoch))
            while '"Replay"' not in (text := await socket.recv())[:50]:
                pass
            spent = time.perf_counter() - began
            assert text.count(DELTA) == CHUNKS
            return spent

    with serving() as server:
        growing = grown(CHUNKS, server.user)
        finished = Conversation.objects.start(server.user).create_assistant_message(DELTA * CHUNKS)
        compared = compare(
            15 if quick else 40,
            lambda: asyncio.run(last_byte(server, growing.conversation, growing.offset)),
            lambda: asyncio.run(last_byte(server, finished.conversation, finished.offset - 1)),
        )
    remark = f"{compared.one * 1e3:.1f} against {compared.other * 1e3:.1f} ms"
    return [Figure(key="resume_10k_vs_content", value=compared.ratio, target=5, remark=remark)]


RATIOS = [delivery_vs_stock, p99_beside_slow_query, resume_10k_vs_content]
