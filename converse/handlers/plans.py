"""Handlers and callbacks by their dotted paths: as the plan of a reply has them, and made of it in any process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converse import naming
from converse.conf import settings
from converse.exceptions import InvalidMessage
from converse.handlers.pipeline import Handlers, named


def plan(handlers: Any = (), **callbacks: Any) -> dict[str, Any]:
    """Give the part of a reply's plan that is about handlers and callbacks; raise InvalidMessage.

    Handlers are classes or functions of modules, or the dotted paths of such: a list, or a dict by their names.
    """
    given = [(name, _path(handler, "handlers")) for name, handler in named(handlers)]
    paths = {event: _path(function, event) for event, function in callbacks.items() if function is not None}
    watching = Handlers().listen(**paths)
    for name, path in given:
        watching.add(name, path)
    return {key: value for key, value in {"handlers": dict(given), "callbacks": paths}.items() if value}


def of(plan: Mapping[str, Any]) -> Handlers:
    """Make the handlers of a reply: those of ``CONVERSE_HANDLERS``, and those of its plan."""
    handlers = Handlers(settings.CONVERSE_HANDLERS)
    known = {entry.name for entry in handlers.entries}
    for name, path in plan.get("handlers", {}).items():
        handlers.add(path if name in known else name, path)
    handlers.planned = True
    return handlers.listen(**plan.get("callbacks", {}))


def _path(thing: Any, field: str) -> str:
    if isinstance(thing, str):
        return thing
    if not hasattr(thing, "__qualname__"):
        reason = f"takes classes, functions or their dotted paths, not {thing!r}"
        raise InvalidMessage(f"{reason}: the process that drives the reply makes its own", field=field)
    return naming.named(thing, field=field)
