"""What it costs to write streams."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db.models import Max
from django.utils import timezone

from converse.broadcasting import group_name
from converse.models import Message, MessageChunk
from tests.benchmarks.figures import Figure
from tests.benchmarks.layers import ObservedLayer
from tests.benchmarks.meters import Compared, Meter, compare, percentile
from tests.benchmarks.producers import (
    DELTA,
    RATE,
    broadcaster,
    conversations,
    delays,
    event,
    grown,
    pace,
    published,
    streams,
)


def durable_vs_broadcast_100x50(quick: bool) -> list[Figure]:
    """Processor time per delta, 100 paced streams: stored and then published, against only published."""
    count, seconds = 100, 2 if quick else 4
    deltas = count * RATE * seconds

    async def ours() -> float:
        async with streams(await conversations(count)) as recorders:
            with Meter() as meter:
                await pace(RATE, seconds, [recorder.append for recorder in recorders])
                await published(deltas)
        return meter.cpu / deltas

    async def rival() -> float:
        senders = [broadcaster(f"rival-{number}") for number in range(count)]
        await senders[0]()
        with Meter() as meter:
            await pace(RATE, seconds, senders)
        return meter.cpu / deltas

    compared = compare(3 if quick else 5, lambda: asyncio.run(ours()), lambda: asyncio.run(rival()))
    return [_per_delta("durable_vs_broadcast_100x50", compared, 0.7)]


def durable_vs_broadcast_one_stream(quick: bool) -> list[Figure]:
    """The same for one stream that comes as fast as it is taken."""
    deltas = 4_000 if quick else 10_000

    async def ours() -> float:
        async with streams(await conversations(1)) as [recorder]:
            with Meter() as meter:
                for _ in range(deltas):
                    await recorder.append()
                    await asyncio.sleep(0)  # as whatever reads from a network gives way
                await published(deltas)
        return meter.cpu / deltas

    async def rival() -> float:
        send = broadcaster("rival")
        await send()
        with Meter() as meter:
            for _ in range(deltas):
                await send()
        return meter.cpu / deltas

    compared = compare(3 if quick else 5, lambda: asyncio.run(ours()), lambda: asyncio.run(rival()))
    return [_per_delta("durable_vs_broadcast_one_stream", compared, 1.0)]


def _per_delta(key: str, compared: Compared, target: float) -> Figure:
    ours, rival = compared.one * 1e6, compared.other * 1e6
    remark = f"{ours:.0f} against {rival:.0f} µs of processor time a delta"
    return Figure(key=key, value=compared.ratio, target=target, remark=remark)


def flat_100k_vs_100(quick: bool) -> list[Figure]:
    """Wall time of one committed chunk in a message of 100 000 chunks, against one of 100."""
    few, many = grown(100), grown(100_000)

    def append(message: Message) -> float:
        began = time.perf_counter()
        message.append_chunk(DELTA)
        return time.perf_counter() - began

    append(few), append(many)  # each learns how far it has come
    compared = compare(300 if quick else 1500, lambda: append(many), lambda: append(few))
    remark = f"{compared.one * 1e3:.2f} against {compared.other * 1e3:.2f} ms a commit"
    ratio = compared.one / compared.other
    return [Figure(key="flat_100k_vs_100", value=ratio, target=1.1, remark=remark)]


def naive_vs_ours_300(quick: bool) -> list[Figure]:
    """Wall time per chunk of a straight port of the original with 300 chunks stored, against ours."""
    return [_naive_vs_ours("naive_vs_ours_300", 300, 3 if quick else 5, target=20)]


def naive_vs_ours_50k(quick: bool) -> list[Figure]:
    """The same with 50 000 chunks stored."""
    return [_naive_vs_ours("naive_vs_ours_50k", 50_000, 1 if quick else 2, target=50)]


def _naive_vs_ours(key: str, stored: int, rounds: int, target: float) -> Figure:
    layer = get_channel_layer()
    chunks, deltas = 100, 2_000

    def naive() -> float:
        message = grown(stored)
        message.content = DELTA * stored
        name = str(message.uuid)
        began = time.perf_counter()
        for _ in range(chunks):
            sequence = message.chunks.aggregate(last=Max("sequence"))["last"] + 1
            _create_chunk(message, sequence)
            message.content += DELTA
            message.save(update_fields=["content"])
            async_to_sync(layer.group_send)(group_name(name), event(name, sequence))
        return (time.perf_counter() - began) / chunks

    async def ours(message: Message) -> float:
        ObservedLayer.forget()
        await message.stream.aappend(DELTA)
        await published(1)
        ObservedLayer.forget()
        began = time.perf_counter()
        for _ in range(deltas):
            await message.stream.aappend(DELTA)
            await asyncio.sleep(0)
        await published(deltas)
        return (time.perf_counter() - began) / deltas

    compared = compare(rounds, naive, lambda: asyncio.run(ours(grown(stored))))
    remark = f"{compared.one * 1e6:.0f} against {compared.other * 1e6:.0f} µs a chunk"
    return Figure(key=key, value=compared.ratio, target=target, at_least=True, remark=remark)


def _create_chunk(message: Message, sequence: int) -> MessageChunk:
    return MessageChunk.objects.create(
        message=message,
        conversation_id=message.conversation_id,
        sequence=sequence,
        offset=message.offset + sequence,
        content=DELTA,
        created_at=timezone.now(),
    )


def capacity_600x50(quick: bool) -> list[Figure]:
    """600 paced streams in one process: from append to published, and how late their producers come to run."""
    count, seconds = 600, 3 if quick else 6

    async def measure() -> tuple[list[float], list[float], float]:
        async with streams(await conversations(count)) as recorders:
            with Meter() as meter:
                late = await pace(RATE, seconds, [recorder.append for recorder in recorders])
                await published(count * RATE * seconds)
            return delays(recorders), late, meter.cpu / meter.wall

    waits, late, cores = asyncio.run(measure())
    remark = f"ms; the median {percentile(waits, 0.5) * 1e3:.0f} ms; {cores:.2f} cores"
    return [
        Figure(key="capacity_600x50_published_p99", value=percentile(waits, 0.99) * 1e3, target=200, remark=remark),
        Figure(key="capacity_600x50_late_p99", value=percentile(late, 0.99) * 1e3, target=10, remark="ms"),
    ]


def idle_stream_in_commits(quick: bool) -> list[Figure]:
    """From append to published in an idle stream, in units of the smallest commit there is: one row inserted."""
    rounds = 20 if quick else 60
    pause = 0.08  # seconds; longer than a flush interval

    async def measure() -> tuple[list[float], list[float]]:
        message = await (await conversations(1))[0].astart_streaming_assistant()
        waits, commits = [], []
        async with streams(await conversations(1)) as [recorder]:
            for number in range(rounds):
                await asyncio.sleep(pause)
                ObservedLayer.forget()
                await recorder.append()
                await published(1)
                waits.append(ObservedLayer.published[0].ended - recorder.appended[-1])
                await asyncio.sleep(pause)
                commits.append(await asyncio.to_thread(_time_commit, message, number + 1))
        return waits, commits

    waits, commits = (median(values) for values in asyncio.run(measure()))
    remark = f"{waits * 1e3:.2f} ms; a commit {commits * 1e3:.2f} ms"
    return [Figure(key="idle_stream_in_commits", value=waits / commits, target=2, remark=remark)]


def _time_commit(message: Message, sequence: int) -> float:
    began = time.perf_counter()
    _create_chunk(message, sequence)
    return time.perf_counter() - began


RATIOS = [durable_vs_broadcast_100x50, durable_vs_broadcast_one_stream, flat_100k_vs_100, naive_vs_ours_300]
FURTHER = [naive_vs_ours_50k, capacity_600x50, idle_stream_in_commits]
