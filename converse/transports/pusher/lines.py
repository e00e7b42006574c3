"""The way to one client: what is sent, one frame after the other, and how far ahead of the client that may be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from converse.conf import settings
from converse.transports.pusher.protocol import frame

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PARTS = 4  # of a window: after each the client is asked how far it is
PING = frame("pusher:ping", {})


class Slow(Exception):
    """A client did not answer for ``CONVERSE_ACK_TIMEOUT`` what it was asked a full window ago."""


class Line:
    """Sends to one websocket. A client answers each ping in its turn, and with it has read all that came before."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.closed = False
        self._receive = receive
        self._send = send
        self._sending = asyncio.Lock()
        self._asked: deque[int] = deque()  # bytes that an answer to each ping acknowledges
        self._since = 0  # bytes since the last ping
        self._unread = 0
        self._window = settings.CONVERSE_WINDOW  # bytes
        self._room = asyncio.Event()
        self._room.set()

    async def read(self) -> MutableMapping[str, Any]:
        """Give the next message of the server's; a disconnect closes the line."""
        message = await self._receive()
        self.closed = self.closed or message["type"] == "websocket.disconnect"
        return message

    async def send(self, text: str) -> None:
        await self._pass_on({"type": "websocket.send", "text": text})

    async def close(self, code: int) -> None:
        await self._pass_on({"type": "websocket.close", "code": code}, last=True)

    async def tell(self, text: str) -> None:
        """Send an event when there is room for it in the client's window; raise Slow when there is none in time."""
        if not self._room.is_set():
            try:
                async with asyncio.timeout(settings.CONVERSE_ACK_TIMEOUT):
                    await self._room.wait()
            except TimeoutError:
                raise Slow from None
        size = len(text.encode())
        self._since += size
        self._unread += size
        if self._unread > self._window:
            self._room.clear()
        await self.send(text)
        if self._since * PARTS > self._window:
            self._asked.append(self._since)
            self._since = 0
            await self.send(PING)

    def answered(self) -> None:
        """Learn that the client has answered the oldest ping."""
        if self._asked:
            self._unread -= self._asked.popleft()
        if self._unread <= self._window:
            self._room.set()

    async def _pass_on(self, message: dict[str, Any], *, last: bool = False) -> None:
        async with self._sending:
            if self.closed:
                return
            self.closed = last
            try:
                await self._send(message)
            except OSError:  # so a server says that the reader is gone; receive() is about to tell, too
                self.closed = True
