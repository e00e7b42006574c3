"""A real server, and real websockets to it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from websockets.asyncio.client import ClientConnection, connect

from converse.models import Conversation
from tests.benchmarks.producers import until
from tests.servers import Process, free_port

LARGEST = 2**24  # bytes of a frame


class Server:
    """A running server, and a user of it who is signed in."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.user, _ = User.objects.get_or_create(username="reader")
        client = Client()
        client.force_login(self.user)
        self.cookie = f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"

    async def processor_time(self) -> float:
        """Ask it how many seconds it has worked."""
        return float(await asyncio.to_thread(lambda: json.load(urlopen(f"http://127.0.0.1:{self.port}/"))))

    def connect(self, path: str) -> connect:
        return connect(
            f"ws://127.0.0.1:{self.port}/{path}",
            additional_headers={"Cookie": self.cookie},
            origin=f"http://127.0.0.1:{self.port}",
            compression=None,
            max_size=LARGEST,
        )


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server for the time being."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--log-level", "warning", "--lifespan", "off"]
    with tempfile.TemporaryDirectory() as directory:
        application = "tests.benchmarks.application:application"
        with Process([*command, application], {}, Path(directory) / "server.log") as process:
            process.wait_for_port(port)
            yield Server(port)


class Inbox:
    """A websocket's frames and when they came."""

    def __init__(self, socket: ClientConnection, conversation: Conversation) -> None:
        self.socket = socket
        self.conversation = conversation
        self.frames: list[tuple[float, str]] = []

    async def listen(self) -> None:
        async for text in self.socket:
            self.frames.append((time.monotonic(), text))

    @property
    def offset(self) -> int:
        """How far the reader has come."""
        data = json.loads(self.frames[-1][1]).get("data", {}) if self.frames else {}
        return data.get("offset", 0)


@asynccontextmanager
async def followers(server: Server, conversations: list[Conversation]) -> AsyncIterator[list[Inbox]]:
    """Follow each conversation through a websocket of ours."""
    async with _inboxes(server, "converse/ws/", conversations) as inboxes:
        for inbox in inboxes:
            await inbox.socket.send(subscription(inbox.conversation))
        await until(lambda: all(inbox.offset for inbox in inboxes))
        yield inboxes


@asynccontextmanager
async def stock_followers(server: Server, conversations: list[Conversation]) -> AsyncIterator[list[Inbox]]:
    """Follow each conversation through a stock consumer."""
    async with _inboxes(server, "stock/{}/", conversations) as inboxes:
        yield inboxes


@asynccontextmanager
async def _inboxes(server: Server, path: str, conversations: list[Conversation]) -> AsyncIterator[list[Inbox]]:
    async with AsyncExitStack() as stack:
        inboxes = [
            Inbox(await stack.enter_async_context(server.connect(path.format(conversation.uuid))), conversation)
            for conversation in conversations
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(inbox.listen()) for inbox in inboxes]
            yield inboxes
            for task in tasks:
                task.cancel()


def subscription(conversation: Conversation, **cursor: Any) -> str:
    return json.dumps({"type": "subscribe", "conversation": str(conversation.uuid), **cursor})
