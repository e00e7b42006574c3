"""What a setting may be: rules, each of which finds what is wrong with a value, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from math import isfinite
from os.path import commonprefix
from typing import Any

from django.utils.module_loading import import_string

Finding = tuple[str, str]  # what is wrong with a setting, and the fix
Rule = Callable[[Any], Iterable[Finding]]


def must_be(wanted: str, test: Callable[[Any], bool]) -> Rule:
    def rule(value: Any) -> Iterator[Finding]:
        if not test(value):
            yield f"must be {wanted}, not {value!r}.", f"Set it to {wanted}, or remove it to have the default."

    return rule


def importable(what: str, test: Callable[[Any], bool]) -> Rule:
    def rule(value: Any) -> Iterator[Finding]:
        fix = f"Name {what} by its dotted path, or remove the setting to have the default."
        try:
            found = import_string(value)
        except (ImportError, AttributeError, TypeError) as exc:
            yield f"is {value!r}, which cannot be imported: {exc}.", fix
            return
        if not test(found):
            yield f"is {value!r}, which is not {what}.", fix

    return rule


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) and all(isinstance(item, str) and item for item in value)


POSITIVE = must_be("a number above 0", lambda value: is_number(value) and value > 0)
NOT_NEGATIVE = must_be("a number from 0", lambda value: is_number(value) and value >= 0)
COUNT = must_be("a whole number from 1", is_count)
COUNT_OR_NONE = must_be("a whole number from 0", lambda value: value == 0 or is_count(value))
TEXTS = must_be("a list or tuple of texts", are_texts)


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Give the fix of a misspelt name: of those like it the one that begins most like it."""
    given, others = name.removeprefix(prefix), [other.removeprefix(prefix) for other in known]
    near = get_close_matches(given, others, max(len(others), 1))
    if not near:
        return "Remove it."
    shared = {other: len(commonprefix([given, other])) for other in near}  # noqa: RUF071 - no paths, but letters
    return f"Did you mean {prefix}{max(near, key=shared.__getitem__)}?"
