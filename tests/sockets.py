"""A websocket client for tests: it asks and waits for the answer, and keeps what came in between."""

from __future__ import annotations

import json
from collections import deque
from itertools import count
from typing import Any, Self

from channels.testing import WebsocketCommunicator

from converse.transports.websocket import websocket

SECONDS = 10  # for anything that must come


class Client:
    """One websocket of a user, straight to the application."""

    def __init__(self, user: Any, *, origin: str | None = "http://testserver", application: Any = websocket) -> None:
        headers = [(b"origin", origin.encode("latin-1"))] if origin is not None else []
        self.socket = WebsocketCommunicator(application, "/converse/ws/", headers)
        if user is not None:
            self.socket.scope["user"] = user
        self.largest = 0  # bytes of a frame
        self.frames: deque[dict[str, Any]] = deque()  # that nobody has asked for yet
        self._ids = count(1)

    async def __aenter__(self) -> Self:
        accepted, _ = await self.socket.connect(timeout=SECONDS)
        assert accepted
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.socket.future.done():
            await self.socket.disconnect(timeout=SECONDS)

    async def write(self, frame: Any) -> None:
        """Send a frame as it is, or as JSON."""
        await self.socket.send_to(text_data=frame if isinstance(frame, str) else json.dumps(frame))

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send a command and give its answer."""
        number = next(self._ids)
        await self.write({"type": kind, "id": number, **fields})
        return await self.frame(lambda frame: frame.get("id") == number)

    async def follow(self, conversation: Any, **fields: Any) -> dict[str, Any]:
        """Subscribe, and give the answer."""
        answer = await self.ask("subscribe", conversation=str(conversation.uuid), **fields)
        assert answer["type"] == "subscribed", answer
        return answer

    async def frame(self, wanted: Any) -> dict[str, Any]:
        """Give the next frame that is wanted; others stay."""
        for frame in self.frames:
            if wanted(frame):
                self.frames.remove(frame)
                return frame
        while True:
            frame = await self._next()
            if wanted(frame):
                return frame
            self.frames.append(frame)

    async def _next(self) -> dict[str, Any]:
        """Give the next frame, put together where it comes in pieces."""
        text = ""
        while True:
            received = await self.socket.receive_from(timeout=SECONDS)
            self.largest = max(self.largest, len(received.encode()))
            frame = json.loads(received)
            if frame.get("type") != "piece":
                return frame
            text += frame["text"]
            if not frame["more"]:
                return json.loads(text)

    async def event(self, name: str) -> dict[str, Any]:
        """Give the data of the next event of a name."""
        return (await self.frame(lambda frame: frame.get("event") == name))["data"]

    async def closed(self) -> int:
        """Give the code with which the server closes."""
        while True:
            message = await self.socket.receive_output(timeout=SECONDS)
            if message["type"] == "websocket.close":
                return message["code"]
            self.frames.append(json.loads(message["text"]))
