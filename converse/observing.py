"""The end of a stream that handlers watch: they end before it is written, callbacks are told after."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from converse import closing, records
from converse.choices import Status
from converse.drafts import storable
from converse.exceptions import AnotherWriter, MessageClosed, Stopped, Vetoed
from converse.handlers.base import Ending
from converse.handlers.callbacks import tell
from converse.handlers.pipeline import Handlers, Steps, done
from converse.log import database

if TYPE_CHECKING:
    from converse.models import Message


class Way(NamedTuple):
    """How to call what waits for the database, and callbacks: at once, or to be awaited."""

    call: Callable[..., Any]
    tell: Callable[..., Any]


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


SYNC = Way(_call, tell)


def close(
    handlers: Handlers, message: Message, way: Way, ending: Ending, write: Callable[[Vetoed | None], None]
) -> Steps[None]:
    """Close a message by ``write``, which is given the veto of a handler, if one has any at the end; raise that."""
    try:
        veto = yield from handlers.end(message, ending)
        yield from done(way.call(write, veto))
    except MessageClosed as exc:
        yield from lose(handlers, message, way, exc)
        raise
    if not handlers.told:
        handlers.told = True
        yield from _tell(handlers, message, way, Status.FAILED if veto else ending.status)
    if veto:
        raise veto


def pause(handlers: Handlers, message: Message, way: Way) -> Steps[None]:
    """End with what has come until a person decides: who goes on with the message begins with these results."""
    veto = yield from handlers.end(message, Ending(status=Status.WAITING))
    if veto:
        raise veto
    if report := handlers.report:
        yield from done(way.call(closing.note, message, report))


def lose(handlers: Handlers, message: Message, way: Way, reason: Exception) -> Steps[None]:
    """End because somebody else closed the message, or writes to it; once."""
    if handlers.told:
        return
    handlers.told = True
    if isinstance(reason, AnotherWriter):
        status = Status.FAILED  # for this stream; the message goes on without it
        yield from handlers.end(message, Ending(status=status, error=reason))
    else:
        yield from done(way.call(_refresh, message))
        status = Status(message.status)
        yield from handlers.end(message, Ending(status=status, error=message.error_detail or None))
        if report := handlers.report:
            yield from done(way.call(closing.note, message, report))
    if not handlers.planned:  # else who closed it has told them
        yield from _tell(handlers, message, way, status)


def _tell(handlers: Handlers, message: Message, way: Way, status: Status) -> Steps[None]:
    errors = yield from done(way.tell(handlers.callbacks, message, status))
    if errors:
        yield from done(way.call(closing.note, message, errors))


def _refresh(message: Message) -> None:
    """Find out how a message ended; one that is gone was cancelled."""
    try:
        message.refresh_from_db(using=database())
    except records.Message.DoesNotExist:
        message.status = Status.CANCELLED


def told(handlers: Handlers | None, error: object) -> dict[str, Any]:
    """Give what the metadata of a message keeps of its handlers: their results, and which one ended it."""
    if handlers is None:
        return {}
    ended = (
        {"ended_by": error.handler, "ended_because": storable(str(error))}
        if isinstance(error, Vetoed | Stopped)
        else {}
    )
    return {**ended, **({"handlers": handlers.report} if handlers.report else {})}
