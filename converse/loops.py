"""Where asynchronous work of this process runs: the readers' loop, or one living loop in the background."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

from asgiref.sync import AsyncToSync, sync_to_async
from django.db import connections

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class _Background:
    """One daemon thread with one event loop a process, started when first needed, anew after a fork."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=_keep_running, args=(self._loop,), name="converse", daemon=True).start()
            return self._loop


def _keep_running(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop, on and on: what ends one, a ``SystemExit`` for one, is the business of its task and of no other."""
    while True:
        try:
            return loop.run_forever()
        except BaseException:
            logger.exception("Something in the background would have ended all that runs there")


_background = _Background()
_readers: list[asyncio.AbstractEventLoop] = []


def background() -> asyncio.AbstractEventLoop:
    """Give the loop that outlives every request: it works under WSGI, ASGI and in a shell."""
    return _background.loop()


def settle() -> None:
    """Say that this process's readers live in the running loop."""
    _readers[:] = [asyncio.get_running_loop()]


def home() -> asyncio.AbstractEventLoop:
    """Give the loop in which to publish: the readers' where there are any, else the background one."""
    return next((loop for loop in _readers if loop.is_running()), None) or background()


def run_in(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any]) -> None:
    """Start a coroutine in a loop of any thread, in a context of its own: what started it may end."""
    context = contextvars.Context()
    loop.call_soon_threadsafe(lambda: keep(loop.create_task(coroutine, context=context)))


def finish() -> None:
    """Wait for all that was started in the background, as a command does before its process ends."""
    loop = background()

    async def rest() -> None:
        while tasks := [task for task in _tasks if task.get_loop() is loop]:
            await asyncio.wait(tasks)

    asyncio.run_coroutine_threadsafe(rest(), loop).result()


_tasks: set[asyncio.Task[Any]] = set()


def keep(task: asyncio.Task[Any]) -> None:
    """Hold a task until it is done: its loop does so weakly only."""
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


class PerLoop(Generic[T]):
    """One of something in each event loop: made when first asked for, let go when its loop is closed.

    Not weakly by the loop: whatever waits in a loop, a lock for one, holds it, and would hold itself for ever.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, T] = {}

    def of(self, loop: asyncio.AbstractEventLoop) -> T | None:
        """Give that of a loop, which may be another thread's; None where there is none yet."""
        return self._made.get(loop)

    def __call__(self) -> T:
        """Give that of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            for closed in [other for other in list(self._made) if other.is_closed()]:
                self._made.pop(closed, None)
            self._made[loop] = self._make()
        return self._made[loop]


class DatabaseThread:
    """Runs ORM code for a long-lived part of the process in one thread, with one connection, of its own.

    Apart from the thread that all other async code shares, whose slowest query everybody waits for. Under
    ``async_to_sync``, as in a TestCase, it is the calling thread, as for all thread-sensitive code.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_started = False
        # An executor could not be ended here: it would take a lock, and the collector comes at any moment, also in the
        # midst of another executor's. This queue may be put into at any moment.
        weakref.finalize(self, self._calls.put, None).atexit = False

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in the thread; a connection that broke is closed, for the next call to open a new one."""
        call = partial(_with_connections, partial(function, *args, **kwargs))
        loop = asyncio.get_running_loop()
        if loop in AsyncToSync.loop_thread_executors:
            return await sync_to_async(call)()
        if not self._is_started:
            self._is_started = True
            threading.Thread(target=_serve, args=(self._calls,), name="converse-database", daemon=True).start()
        future, answering = _promised(call, loop)
        self._calls.put(answering)
        return (await future)()


async def apart(function: Callable[[], R]) -> R:
    """Call a function in a thread of its own, with connections of its own that are closed after it.

    Nobody waits for it once this is cancelled, not even the end of the process. Under ``async_to_sync``, as in a
    TestCase, it is the calling thread, as for all thread-sensitive code.
    """
    loop = asyncio.get_running_loop()
    if loop in AsyncToSync.loop_thread_executors:
        return await sync_to_async(function)()

    def call() -> R:
        try:
            return function()
        finally:
            connections.close_all()

    future, answering = _promised(call, loop)
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(answering,), name="converse-apart", daemon=True).start()
    return (await future)()


def _promised(
    function: Callable[[], R], loop: asyncio.AbstractEventLoop
) -> tuple[asyncio.Future[Callable[[], R]], Callable[[], None]]:
    """Give a future of a loop's, and what another thread is to call to fulfil it with the outcome of a function."""
    future: asyncio.Future[Callable[[], R]] = loop.create_future()

    def answer(outcome: Callable[[], R]) -> None:
        if not future.done():
            future.set_result(outcome)

    def call() -> None:
        if future.cancelled():
            return
        try:
            outcome = partial(_give, function())
        except BaseException as exc:  # whatever it is, it is the caller's
            outcome = partial(_raise, exc)
        try:
            loop.call_soon_threadsafe(answer, outcome)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    return future, call


def _give(value: R) -> R:
    return value


def _raise(exc: BaseException) -> Any:
    raise exc


def _serve(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    """Make the calls of a queue, until there is none."""
    while call := calls.get():
        call()
        del call  # while it waits it holds nothing
    connections.close_all()


def _with_connections(call: Callable[[], R]) -> R:
    try:
        return call()
    finally:
        for connection in connections.all(initialized_only=True):
            if connection.errors_occurred and not connection.in_atomic_block:
                connection.close_if_unusable_or_obsolete()
