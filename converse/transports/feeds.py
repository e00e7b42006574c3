"""Subscriptions on their way to a socket, bounded by what the reader has acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import Any, Protocol

from converse.conf import settings
from converse.subscriptions import Subscription, Withdrawn

logger = logging.getLogger(__name__)

WITHDRAWN = "There is no such conversation any more."
TOO_SLOW, FAILED = 4408, 4500  # Daphne closes with 1000 and 3000 to 4999 only


class Receiver(Protocol):
    """The socket that a feed is sent to."""

    feeds: dict[str, Feed]

    def send(self, frame: dict[str, Any]) -> Awaitable[None]: ...
    def send_text(self, text: str) -> Awaitable[None]: ...
    def close(self, code: int) -> Awaitable[None]: ...


class Slow(Exception):
    """A window stood full for ``CONVERSE_ACK_TIMEOUT``."""


class Feed:
    """A subscription being sent: at most a window of bytes ahead of the reader's acknowledgements."""

    def __init__(self, socket: Receiver, subscription: Subscription) -> None:
        self.socket = socket
        self.subscription = subscription
        self.task: asyncio.Task[None] | None = None
        self._sent: deque[tuple[int, int]] = deque()  # offset, bytes
        self._unread = 0
        self._window = settings.CONVERSE_WINDOW  # bytes
        self._room = asyncio.Event()
        self._room.set()

    def start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    async def end(self) -> None:
        await end([self])

    def acknowledge(self, offset: int) -> None:
        """Learn that the reader has taken everything up to an offset."""
        while self._sent and self._sent[0][0] <= offset:
            self._unread -= self._sent.popleft()[1]
        if self._unread <= self._window:
            self._room.set()

    async def _run(self) -> None:
        try:
            async with self.subscription:
                async for delivery in self.subscription:
                    offset = delivery.data.get("offset")
                    if offset is not None:  # before it is sent: it may be acknowledged before the sending ends
                        self._count(offset, len(delivery.text))
                    await self.socket.send_text(delivery.text)
                    if not self._room.is_set():
                        await self._wait_for_room()
        except Withdrawn:
            uuid = self.subscription.uuid
            self.socket.feeds.pop(uuid, None)
            withdrawn = {"type": "unsubscribed", "conversation": uuid, "code": "not_found", "reason": WITHDRAWN}
            await self.socket.send(withdrawn)
        except Slow:
            await self.socket.close(TOO_SLOW)
        except Exception:
            logger.exception("A subscription failed.")
            await self.socket.close(FAILED)

    def _count(self, offset: int, size: int) -> None:
        self._sent.append((offset, size))
        self._unread += size
        if self._unread > self._window:
            self._room.clear()

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(settings.CONVERSE_ACK_TIMEOUT):
                await self._room.wait()
        except TimeoutError:
            raise Slow from None


async def end(feeds: Iterable[Feed]) -> None:
    """Cancel feeds, all of them before waiting for any: whoever waits may be cancelled."""
    tasks = [feed.task for feed in feeds if feed.task]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
