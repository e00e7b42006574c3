"""A reader's place in a conversation's log. No I/O: this is the part that must never be wrong."""

from __future__ import annotations

import re
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

WRITTEN = re.compile(r"([0-9]{1,18})-([0-9A-Za-z]{1,8})")


def write_cursor(offset: int, epoch: str) -> str:
    """Give a cursor as the one text that clients keep where they have room for one: ``17-5f0c2a9e``."""
    return f"{offset}-{epoch}"


def read_cursor(text: str) -> tuple[int, str] | None:
    """Give the offset and the epoch of a written cursor; None where it is none."""
    found = WRITTEN.fullmatch(text)
    return (int(found[1]), found[2]) if found else None


class Cursor(Generic[T]):
    """Says what a reader may be handed next: each event once, in the order of the log, whatever the layer does.

    Live events are offered in any order, some never, some twice. An event is handed on when it is the next one; what is
    missing is to be read from the table. What waits is bounded: beyond ``limit`` (in the unit of ``size``) it is let
    go, for the table has it.
    """

    def __init__(self, offset: int, limit: int) -> None:
        self.offset = offset  # the last event handed on
        self.head = offset  # the last event known to exist
        self._limit = limit
        self._run: deque[tuple[int, T, int]] = deque()  # consecutive events, perhaps beyond a gap
        self._size = 0

    def offer(self, offset: int, event: T, size: int = 1) -> None:
        """Take in a live event; one that was seen is dropped."""
        if offset <= self.offset:
            return
        self.head = max(self.head, offset)
        if self._run and offset != self._run[-1][0] + 1:
            if offset <= self._run[-1][0]:
                return
            self._forget()
        if self._size + size > self._limit:
            self._forget()
            return
        self._run.append((offset, event, size))
        self._size += size

    def hear(self, head: int) -> None:
        """Learn how far the log has come."""
        self.head = max(self.head, head)

    @property
    def ready(self) -> bool:
        """Whether the next event is at hand."""
        return bool(self._run) and self._run[0][0] == self.offset + 1

    @property
    def behind(self) -> bool:
        """Whether the next event exists and must be read from the table."""
        return self.head > self.offset and not self.ready

    def take(self) -> T:
        """Hand on the next event."""
        offset, event, size = self._run.popleft()
        self._size -= size
        self.offset = offset
        return event

    def jump(self, offset: int) -> None:
        """Say that everything up to an offset was handed on by other means."""
        self.offset = max(self.offset, offset)
        self.head = max(self.head, offset)
        while self._run and self._run[0][0] <= self.offset:
            self._size -= self._run.popleft()[2]

    def reset(self, offset: int) -> None:
        """Begin afresh, in a renumbered log."""
        self._forget()
        self.offset = self.head = offset

    def _forget(self) -> None:
        self._run.clear()
        self._size = 0
