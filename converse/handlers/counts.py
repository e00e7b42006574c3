"""Handlers that count and measure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from converse.handlers.base import Ending, Handler, after, at_least

if TYPE_CHECKING:
    from converse.models import Message

Figures = dict[str, Any]

EDGE = re.compile(r"\s")


class CharacterCount(Handler):
    """Counts the characters of the text."""

    def take(self, result: int | None, text: str) -> int:
        return (result or 0) + len(text)


class WordCount(Handler):
    """Counts the words of the text: what stands between spaces, wherever the deltas are cut."""

    def start(self, result: int | None, message: Message) -> int:
        self._within = False  # whether the text so far ends within a word
        return result or 0

    def take(self, result: int, text: str) -> int:
        words = len(text.split())
        joined = self._within and not EDGE.match(text)
        self._within = not EDGE.match(text[-1])
        return result + words - joined


class Analytics(Handler):
    """Measures the stream: how soon it began, how fast it went, how it ended."""

    def start(self, result: Figures | None, message: Message) -> Figures:
        self._began = message.started_at or message.created_at
        return result or {"first_token_ms": None, "deltas": 0, "characters": 0}

    def take(self, result: Figures, text: str) -> Figures:
        first = result["first_token_ms"]
        return {
            "first_token_ms": round(self._seconds() * 1000, 3) if first is None else first,
            "deltas": result["deltas"] + 1,
            "characters": result["characters"] + len(text),
        }

    def end(self, result: Figures, ending: Ending) -> Figures:
        seconds = self._seconds()
        deltas, characters = result["deltas"], result["characters"]
        return {
            **result,
            "seconds": round(seconds, 6),
            "deltas_per_second": _rate(deltas, seconds),
            "characters_per_second": _rate(characters, seconds),
            "average_delta_size": _rate(characters, deltas),
            "finish_reason": ending.finish_reason,
            "model": ending.model,
        }

    def _seconds(self) -> float:
        return max(0.0, (timezone.now() - self._began).total_seconds())


class Progress(Handler):
    """Reports how far the stream has come, each time another ``every`` characters are there, and at its end.

    The report is a dict of ``deltas``, ``characters``, ``seconds`` and ``characters_per_second``.
    """

    every = 500

    def __init__(self, callback: Callable[[Figures], Any] | None = None, *, every: int | None = None) -> None:
        self._callback = callback
        self.every = self.every if every is None else every
        at_least(1, every=self.every)

    def report(self, figures: Figures) -> Any:
        """Report, by default to the callback."""
        return self._callback(figures) if self._callback else None

    def start(self, result: Figures | None, message: Message) -> Figures:
        self._began = message.started_at or message.created_at
        return result or {"deltas": 0, "characters": 0}

    def take(self, result: Figures, text: str) -> Any:
        before, characters = result["characters"], result["characters"] + len(text)
        figures = {**result, "deltas": result["deltas"] + 1, "characters": characters}
        return self._report(figures) if characters // self.every > before // self.every else figures

    def end(self, result: Figures, ending: Ending) -> Any:
        return self._report(result)

    def _report(self, figures: Figures) -> Any:
        seconds = max(0.0, (timezone.now() - self._began).total_seconds())
        figures |= {
            "seconds": round(seconds, 6),
            "characters_per_second": _rate(figures["characters"], seconds),
        }
        return after(self.report(dict(figures)), figures)


def _rate(count: int, of: float) -> float | None:
    return round(count / of, 3) if of else None
