"""The handlers of one stream: what is appended goes through them before it is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from asgiref.sync import async_to_sync

from converse import naming
from converse.choices import ChunkKind, Status
from converse.drafts import jsonable
from converse.exceptions import InvalidMessage, Stopped, Vetoed
from converse.handlers.base import Ending, Handler
from converse.handlers.callbacks import EVENTS, Callback, OnToken, failure, made
from converse.pieces import Piece, kind_and_text

if TYPE_CHECKING:
    from converse.models import Message

R = TypeVar("R")
Steps = Generator[Awaitable[Any], Any, R]  # yields what has to be awaited, and is sent what came of it
Reducer = Callable[[Any, Any], Any]

METHODS = ("start", "take", "end")
PATIENCE = 10.0  # seconds that a handler may take to end


def named(handlers: Mapping[str, Any] | Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Give handlers with their names; one without is called what its class or function is."""
    if isinstance(handlers, Mapping):
        yield from handlers.items()
        return
    if isinstance(handlers, str) or not isinstance(handlers, Iterable):
        raise InvalidMessage(f"must be a dict or a list, not {handlers!r}", field="handlers")
    for handler in handlers:
        path = handler if isinstance(handler, str) else getattr(handler, "__name__", type(handler).__name__)
        yield path.rpartition(".")[2], handler


class Entry:
    """A handler under its name, its result, and whether it still takes part."""

    def __init__(self, name: str, handler: Handler | Reducer) -> None:
        self.name = name
        self.result: Any = None
        self.error = ""
        self.started = False
        self.kinds = getattr(handler, "kinds", Handler.kinds)
        self.judges = getattr(handler, "judges", False)
        self.stored = getattr(handler, "stored", True)
        is_object = any(hasattr(handler, method) for method in METHODS)
        self.start = getattr(handler, "start", None)
        self.take: Any = getattr(handler, "take", None) if is_object else handler
        self.end = getattr(handler, "end", None)

    def call(self, method: Callable[..., Any] | None, *arguments: Any, patience: float | None = None) -> Steps[None]:
        """Let the handler go on from its result; one that fails takes no further part."""
        if method is None or self.error:
            return
        try:
            result = method(self.result, *arguments)
            if patience and isawaitable(result):
                result = _in_time(result, patience)
            self.result = yield from done(result)
        except (Vetoed, Stopped) as exc:
            exc.handler = self.name
            raise
        except Exception as exc:
            self.error = failure(f"The handler {self.name}", exc)

    @property
    def report(self) -> Any:
        """What the message's metadata keeps of it."""
        if self.error:
            return {"error": self.error}
        if not self.stored or self.result is None:
            return None
        try:
            jsonable({self.name: self.result})
        except InvalidMessage as exc:
            return {"error": f"Its result {exc.reason}"}
        return self.result


class Handlers:
    """Named handlers, each on its own: a failing one is recorded and left out, the others and the stream go on."""

    def __init__(self, handlers: Mapping[str, Any] | Iterable[Any] = ()) -> None:
        self.entries: list[Entry] = []
        self.callbacks: list[Callback] = []
        self.planned = False  # whether they are those of a reply's plan, which whoever closes it tells
        self.ended = False
        self.told = False  # whether callbacks have been told of the end
        for name, handler in named(handlers):
            self.add(name, handler)

    def __bool__(self) -> bool:
        return bool(self.entries or self.callbacks)

    def add(self, name: str, handler: Any) -> Self:
        """Add a handler: an object with ``start``, ``take`` or ``end``, or a function ``(result, text) -> result``.

        A class or a dotted path of one is made into an object. Raise InvalidMessage for anything else, and for a name
        that is taken.
        """
        if not isinstance(name, str) or not name:
            raise InvalidMessage(f"{name!r} is no name", field="handlers")
        if any(entry.name == name for entry in self.entries):
            raise InvalidMessage(f"there are two called {name!r}; pass a dict to name them", field="handlers")
        found = naming.found(handler, field="handlers") if isinstance(handler, str) else handler
        watcher = _made(name, found) if isinstance(found, type) else found
        if not callable(watcher) and not any(hasattr(watcher, method) for method in METHODS):
            raise InvalidMessage(f"{name!r} is no handler: {handler!r}", field="handlers")
        self.entries.append(Entry(name, watcher))
        self.entries.sort(key=lambda entry: not entry.judges)
        return self

    def listen(self, **callbacks: Any) -> Self:
        """Add callables: ``on_token`` for each text, ``on_complete``, ``on_error`` or ``on_cancel`` for the end.

        Each may be sync or async, or the dotted path of one. Raise InvalidMessage for anything else.
        """
        for event, function in callbacks.items():
            if event not in EVENTS:
                raise InvalidMessage(f"is none of {', '.join(EVENTS)}", field=event)
            if function is None:
                continue
            callback = made(event, function)
            if event == "on_token":
                self.add(event, OnToken(callback.function))
            else:
                self.callbacks.append(callback)
        return self

    @property
    def results(self) -> dict[str, Any]:
        """Each handler's result so far."""
        return {entry.name: entry.result for entry in self.entries}

    @property
    def errors(self) -> dict[str, str]:
        """What went wrong in handlers that failed."""
        return {entry.name: entry.error for entry in self.entries if entry.error}

    @property
    def report(self) -> dict[str, Any]:
        """What the message's metadata keeps: results, and errors in their place."""
        reports = {entry.name: entry.report for entry in self.entries}
        return {name: report for name, report in reports.items() if report is not None}

    def start(self, message: Message) -> Steps[None]:
        """Begin with those that have not begun yet."""
        earlier = message.metadata.get("handlers")
        for entry in self.entries:
            if not entry.started:
                entry.started = True
                known = earlier.get(entry.name) if isinstance(earlier, dict) else None
                entry.result = None if isinstance(known, dict) and set(known) == {"error"} else known
                yield from entry.call(entry.start, message)

    def take(self, message: Message, piece: Piece) -> Steps[tuple[Piece, Stopped | None]]:
        """Show what is about to be stored; give what shall be, and the stop that was asked for. Raise Vetoed."""
        yield from self.start(message)
        kind, text = kind_and_text(piece)
        if kind == ChunkKind.TEXT and not text:
            return piece, None
        shown: Any = text if kind == ChunkKind.TEXT else piece
        stop: Stopped | None = None
        for entry in self.entries:
            if kind in entry.kinds:
                try:
                    yield from entry.call(entry.take, shown)
                except Stopped as exc:
                    stop = exc
                    if exc.keep is not None and kind == ChunkKind.TEXT:
                        piece = shown = exc.keep
                    if not shown:
                        break
        return piece, stop

    def end(self, message: Message, ending: Ending) -> Steps[Vetoed | None]:
        """End all; give the veto of one that cannot let a reply be completed."""
        if self.ended:
            return None
        self.ended = True
        veto: Vetoed | None = None
        yield from self.start(message)
        for entry in self.entries:
            try:
                yield from entry.call(entry.end, ending, patience=PATIENCE)
            except Stopped:
                pass
            except Vetoed as exc:
                if ending.status in (Status.COMPLETED, Status.WAITING):
                    veto = exc
                    ending = Ending(status=Status.FAILED, error=exc, model=ending.model)
        return veto


def _made(name: str, handler: type) -> Any:
    try:
        return handler()
    except TypeError as exc:
        reason = f"{name!r} cannot be made without arguments: {exc}; say them in a subclass"
        raise InvalidMessage(reason, field="handlers") from exc


def done(given: Any) -> Steps[Any]:
    """Give what was given, or what comes of it where it has to be awaited."""
    return (yield given) if isawaitable(given) else given


def run(steps: Steps[R]) -> R:
    """Go through steps, in a thread without a running loop; raise what they raise."""
    try:
        awaitable = next(steps)
        while True:
            try:
                result = async_to_sync(_awaited)(awaitable)
            except Exception as exc:
                awaitable = steps.throw(exc)
            else:
                awaitable = steps.send(result)
    except StopIteration as end:
        given: R = end.value
        return given


async def arun(steps: Steps[R]) -> R:
    """See run()."""
    try:
        awaitable = next(steps)
        while True:
            try:
                result = await awaitable
            except Exception as exc:
                awaitable = steps.throw(exc)
            else:
                awaitable = steps.send(result)
    except StopIteration as end:
        given: R = end.value
        return given


async def _awaited(awaitable: Awaitable[R]) -> R:
    return await awaitable


async def _in_time(awaitable: Awaitable[R], seconds: float) -> R:
    async with asyncio.timeout(seconds):
        return await awaitable
