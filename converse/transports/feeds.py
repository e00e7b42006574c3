"""Subscriptions on their way to a socket, bounded by what the reader has acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import Any, Protocol

from converse.subscriptions import Subscription, Withdrawn
from converse.transports.flow import Slow, Window, end

logger = logging.getLogger(__name__)

WITHDRAWN = "There is no such conversation any more."
TOO_SLOW, FAILED = 4408, 4500  # Daphne closes with 1000 and 3000 to 4999 only


class Receiver(Protocol):
    """The socket that a feed is sent to."""

    feeds: dict[str, Feed]

    def send(self, frame: dict[str, Any]) -> Awaitable[None]: ...
    def send_text(self, text: str) -> Awaitable[None]: ...
    def close(self, code: int) -> Awaitable[None]: ...


class Feed:
    """A subscription being sent: at most a window of bytes ahead of the reader's acknowledgements."""

    def __init__(self, socket: Receiver, subscription: Subscription) -> None:
        self.socket = socket
        self.subscription = subscription
        self.task: asyncio.Task[None] | None = None
        self._sent: deque[tuple[int, int]] = deque()  # offset, bytes
        self._window = Window()

    def start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    async def end(self) -> None:
        await end_all([self])

    def acknowledge(self, offset: int) -> None:
        """Learn that the reader has taken everything up to an offset."""
        while self._sent and self._sent[0][0] <= offset:
            self._window.acknowledge(self._sent.popleft()[1])

    async def _run(self) -> None:
        try:
            async with self.subscription:
                async for delivery in self.subscription:
                    offset = delivery.data.get("offset")
                    if offset is not None:  # before it is sent: it may be acknowledged before the sending ends
                        self._sent.append((offset, len(delivery.text)))
                        self._window.fill(len(delivery.text))
                    await self.socket.send_text(delivery.text)
                    await self._window.room()
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


async def end_all(feeds: Iterable[Feed]) -> None:
    await end([feed.task for feed in feeds if feed.task])
