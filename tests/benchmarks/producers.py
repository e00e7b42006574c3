"""Streams to be measured: ours, and the rival's that stores nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer

from converse.broadcasting import group_name
from converse.models import Conversation
from converse.streaming import Stream
from tests.benchmarks.layers import ObservedLayer, Published

DELTA = " token"
PATIENCE = 20.0  # seconds for the last publication


async def pace(rate: float, seconds: float, produce: Sequence[Callable[[], Awaitable[object]]]) -> list[float]:
    """Call each producer ``rate`` times a second, evenly spread; give how many seconds late each call was."""
    late: list[float] = []

    async def one(number: int, call: Callable[[], Awaitable[object]]) -> None:
        start = time.monotonic() + number / len(produce) / rate
        for tick in range(round(rate * seconds)):
            due = start + tick / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            late.append(time.monotonic() - due)
            await call()

    await asyncio.gather(*(one(number, call) for number, call in enumerate(produce)))
    return late


class Recorder:
    """A stream of ours whose appends are timed, to be compared with what was published of it."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.appended: list[float] = []

    async def append(self) -> None:
        self.appended.append(time.monotonic())
        await self.stream.aappend(DELTA)

    def delays(self, published: Sequence[Published]) -> Iterator[float]:
        """Give the seconds from each append to the end of the publication that had it."""
        times = iter(self.appended)
        for chunk in published:
            for _ in range(len(chunk.text) // len(DELTA)):
                yield chunk.ended - next(times)


@asynccontextmanager
async def streams(conversations: Sequence[Conversation]):
    """Open a stream in each conversation, warm: the first chunk is out."""
    async with AsyncExitStack() as stack:
        ObservedLayer.forget()
        opened = [await stack.enter_async_context(conversation.astream_reply()) for conversation in conversations]
        for stream in opened:
            await stream.aappend(DELTA)
        for stream in opened:
            await stream.adrain()
        await published(len(opened))
        ObservedLayer.forget()
        yield [Recorder(stream) for stream in opened]


async def published(deltas: int) -> None:
    """Wait until so many deltas are out."""
    async with asyncio.timeout(PATIENCE):
        while ObservedLayer.characters < deltas * len(DELTA):
            await asyncio.sleep(0.005)


def broadcaster(number: int) -> Callable[[], Awaitable[None]]:
    """The rival: tell every delta to the group at once, store nothing."""
    layer = get_channel_layer()
    group = group_name(f"rival-{number}")
    sequence = 0

    async def send() -> None:
        nonlocal sequence
        sequence += 1
        await layer.group_send(group, event(f"rival-{number}", sequence, DELTA))

    return send


def event(name: str, sequence: int, text: str) -> dict[str, Any]:
    """What one delta looks like in the layer, for a rival."""
    data = {"conversationId": name, "messageId": name, "chunk": text, "sequence": sequence, "offset": sequence}
    return {"type": "stream.update", "event": "StreamUpdate", "data": data}


def conversations(count: int) -> list[Conversation]:
    return [Conversation.objects.start() for _ in range(count)]


aconversations = sync_to_async(conversations)
