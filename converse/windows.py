"""How much of a conversation a provider is to see: the newest turns that fit, and those that always stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from django.utils.module_loading import import_string

from converse.choices import Role
from converse.conf import settings
from converse.exceptions import InvalidMessage
from converse.parts import Part, Raw, Reasoning, StoredFile, Text, ToolCall, ToolResult
from converse.steps import Turn

LIMITS = ("tokens", "messages")
SUMMARIES = "converse.summaries"  # what was left out, told in short; the key in a conversation's context

FRAME = 4  # tokens that a message takes besides what it says
IMAGE = 1000  # tokens of a picture, whatever its size
DENSITY = 50  # bytes of any other file that is no text, for each token


class Window(NamedTuple):
    """Limits of which each is None where there is none."""

    tokens: int | None = None
    messages: int | None = None

    @classmethod
    def of(cls, *found: Mapping[str, Any] | None) -> Self:
        """Make the window that the first of several says; an empty one is without limits. Raise InvalidMessage."""
        return cls(**checked(next((window for window in found if window is not None), {})))

    @property
    def is_open(self) -> bool:
        return self == (None, None)

    def holds(self, tokens: int, messages: int) -> bool:
        return tokens <= (self.tokens or tokens) and messages <= (self.messages or messages)

    def half(self) -> Window:
        return Window(*(limit and max(limit // 2, 1) for limit in self))


def checked(window: Any, field: str = "window") -> dict[str, int]:
    """Give a window back; raise InvalidMessage for anything that is none."""
    if not isinstance(window, Mapping) or set(window) - set(LIMITS):
        raise InvalidMessage(f"must be a dict with tokens, messages or both, not {window!r}", field=field)
    for name, limit in window.items():
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidMessage(f"{name} must be a whole number from 1, not {limit!r}", field=field)
    return dict(window)


def configured(alias: str) -> Mapping[str, Any]:
    """Give the window that the settings have for a provider."""
    config = settings.CONVERSE_PROVIDERS.get(alias, {})
    found: Mapping[str, Any] = config.get("WINDOW", settings.CONVERSE_CONTEXT_WINDOW)
    return found


def estimate(text: str) -> int:
    """Count a token for each four characters."""
    return -(-len(text) // 4)


def counter() -> Callable[[str], int]:
    """Give the function that ``CONVERSE_TOKEN_COUNTER`` names."""
    found: Callable[[str], int] = import_string(settings.CONVERSE_TOKEN_COUNTER)
    return found


def count(parts: Iterable[Part | StoredFile], count_text: Callable[[str], int]) -> int:
    """Count the tokens of a message."""
    return FRAME + sum(_count(part, count_text) for part in parts)


def _count(part: Part | StoredFile, count_text: Callable[[str], int]) -> int:
    match part:
        case Text() | Reasoning():
            return count_text(part.text)
        case ToolCall():
            return count_text(part.name) + count_text(part.arguments)
        case ToolResult():
            return count_text(part.output)
        case Raw():
            return count_text(json.dumps(part.data))
        case StoredFile(mime_type=kind, size=size):
            return IMAGE if kind.startswith("image/") else size // (4 if kind.startswith("text/") else DENSITY)
        case _:
            raise TypeError(f"{type(part).__name__} cannot be counted")


class Costs:
    """What turns take of a window, in tokens and messages; each is counted once."""

    def __init__(self, window: Window, origin: str) -> None:
        self._count = counter() if window.tokens else None
        self._origin = origin
        self._known: dict[tuple[int, str], int] = {}

    def of(self, turn: Turn) -> tuple[int, int]:
        """Give a turn's tokens, 0 where they do not matter, and messages."""
        return self._tokens(turn), 0 if stays(turn) or turn.own else turn.rows

    def _tokens(self, turn: Turn) -> int:
        if self._count is None:
            return 0
        key = (turn.offset, turn.role)
        if key not in self._known:
            self._known[key] = sum(count(parts, self._count) for _, parts in turn.messages(self._origin))
        return self._known[key]

    def sum(self, turns: Iterable[Turn]) -> tuple[int, int]:
        tokens, messages = zip((0, 0), *map(self.of, turns), strict=True)
        return sum(tokens), sum(messages)


def stays(turn: Turn) -> bool:
    """Say whether a turn is in every prompt, and does not count among its messages."""
    return turn.pinned or turn.role == Role.SYSTEM


def choose(turns: Sequence[Turn], window: Window, costs: Costs) -> list[Turn]:
    """Give the turns that fit, oldest first.

    What is of the system or pinned stays, and so do the user's last turn and what came after it. Of the others the
    newest are taken until no more fit, and the first of those is a user's.
    """
    users = [number for number, turn in enumerate(turns) if turn.role == Role.USER]
    last = users[-1] if users else len(turns) - 1
    always = {number for number, turn in enumerate(turns) if number >= last or stays(turn)}
    for number in [number for number in always if turns[number].role == Role.ASSISTANT]:
        always.update([user for user in users if user < number][-1:])  # what it answers comes along
    tokens, messages = costs.sum(turns[number] for number in always)
    first = last
    for number in reversed(range(last)):
        if number not in always:
            more = costs.of(turns[number])
            tokens, messages = tokens + more[0], messages + more[1]
            if not window.holds(tokens, messages):
                break
        if turns[number].role == Role.USER:
            first = number
    else:
        first = 0
    return [turn for number, turn in enumerate(turns) if number in always or number >= first]
