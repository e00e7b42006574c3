"""What the measured server serves: our websocket, a stock consumer, a neighbour with slow queries, its own clock."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.benchmarks.settings")
django.setup()

from channels.auth import AuthMiddlewareStack  # noqa: E402 - the apps must be loaded first
from channels.db import database_sync_to_async  # noqa: E402
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.db import connection  # noqa: E402
from django.urls import path  # noqa: E402

from converse.broadcasting import group_name  # noqa: E402
from converse.routing import websocket_urlpatterns  # noqa: E402

SLOW = 0.05  # seconds of a neighbour's query


class Stock(AsyncJsonWebsocketConsumer):
    """The consumer of Channels' tutorial, for the events of one conversation."""

    async def connect(self) -> None:
        self.group = group_name(str(self.scope["url_route"]["kwargs"]["conversation"]))
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def stream_update(self, message: dict[str, Any]) -> None:
        await self.send_json({"event": message["event"], "data": message["data"]})


class Neighbour(AsyncJsonWebsocketConsumer):
    """Runs one slow query after another while its socket is open."""

    async def connect(self) -> None:
        await self.accept()
        self.task = asyncio.create_task(self.work())

    async def disconnect(self, code: int) -> None:
        self.task.cancel()

    async def work(self) -> None:
        while True:
            await database_sync_to_async(self.query)()

    def query(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(%s)", [SLOW])


async def processor_time(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the seconds of processor time that this process has used."""
    body = json.dumps(time.process_time()).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


sockets = [
    *websocket_urlpatterns,
    path("stock/<uuid:conversation>/", Stock.as_asgi()),
    path("neighbour/", Neighbour.as_asgi()),
]
application = ProtocolTypeRouter({"http": processor_time, "websocket": AuthMiddlewareStack(URLRouter(sockets))})
