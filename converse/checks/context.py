"""The rules of the settings that say what a provider is to see, and what conversations are called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from converse.checks.rules import Finding, Rule, importable
from converse.exceptions import InvalidMessage
from converse.windows import checked

COUNTER = importable("a function that counts the tokens of a text", callable)


def window(value: Any) -> Iterator[Finding]:
    try:
        checked(value)
    except InvalidMessage as exc:
        yield f"{exc.reason}.", 'Such as {"tokens": 8000} or {"messages": 20}; an empty one is without limits.'


def optional(what: str) -> Rule:
    """Let a setting be empty, or the dotted path of a function."""
    named = importable(what, callable)

    def rule(value: Any) -> Iterator[Finding]:
        if value != "":
            yield from named(value)

    return rule
