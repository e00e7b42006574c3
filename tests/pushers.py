"""A client of the Pusher protocol for tests, as strict as pusher-js, and what its user does at the auth endpoints."""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Self
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.test import AsyncClient

from converse.cursors import read_cursor
from converse.routing import websocket_urlpatterns
from converse.transports.pusher.protocol import sign
from tests.sockets import SECONDS

SERVED = URLRouter(websocket_urlpatterns)


class Pusher:
    """One websocket to ``app/<key>``; a user's auth requests go through Django's test client."""

    def __init__(
        self, user: Any = None, *, origin: str | None = None, query: str = "protocol=7", key: str = "converse"
    ):
        headers = [(b"origin", origin.encode("latin-1"))] if origin is not None else []
        self.socket = WebsocketCommunicator(SERVED, f"/app/{key}?{query}", headers)
        self.user = user
        self.http = AsyncClient()
        self.socket_id = ""
        self.polite = True  # whether it answers pings
        self.frames: deque[dict[str, Any]] = deque()
        self.last: dict[str, str] = {}  # the seq of each channel: what the snippet in the docs keeps

    async def __aenter__(self) -> Self:
        accepted, _ = await self.socket.connect(timeout=SECONDS)
        assert accepted
        if self.user is not None:
            await self.http.aforce_login(self.user)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self.socket.future.done():
            await self.socket.disconnect(timeout=SECONDS)

    async def open(self) -> Self:
        """Wait for the socket to be established."""
        told = await self.event("pusher:connection_established")
        self.socket_id = told["socket_id"]
        assert told["activity_timeout"] == 30
        return self

    async def write(self, frame: Any) -> None:
        await self.socket.send_to(text_data=frame if isinstance(frame, str) else json.dumps(frame))

    async def say(self, event: str, data: Any = None, **more: Any) -> None:
        await self.write({"event": event, "data": {} if data is None else data, **more})

    async def authorise(self, channel: str, path: str = "/broadcasting/auth", headers: Any = None, **form: Any) -> Any:
        """Ask the auth endpoint."""
        asked = {"socket_id": self.socket_id, "channel_name": channel, **form}
        return await self.http.post(
            path, urlencode(asked), content_type="application/x-www-form-urlencoded", headers=headers
        )

    async def ask_for(self, channel: str, **form: Any) -> None:
        """Do what pusher-js does to subscribe: sign, then ask."""
        signed = await self.authorise(channel, **form)
        assert signed.status_code == 200, signed.content
        await self.say("pusher:subscribe", {"channel": channel, **signed.json()})

    async def follow(self, channel: str, *, resume: bool = False) -> dict[str, Any]:
        """Subscribe, and give the data of the success."""
        await self.ask_for(channel, **({"resume": json.dumps(self.last)} if resume else {}))
        return await self.event("pusher_internal:subscription_succeeded", channel)

    async def claim(self, channel: str, facts: Any, **more: Any) -> None:
        """Subscribe with a signature of our own making, which is right."""
        data = facts if isinstance(facts, str) else json.dumps(facts)
        auth = sign(f"{self.socket_id}:{channel}:{data}")
        await self.say("pusher:subscribe", {"channel": channel, "auth": auth, "channel_data": data, **more})

    async def frame(self, wanted: Any = lambda frame: True) -> dict[str, Any]:
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
        frame = self._keep(json.loads(await self.socket.receive_from(timeout=SECONDS)))
        if frame["event"] == "pusher:ping" and self.polite:
            await self.say("pusher:pong")
            return await self._next()
        return frame

    def _keep(self, frame: dict[str, Any]) -> dict[str, Any]:
        if isinstance(frame.get("data"), str):
            try:
                frame["data"] = json.loads(frame["data"])
            except ValueError:
                pass
        if "channel" in frame and isinstance(frame["data"], dict) and frame["data"].get("seq") is not None:
            assert read_cursor(frame["data"]["seq"])
            self.last[frame["channel"]] = frame["data"]["seq"]
        return frame

    async def event(self, name: str, channel: str = "") -> dict[str, Any]:
        """Give the data of the next event of a name, of a channel if one is given."""
        found = await self.frame(lambda frame: frame["event"] == name and channel in ("", frame.get("channel")))
        return found["data"]

    async def app(self, name: str, channel: str = "") -> dict[str, Any]:
        """Give the data of the next event that ``listen(name)`` hears."""
        return await self.event(f"App\\Events\\{name}", channel)

    async def error(self) -> tuple[int | None, str]:
        told = await self.event("pusher:error")
        return told["code"], told["message"]

    async def refused(self, channel: str) -> dict[str, Any]:
        """Give what Echo's ``error()`` hears."""
        return await self.event("pusher:subscription_error", channel)

    async def closed(self) -> int:
        """Give the code with which the server closes."""
        while True:
            message = await self.socket.receive_output(timeout=SECONDS)
            if message["type"] == "websocket.close":
                return message["code"]
            self.frames.append(self._keep(json.loads(message["text"])))

    async def alive(self) -> None:
        """Make sure that all that was said is answered, and the socket still open."""
        await self.say("pusher:ping")
        await self.event("pusher:pong")


@sync_to_async
def in_thread(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call what writes, beside the readers' loop."""
    return function(*args, **kwargs)
