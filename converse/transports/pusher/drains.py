"""The end of a server, told to its clients: with 4200 they come back at once, and another process serves them.

No server lets an application do so by itself: Daphne cancels it, uvicorn closes the sockets with 1012 and ends the
lifespan after that. So the first socket of a process puts itself before the server's own handler of SIGTERM, which is
called when all have been told.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Protocol

from converse.loops import PerLoop, keep
from converse.transports.pusher.protocol import RESTARTING

PATIENCE = 2.0  # seconds for all clients to be told

Handler = Callable[[int, FrameType | None], Any]


class Closing(Protocol):
    async def close(self, code: int) -> None: ...


class Drain:
    """The lines of one loop, and whether its server is about to end."""

    def __init__(self) -> None:
        self.lines: set[Closing] = set()
        self.draining = False
        self._install()

    def _install(self) -> None:
        """Come before the server's handler of SIGTERM, where there is one in Python."""
        handler = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is threading.main_thread() and callable(handler):
            signal.signal(signal.SIGTERM, partial(self._on_signal, asyncio.get_running_loop(), handler))

    def _on_signal(self, loop: asyncio.AbstractEventLoop, handler: Handler, number: int, at: FrameType | None) -> None:
        if self.draining or not loop.is_running():
            handler(number, at)
            return
        self.draining = True
        loop.call_soon_threadsafe(lambda: keep(loop.create_task(self._tell(partial(handler, number, None)))))

    async def _tell(self, then: Callable[[], Any]) -> None:
        try:
            told = [asyncio.ensure_future(line.close(RESTARTING)) for line in self.lines]
            if told:
                await asyncio.wait(told, timeout=PATIENCE)
        finally:
            then()


drain = PerLoop(Drain)
