"""The way to one client: what is sent, one frame after the other, and how far ahead of the client that may be."""

from __future__ import annotations

from collections import deque

from converse.transports.flow import Receive, Send, Window, Wire
from converse.transports.pusher.protocol import frame

PARTS = 4  # of a window: after each the client is asked how far it is
PING = frame("pusher:ping", {})


class Line(Wire):
    """Sends to one websocket. A client answers each ping in its turn, and with it has read all that came before."""

    def __init__(self, receive: Receive, send: Send) -> None:
        super().__init__(receive, send)
        self._asked: deque[int] = deque()  # bytes that an answer to each ping acknowledges
        self._since = 0  # bytes since the last ping
        self._window = Window()

    async def tell(self, text: str) -> None:
        """Send an event when there is room for it in the client's window; raise Slow when there is none in time."""
        await self._window.room()
        size = len(text.encode())
        self._since += size
        self._window.fill(size)
        await self.send(text)
        if self._since * PARTS > self._window.size:
            self._asked.append(self._since)
            self._since = 0
            await self.send(PING)

    def answered(self) -> None:
        """Learn that the client has answered the oldest ping."""
        if self._asked:
            self._window.acknowledge(self._asked.popleft())
