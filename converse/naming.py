"""Things that every process finds again by their dotted path."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from converse.exceptions import InvalidMessage


def found(path: str, *, field: str) -> Any:
    """Give what a dotted path names, in a module or in a class of one; raise InvalidMessage where that is nothing."""
    try:
        return resolve_name(path)
    except (ValueError, ImportError, AttributeError) as exc:
        raise InvalidMessage(f"{path!r} cannot be imported: {exc}; correct the dotted path", field=field) from exc


def named(thing: Any, *, field: str) -> str:
    """Give the dotted path of a class or function; raise InvalidMessage where others would not find it by that."""
    path = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
    try:
        known = resolve_name(path) is thing and not path.startswith("__main__.")
    except (ValueError, ImportError, AttributeError):
        known = False
    if not known:
        raise InvalidMessage(f"{thing!r} cannot be imported by name; define it in a module", field=field)
    return path
