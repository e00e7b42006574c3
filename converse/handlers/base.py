"""What a handler is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from converse.choices import ChunkKind, Status
from converse.exceptions import InvalidMessage

if TYPE_CHECKING:
    from converse.models import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a stream ends: completed, failed by ``error``, or cancelled; what the provider said of it, if one did."""

    status: Status
    error: str | BaseException | None = None
    finish_reason: str = ""
    model: str = ""


class Handler:
    """Watches a stream; each method, sync or async, is given the handler's result so far and gives the next.

    A class need not derive from this one: whatever has one of the three methods will do. An instance serves one stream
    at a time; what it keeps besides its result it makes anew in ``start``.
    """

    kinds: Collection[str] = (ChunkKind.TEXT,)
    """What it is shown: text comes as ``str``, anything else as the delta that was appended."""

    judges = False
    """Whether it may veto, stop or shorten; such handlers come before all others."""

    stored = True
    """Whether its last result is kept in the message's metadata."""

    def start(self, result: Any, message: Message) -> Any:
        """Begin with a message; a reply that goes on after it waited comes with its earlier result."""
        return result

    def take(self, result: Any, delta: Any) -> Any:
        """Take what is about to be stored."""
        return result

    def end(self, result: Any, ending: Ending) -> Any:
        """End; called once, before the message closes, however it does."""
        return result


def after(done: Any, result: Any) -> Any:
    """Give a result, at once or once what a callable of the project's gave is awaited."""
    if not isawaitable(done):
        return result

    async def wait() -> Any:
        await done
        return result

    return wait()


def at_least(least: float, **arguments: float | None) -> None:
    """Raise InvalidMessage for an argument that is given and too small."""
    for name, value in arguments.items():
        if value is not None and not value >= least:
            raise InvalidMessage(f"must be {least:g} or more, not {value!r}", field=name)
