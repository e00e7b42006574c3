"""The rule of CONVERSE_HANDLERS."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from converse import handlers as watchers
from converse.checks.rules import TEXTS, Finding, are_texts
from converse.exceptions import InvalidMessage


def handlers(value: Any) -> Iterator[Finding]:
    if not are_texts(value):
        yield from TEXTS(value)
        return
    found = [(problem, fix) for path in value for problem, fix in _handlers(f"names {path!r}", [path])]
    yield from found or _handlers("cannot be used", value)


def _handlers(named: str, paths: Collection[str]) -> Iterator[Finding]:
    try:
        watchers.plan(paths)
    except InvalidMessage as exc:
        fix = "Name classes or functions of modules by their dotted paths; a subclass of yours says the arguments."
        yield f"{named}: {exc.reason}.", fix
    except ImproperlyConfigured as exc:
        yield f"{named}, which cannot be made: {exc}.", "Install what it needs."
