"""Streams to be measured: ours, and those of a rival that stores nothing."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.utils import timezone

from converse.broadcasting import group_name
from converse.managers import NewChunk
from converse.models import Conversation, Message, MessageChunk
from converse.streaming import Stream
from tests.benchmarks.layers import ObservedLayer

DELTA = " token"
RATE = 50  # deltas a second, of a paced stream
PATIENCE = 30.0  # seconds for what must come


async def pace(rate: float, seconds: float, producers: Sequence[Callable[[], Awaitable[object]]]) -> list[float]:
    """Call each producer ``rate`` times a second, evenly spread; give how many seconds late each call was."""
    late: list[float] = []

    async def one(number: int, produce: Callable[[], Awaitable[object]]) -> None:
        start = time.monotonic() + number / len(producers) / rate
        for tick in range(round(rate * seconds)):
            due = start + tick / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            late.append(time.monotonic() - due)
            await produce()

    await asyncio.gather(*(one(number, produce) for number, produce in enumerate(producers)))
    return late


class Recorder:
    """A stream of ours whose appends are timed."""

    def __init__(self, conversation: Conversation, stream: Stream) -> None:
        self.conversation = str(conversation.uuid)
        self.stream = stream
        self.appended: list[float] = []

    async def append(self) -> None:
        self.appended.append(time.monotonic())
        await self.stream.aappend(DELTA)


@asynccontextmanager
async def streams(conversations: Sequence[Conversation]) -> AsyncIterator[list[Recorder]]:
    """Open a stream in each conversation and warm it up: a first chunk is out."""
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(conversation.astream_reply()) for conversation in conversations]
        ObservedLayer.forget()
        for stream in opened:
            await stream.aappend(DELTA)
        await published(len(opened))
        ObservedLayer.forget()
        yield [Recorder(*pair) for pair in zip(conversations, opened, strict=True)]


async def published(deltas: int) -> None:
    """Wait until so many deltas are out."""
    await until(lambda: ObservedLayer.characters >= deltas * len(DELTA))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread or process."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


def delays(recorders: Iterable[Recorder]) -> list[float]:
    """Give the seconds from each append to the end of the publication that had it."""
    times = defaultdict(list)
    for chunk in ObservedLayer.published:
        times[chunk.conversation_id] += [chunk.ended] * (len(chunk.text) // len(DELTA))
    return [
        ended - appended
        for recorder in recorders
        for appended, ended in zip(recorder.appended, times[recorder.conversation], strict=True)
    ]


def broadcaster(name: str) -> Callable[[], Awaitable[None]]:
    """A rival: tell every delta to the group at once and store nothing."""
    layer = get_channel_layer()
    group = group_name(name)
    sequence = 0

    async def send() -> None:
        nonlocal sequence
        sequence += 1
        await layer.group_send(group, event(name, sequence))

    return send


def event(name: str, sequence: int) -> dict[str, Any]:
    """A delta in the words that a rival has for it."""
    data = {"conversationId": name, "messageId": name, "chunk": DELTA, "sequence": sequence, "offset": sequence}
    return {"type": "stream.update", "event": "StreamUpdate", "data": data}


@sync_to_async
def conversations(count: int) -> list[Conversation]:
    return [Conversation.objects.start() for _ in range(count)]


def grown(chunks: int, owner: User | None = None) -> Message:
    """Give an open message with so many chunks stored, of one delta each."""
    conversation = Conversation.objects.start(owner)
    message = conversation.start_streaming_assistant()
    now = timezone.now()
    for start in range(1, chunks + 1, 10_000):
        numbers = range(start, min(start + 10_000, chunks + 1))
        rows = [
            NewChunk(message.pk, number, conversation.pk, message.offset + number, "text", 0, DELTA, None, now)
            for number in numbers
        ]
        MessageChunk.objects.insert(rows)
    Conversation.all_objects.advance({conversation.pk: message.offset + chunks})
    return message
