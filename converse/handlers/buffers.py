"""A handler that gathers text and hands it on in larger pieces: by size, by time, and at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from asgiref.sync import async_to_sync
from django.db import connections

from converse import loops
from converse.handlers.base import Ending, Handler, at_least

if TYPE_CHECKING:
    from converse.models import Message

Flush = Callable[[str], Any]


class Buffered(Handler):
    """Hands text on once there are ``size`` characters, or once it waited for ``seconds``, and what is left at the end.

    Its result is how often it did. No call begins before the last one is over: while one takes its time the stream
    waits. In an async stream the callback runs in its loop; in a sync one, when the time is up, in a thread apart.
    """

    size: int = 200
    seconds: float | None = 0.5

    def __init__(self, callback: Flush | None = None, *, size: int | None = None, seconds: float | None = None) -> None:
        self._callback = callback
        self.size = self.size if size is None else size
        self.seconds = self.seconds if seconds is None else seconds
        at_least(1, size=self.size)
        at_least(0, seconds=self.seconds)

    def flush(self, text: str) -> Any:
        """Hand text on, by default to the callback."""
        return self._callback(text) if self._callback else None

    def start(self, result: int | None, message: Message) -> int:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._buffer: _Loop | _Thread = _Thread(self, result or 0)
        else:
            self._buffer = _Loop(self, result or 0, loop)
        return result or 0

    def take(self, result: int, text: str) -> Any:
        return self._buffer.take(text)

    def end(self, result: int, ending: Ending) -> Any:
        return self._buffer.end()


class _Buffer:
    """What has been gathered and not handed on."""

    def __init__(self, handler: Buffered, flushes: int) -> None:
        self.handler = handler
        self.flushes = flushes
        self.failure: Exception | None = None
        self.texts: list[str] = []
        self.length = 0

    def add(self, text: str) -> bool:
        """Take text; say whether there is enough to be handed on."""
        if self.failure:
            raise self.failure
        self.texts.append(text)
        self.length += len(text)
        return self.length >= self.handler.size

    def empty(self) -> str:
        """Take everything out."""
        text = "".join(self.texts)
        self.texts, self.length = [], 0
        return text


class _Loop(_Buffer):
    """In an event loop: a timer of the loop's, and each call a task, which a cancelled stream does not cut short."""

    def __init__(self, handler: Buffered, flushes: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(handler, flushes)
        self.loop = loop
        self.turn = asyncio.Lock()
        self.timer: asyncio.TimerHandle | None = None

    def take(self, text: str) -> Any:
        if self.add(text):
            return self.hand_on()
        if self.timer is None and self.handler.seconds is not None:
            self.timer = self.loop.call_later(self.handler.seconds, self.begin)
        return self.flushes

    def begin(self) -> asyncio.Task[None]:
        if self.timer:
            self.timer.cancel()
            self.timer = None
        task = self.loop.create_task(self.flush())
        loops.keep(task)
        return task

    async def flush(self) -> None:
        async with self.turn:
            text = self.empty()
            if not text or self.failure:
                return
            try:
                done = self.handler.flush(text)
                if isawaitable(done):
                    await done
                self.flushes += 1
            except Exception as exc:
                self.failure = exc

    async def hand_on(self) -> int:
        await asyncio.shield(self.begin())
        if self.failure:
            raise self.failure
        return self.flushes

    end = hand_on


class _Thread(_Buffer):
    """Without a loop: a timer that is a thread."""

    def __init__(self, handler: Buffered, flushes: int) -> None:
        super().__init__(handler, flushes)
        self.turn = threading.RLock()
        self.timer: threading.Timer | None = None

    def take(self, text: str) -> int:
        with self.turn:
            if self.add(text):
                return self.hand_on()
            if self.timer is None and self.handler.seconds is not None:
                self.timer = threading.Timer(self.handler.seconds, self.due)
                self.timer.daemon = True
                self.timer.start()
            return self.flushes

    def due(self) -> None:
        try:
            with self.turn:
                self.hand_on()
        except Exception as exc:
            self.failure = exc
        finally:
            connections.close_all()  # those of this thread

    def hand_on(self) -> int:
        if self.timer:
            self.timer.cancel()
            self.timer = None
        if text := self.empty():
            done = self.handler.flush(text)
            if isawaitable(done):
                async_to_sync(_awaited)(done)
            self.flushes += 1
        return self.flushes

    def end(self) -> int:
        with self.turn:
            if self.failure:
                raise self.failure
            return self.hand_on()


async def _awaited(awaitable: Awaitable[Any]) -> None:
    await awaitable
