"""What it costs to write a stream."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db.models import Max
from django.utils import timezone

from converse.broadcasting import group_name
from converse.managers import NewChunk
from converse.models import Conversation, Message, MessageChunk
from tests.benchmarks.layers import ObservedLayer
from tests.benchmarks.meters import Compared, Meter, compare, percentile, run
from tests.benchmarks.producers import (
    DELTA,
    aconversations,
    broadcaster,
    event,
    pace,
    published,
    streams,
)

RATE = 50


def durable_vs_broadcast(quick: bool) -> Compared:
    """Compare the processor time per delta of 100 paced streams."""
    count, seconds = 100, 2 if quick else 4

    async def ours() -> float:
        async with streams(await aconversations(count)) as recorders:
            with Meter() as meter:
                await pace(RATE, seconds, [recorder.append for recorder in recorders])
                await published(count * RATE * seconds)
        return meter.cpu / (count * RATE * seconds)

    async def theirs() -> float:
        senders = [broadcaster(number) for number in range(count)]
        await senders[0]()
        with Meter() as meter:
            await pace(RATE, seconds, senders)
        return meter.cpu / (count * RATE * seconds)

    return compare(3 if quick else 5, lambda: run(ours()), lambda: run(theirs()))


def durable_vs_broadcast_one(quick: bool) -> Compared:
    """Compare the processor time per delta of one stream that comes as fast as it is taken."""
    deltas = 5_000 if quick else 10_000

    async def ours() -> float:
        async with streams(await aconversations(1)) as [recorder]:
            with Meter() as meter:
                for _ in range(deltas):
                    await recorder.append()
                    await asyncio.sleep(0)  # a source that is read from a network gives way
                await published(deltas)
        return meter.cpu / deltas

    async def theirs() -> float:
        send = broadcaster(0)
        await send()
        with Meter() as meter:
            for _ in range(deltas):
                await send()
        return meter.cpu / deltas

    return compare(3 if quick else 7, lambda: run(ours()), lambda: run(theirs()))


def flat(quick: bool) -> Compared:
    """Compare the wall time of one commit in a message of 100 000 chunks and in one of 100."""
    few, many = grown(100), grown(100_000)

    def append(message: Message) -> float:
        began = time.perf_counter()
        message.append_chunk(DELTA)
        return time.perf_counter() - began

    append(few), append(many)
    return compare(300 if quick else 1500, lambda: append(many), lambda: append(few))


def naive(quick: bool) -> Compared:
    """Compare the wall time per chunk of a straight port of the original, at 300 chunks stored."""
    layer = get_channel_layer()
    deltas = 2_000

    def theirs() -> float:
        message = grown(300)
        message.content = DELTA * 300
        name = str(message.uuid)
        began = time.perf_counter()
        for _ in range(100):
            sequence = message.chunks.aggregate(last=Max("sequence"))["last"] + 1
            MessageChunk.objects.create(
                message=message,
                conversation_id=message.conversation_id,
                sequence=sequence,
                offset=message.offset + sequence,
                content=DELTA,
                created_at=timezone.now(),
            )
            message.content += DELTA
            message.save(update_fields=["content"])
            async_to_sync(layer.group_send)(group_name(name), event(name, sequence, DELTA))
        return (time.perf_counter() - began) / 100

    async def ours(message: Message) -> float:
        async with message.stream as stream:
            await stream.aappend(DELTA)
            await stream.adrain()
            await published(1)
            ObservedLayer.forget()
            began = time.perf_counter()
            for _ in range(deltas):
                await stream.aappend(DELTA)
            await published(deltas)
            return (time.perf_counter() - began) / deltas

    def measure_ours() -> float:
        message = grown(300)
        ObservedLayer.forget()
        return run(ours(message))

    return compare(3 if quick else 5, theirs, measure_ours)


def grown(chunks: int) -> Message:
    """Give an open message with so many chunks stored."""
    conversation = Conversation.objects.start()
    message = conversation.start_streaming_assistant()
    head = message.offset
    now = timezone.now()
    for start in range(0, chunks, 10_000):
        numbers = range(start + 1, min(start + 10_000, chunks) + 1)
        MessageChunk.objects.insert(
            [NewChunk(message.pk, n, conversation.pk, head + n, "text", 0, DELTA, None, now) for n in numbers]
        )
    Conversation.all_objects.advance({conversation.pk: head + chunks}, now)
    return message


def capacity(quick: bool) -> dict[str, float]:
    """Run 600 paced streams; give milliseconds."""
    count, seconds = 600, 3 if quick else 8

    async def measure() -> dict[str, float]:
        async with streams(await aconversations(count)) as recorders:
            with Meter() as meter:
                late = await pace(RATE, seconds, [recorder.append for recorder in recorders])
                await published(count * RATE * seconds)
            by_message: dict[str, list] = {}
            for chunk in ObservedLayer.published:
                by_message.setdefault(chunk.message_id, []).append(chunk)
            delays = [
                delay
                for recorder in recorders
                for delay in recorder.delays(by_message[str(recorder.stream.message.uuid)])
            ]
        return {
            "p50": percentile(delays, 0.5) * 1e3,
            "p99": percentile(delays, 0.99) * 1e3,
            "late_p99": percentile(late, 0.99) * 1e3,
            "cores": meter.cpu / meter.wall,
        }

    return run(measure())


def idle(quick: bool) -> Compared:
    """Compare, with an idle stream, append to published with the smallest durable write there is, one inserted row."""
    rounds = 20 if quick else 60

    async def measure() -> Compared:
        [other] = await aconversations(1)
        waits, commits = [], []
        async with streams([*await aconversations(1), other]) as [recorder, _]:
            for _ in range(rounds):
                await asyncio.sleep(0.06)
                ObservedLayer.forget()
                began = time.perf_counter()
                await recorder.append()
                await published(1)
                waits.append(ObservedLayer.published[0].ended - recorder.appended[-1])
                await asyncio.sleep(0.06)
                began = time.perf_counter()
                await other.participants.acount()
                commits.append(time.perf_counter() - began)
        return Compared(median(waits), median(commits), median(waits) / median(commits))

    return run(measure())
