"""One websocket, from the server's side: what comes, what is sent, and how far ahead of its reader that may be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from converse.conf import settings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Wire:
    """Sends to one websocket, a message after the other and nothing after its end."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.closed = False
        self._receive = receive
        self._send = send
        self._sending = asyncio.Lock()

    async def read(self) -> MutableMapping[str, Any]:
        """Give the next message of the server's; a disconnect closes the wire."""
        message = await self._receive()
        self.closed = self.closed or message["type"] == "websocket.disconnect"
        return message

    async def send(self, *texts: str) -> None:
        """Send frames, with none of anybody else's in between."""
        await self._pass_on([{"type": "websocket.send", "text": text} for text in texts])

    async def close(self, code: int) -> None:
        await self._pass_on([{"type": "websocket.close", "code": code}], last=True)

    async def _pass_on(self, messages: Collection[dict[str, Any]], *, last: bool = False) -> None:
        async with self._sending:
            for message in messages:
                if self.closed:
                    return
                self.closed = last
                try:
                    await self._send(message)
                except OSError:  # so a server says that the reader is gone; receive() is about to tell, too
                    self.closed = True


class Slow(Exception):
    """A reader acknowledged nothing of a full window for ``CONVERSE_ACK_TIMEOUT``."""


class Window:
    """How many bytes a reader was sent and has not acknowledged."""

    def __init__(self) -> None:
        self.size = settings.CONVERSE_WINDOW  # bytes
        self._unread = 0
        self._room = asyncio.Event()
        self._room.set()

    def fill(self, size: int) -> None:
        self._unread += size
        if self._unread > self.size:
            self._room.clear()

    def acknowledge(self, size: int) -> None:
        self._unread -= size
        if self._unread <= self.size:
            self._room.set()

    async def room(self) -> None:
        """Wait until there is room; raise Slow when there is none in time."""
        if self._room.is_set():
            return
        try:
            async with asyncio.timeout(settings.CONVERSE_ACK_TIMEOUT):
                await self._room.wait()
        except TimeoutError:
            raise Slow from None


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks, all of them before waiting for any: whoever waits may be cancelled."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
