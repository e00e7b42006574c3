"""What readers of a conversation get while a block of code runs, and the signals that are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, Self
from unittest.mock import patch

from asgiref.sync import sync_to_async
from django.db import connections
from django.dispatch import Signal

from converse import flushes, signals
from converse.events import Event, StreamUpdate
from converse.log import Log, database
from converse.models import Conversation, Message

NAMES = {id(signal): name for name, signal in vars(signals).items() if isinstance(signal, Signal)}


class Sent(NamedTuple):
    """A signal: its name and what came with it."""

    name: str
    arguments: dict[str, Any]


class captured_events:  # noqa: N801 - used like a function, as Django's own test tools are
    """Capture what readers get of a conversation, in order: ``with captured_events(conversation) as events``.

    In an ``async`` test it is ``async with``. It is a sequence of events, complete when the block ends. Inside a
    ``TestCase``, where nothing is ever committed, these are the events of what would be; what was rolled back is not
    among them.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._uuid = str(conversation.uuid)
        self._events: list[Event] = []
        self._sent: list[Sent] = []
        self._heard: list[object] = []  # commits, each heard once
        self._before: list[object] = []
        self._patches = ExitStack()

    # What it is after the block.

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: int) -> Event:
        return self._events[index]

    @property
    def names(self) -> list[str]:
        """The names of the events, as they are on the wire."""
        return [event.name for event in self._events]

    def of(self, name: str) -> list[Event]:
        """Give the events of a name."""
        return [event for event in self._events if event.name == name]

    def text(self, message: Message | None = None) -> str:
        """Join the text that was streamed, of one message or of all."""
        updates = (event for event in self._events if isinstance(event, StreamUpdate) and event.kind == "text")
        return "".join(event.chunk for event in updates if message is None or event.message_id == str(message.uuid))

    @property
    def signals(self) -> list[str]:
        """The names of the signals that were sent."""
        return [name for name, _ in self._sent]

    def sent(self, name: str) -> list[dict[str, Any]]:
        """Give what came with the signals of a name."""
        return [arguments for found, arguments in self._sent if found == name]

    # How it comes to be that.

    def __enter__(self) -> Self:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._begin()
            return self
        raise RuntimeError("In async code it is: async with captured_events(…)")

    def __exit__(self, *exc: object) -> None:
        self._end()

    async def __aenter__(self) -> Self:
        await sync_to_async(self._begin)()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await sync_to_async(self._end)()

    def _begin(self) -> None:
        self._before = list(_waiting())
        announce, publish = Log.announce, flushes.publish

        def announced(log: Log) -> None:
            self._hear_log(log)
            announce(log)

        def published(conversations: Any, outcome: Any) -> None:
            self._hear_flush(conversations, outcome)
            publish(conversations, outcome)

        self._patches.enter_context(patch.object(Log, "announce", announced))
        self._patches.enter_context(patch.object(flushes, "publish", published))

    def _end(self) -> None:
        for waiting in _waiting():
            if not any(waiting is known for known in self._before):
                self._hear_waiting(waiting)
        self._patches.close()
        self._events.sort(key=lambda event: event.offset)  # type: ignore[attr-defined]  # these are of the log

    def _hear_waiting(self, waiting: Any) -> None:
        """Hear what waits for a commit that never comes."""
        if isinstance(log := getattr(waiting, "__self__", None), Log):
            self._hear_log(log)
        elif isinstance(waiting, partial) and waiting.func.__name__ == "published":
            self._hear_flush(*waiting.args)

    def _hear_log(self, log: Log) -> None:
        if self._is_new(log) and log.uuid == self._uuid:
            self._events += log.events
            for item in log.signals:
                signal = getattr(getattr(item, "func", None), "__self__", None)
                if isinstance(signal, Signal):
                    self._sent.append(Sent(NAMES[id(signal)], item.keywords))  # type: ignore[attr-defined]

    def _hear_flush(self, conversations: Any, outcome: Any) -> None:
        if self._is_new(outcome):
            for writer, chunks in outcome.written:
                uuid, _ = conversations[writer.conversation_id]
                if uuid == self._uuid:
                    self._events += [flushes.update(uuid, writer, chunk) for chunk in chunks]

    def _is_new(self, commit: object) -> bool:
        known = any(commit is heard for heard in self._heard)
        self._heard.append(commit)
        return not known


def _waiting() -> Iterator[Any]:
    """Yield what waits for the commit of a transaction that is open around this code."""
    return (waiting[1] for waiting in list(connections[database()].run_on_commit))
