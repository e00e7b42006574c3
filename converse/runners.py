"""Where replies run: a runner is given the work and starts it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from asgiref.sync import async_to_sync
from django.utils.module_loading import import_string

from converse import loops
from converse.conf import settings

Run = Callable[[int], Coroutine[Any, Any, None]]


class Runner(Protocol):
    """What ``CONVERSE_RUNNER`` names: its ``start`` sees to it that ``run(message_id)`` is awaited somewhere."""

    def start(self, run: Run, message_id: int) -> None: ...


class BackgroundRunner:
    """Runs replies in this process, in a loop that outlives the request; works under WSGI, ASGI and in a shell."""

    def start(self, run: Run, message_id: int) -> None:
        loops.run_in(loops.background(), run(message_id))


class ImmediateRunner:
    """Runs a reply to its end before ``start`` returns: for tests and scripts."""

    def start(self, run: Run, message_id: int) -> None:
        async_to_sync(run)(message_id)


def runner() -> Runner:
    """Give the runner of ``CONVERSE_RUNNER``."""
    made: Runner = import_string(settings.CONVERSE_RUNNER)()
    return made
