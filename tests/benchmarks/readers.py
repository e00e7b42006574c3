"""A real server, and real websockets to it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from websockets.asyncio.client import ClientConnection, connect

from converse.models import Conversation
from tests.servers import Process, free_port

PATIENCE = 30.0  # seconds for what must come
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

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[tuple[float, str]] = []
        self.updates = 0

    async def listen(self) -> None:
        async for text in self.socket:
            self.frames.append((time.monotonic(), text))
            self.updates += text.startswith('{"event":"StreamUpdate"') or text.startswith('{"event": "StreamUpdate"')


@asynccontextmanager
async def followers(server: Server, conversations: list[Conversation]) -> AsyncIterator[list[Inbox]]:
    """Follow each conversation through a websocket of ours."""
    async with _inboxes(server, ["converse/ws/"] * len(conversations)) as inboxes:
        for inbox, conversation in zip(inboxes, conversations, strict=True):
            await inbox.socket.send(subscription(conversation))
        await until(lambda: all('"Snapshot"' in "".join(text for _, text in inbox.frames) for inbox in inboxes))
        yield inboxes


@asynccontextmanager
async def stock_followers(server: Server, conversations: list[Conversation]) -> AsyncIterator[list[Inbox]]:
    """Follow each conversation through a stock consumer."""
    async with _inboxes(server, [f"stock/{conversation.uuid}/" for conversation in conversations]) as inboxes:
        yield inboxes


@asynccontextmanager
async def _inboxes(server: Server, paths: list[str]) -> AsyncIterator[list[Inbox]]:
    async with AsyncExitStack() as stack:
        inboxes = [Inbox(await stack.enter_async_context(server.connect(path))) for path in paths]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(inbox.listen()) for inbox in inboxes]
            yield inboxes
            for task in tasks:
                task.cancel()


def subscription(conversation: Conversation, **cursor: Any) -> str:
    return json.dumps({"type": "subscribe", "conversation": str(conversation.uuid), **cursor})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)
