"""Callables that are told of each text, and once of the end: completed, failed or cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, NamedTuple

from asgiref.sync import async_to_sync

from converse import loops, naming
from converse.choices import Status
from converse.drafts import storable
from converse.exceptions import InvalidMessage
from converse.handlers.base import Handler

if TYPE_CHECKING:
    from converse.models import Message

logger = logging.getLogger(__name__)

ENDINGS = {Status.COMPLETED: "on_complete", Status.FAILED: "on_error", Status.CANCELLED: "on_cancel"}
ERROR_LIMIT = 500  # characters
EVENTS = ("on_token", *ENDINGS.values())

Errors = dict[str, dict[str, str]]  # what the metadata keeps of callables that failed


class Callback(NamedTuple):
    """A callable under the name of what it is told of."""

    event: str
    function: Callable[..., Any]


class OnToken(Handler):
    """Tells a callable of each text, before it is stored."""

    stored = False

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def start(self, result: Any, message: Message) -> None:
        self.message = message

    def take(self, result: Any, text: str) -> Any:
        return self.function(self.message, text)


def made(event: str, function: Any) -> Callback:
    """Give a callable, or the one of a dotted path, as a callback; raise InvalidMessage for what is none."""
    found = naming.found(function, field=event) if isinstance(function, str) else function
    if not callable(found) or isinstance(found, type):
        raise InvalidMessage(f"must be a function, not {function!r}", field=event)
    return Callback(event, found)


def planned(message: Message) -> list[Callback]:
    """Give what the plan of a reply wants to be told of."""
    return [made(event, path) for event, path in message.plan.get("callbacks", {}).items()]


def tell(callbacks: Iterable[Callback], message: Message, status: Status) -> Errors:
    """Tell of the end of a message, each callable apart; give what went wrong."""
    errors = {}
    for event, function in _due(callbacks, status):
        try:
            if _is_async(function):
                async_to_sync(function)(message)
            else:
                function(message)
        except Exception as exc:
            errors[event] = {"error": failure(event, exc)}
    return errors


async def atell(callbacks: Iterable[Callback], message: Message, status: Status) -> Errors:
    """See tell(). What is sync runs in a thread of its own, for it may wait."""
    errors = {}
    for event, function in _due(callbacks, status):
        try:
            if _is_async(function):
                await function(message)
            else:
                await loops.apart(partial(function, message))
        except Exception as exc:
            errors[event] = {"error": failure(event, exc)}
    return errors


def failure(name: str, exc: Exception) -> str:
    """Log what a callable of the project's raised, and give it as text that can be stored."""
    logger.warning("%s failed", name, exc_info=exc)
    return storable(f"{type(exc).__name__}: {exc}"[:ERROR_LIMIT])


def told_of(message: Message, status: Status) -> Errors:
    """Tell the callables of a reply's plan of its end; give what went wrong."""
    try:
        return tell(planned(message), message, status)
    except InvalidMessage as exc:  # one that was there when the reply was asked for
        return {exc.field: {"error": failure(exc.field, exc)}}


def _due(callbacks: Iterable[Callback], status: Status) -> list[Callback]:
    return [callback for callback in callbacks if callback.event == ENDINGS.get(status)]


def _is_async(function: Callable[..., Any]) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
