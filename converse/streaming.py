"""One open message: append to it, complete it, fail it, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from asgiref.sync import sync_to_async
from django.db.models import Max

from converse import journal, loops, observing, records
from converse.choices import Status
from converse.closing import close, columns_of
from converse.conf import settings
from converse.deltas import Usage
from converse.drafts import checked
from converse.exceptions import AnotherWriter, InvalidMessage, MessageClosed, Stopped, Vetoed
from converse.flushes import Entry, Writer, commit_each
from converse.handlers import Ending, Handlers
from converse.handlers.callbacks import atell
from converse.handlers.pipeline import arun, run
from converse.log import database
from converse.pieces import Parts, Piece

if TYPE_CHECKING:
    from converse.models import Message, MessageChunk


CANCELLATIONS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, Stopped)


class Stream:
    """An open message being written by this process.

    Sync methods commit before they return. Async ones hand over to the journal: what was appended is committed a moment
    later, together with that of all other streams, and published after it.
    """

    def __init__(self, message: Message) -> None:
        self.message = message
        self.writer = Writer(
            message_id=message.pk,
            conversation_id=message.conversation_id,
            message_uuid=str(message.uuid),
            attempt=message.attempt,
            lease=settings.CONVERSE_STALE_AFTER,
        )
        self.usage: Usage | None = None
        self.facts: dict[str, Any] = {}  # columns to be written at the close
        self.metadata: dict[str, Any] = {}  # merged into the message's at the close
        self.parts = Parts()
        self._handlers: Handlers | None = None
        self._known = False
        self._entered = False
        self._let_go = False

    @property
    def handlers(self) -> Handlers:
        """What sees all that is appended before it is stored: ``stream.handlers.add("words", WordCount())``."""
        if self._handlers is None:
            self._handlers = Handlers()
        return self._handlers

    @handlers.setter
    def handlers(self, handlers: Handlers) -> None:
        self._handlers = handlers or None  # without any nothing is spent on them

    # Sync: each call commits.

    def append(self, piece: Piece, metadata: Mapping[str, Any] | None = None) -> Self:
        """Append text or a provider's delta. Raise MessageClosed, AnotherWriter or InvalidMessage."""
        self.append_chunk(piece, metadata)
        return self

    def append_chunk(self, piece: Piece, metadata: Mapping[str, Any] | None = None) -> MessageChunk | None:
        """Append text and give its chunk; an empty piece adds nothing and gives None."""
        if not self._known:
            self.learn()
        if self._handlers is None:
            return self._commit(piece, metadata)
        try:
            left, stop = run(self._handlers.take(self.message, piece))
            chunk = self._commit(left, metadata)
            if stop:
                raise stop
        except (Vetoed, Stopped) as exc:
            if not self._entered:
                self._close(_ending(exc), error=exc)
            raise
        except (MessageClosed, AnotherWriter) as exc:
            run(observing.lose(self._handlers, self.message, observing.SYNC, exc))
            raise
        return chunk

    def _commit(self, piece: Piece, metadata: Mapping[str, Any] | None) -> MessageChunk | None:
        fragment = self.parts.fragment(piece, metadata)
        if fragment is None:
            return None
        checked(fragment.text)
        outcome = commit_each([Entry(self.writer, [fragment], datetime.now(UTC))])
        for _, reason in outcome.refused:
            raise reason
        [(_, [row])] = outcome.written
        self.writer.sequence = row.sequence
        return records.MessageChunk(**row._asdict())

    def complete(self, metadata: Mapping[str, Any] | None = None, **fields: Any) -> Message:
        """Close the message without error. Raise MessageClosed when it is closed already."""
        return self._close(Status.COMPLETED, metadata, **fields)

    def fail(self, error: str | BaseException, metadata: Mapping[str, Any] | None = None, **fields: Any) -> Message:
        """Close the message with an error; what came of it is kept. Raise MessageClosed when it is closed already."""
        return self._close(Status.FAILED, metadata, error=error, **fields)

    def cancel(self, metadata: Mapping[str, Any] | None = None, **fields: Any) -> Message:
        """Close the message because it was stopped. Raise MessageClosed when it is closed already."""
        return self._close(Status.CANCELLED, metadata, **fields)

    def _close(self, status: Status, metadata: Mapping[str, Any] | None = None, **fields: Any) -> Message:
        write = partial(self._write, status, {**self.metadata, **(metadata or {})}, fields)
        if self._handlers is None:
            write()
        else:
            run(observing.close(self._handlers, self.message, observing.SYNC, self._end(status, fields), write))
        return self.message

    def _write(
        self, status: Status, metadata: Mapping[str, Any], fields: Mapping[str, Any], veto: Vetoed | None = None
    ) -> None:
        if veto:
            status, fields = Status.FAILED, {**fields, "error": veto}
        told = observing.told(self._handlers, fields.get("error"))
        tells = self._handlers is not None and self._handlers.planned
        close(
            self.message,
            status,
            metadata={**metadata, **told},
            usage=self.usage,
            tells=tells,
            **{**self.facts, **fields},
        )

    def _end(self, status: Status, fields: Mapping[str, Any]) -> Ending:
        facts = {name: self.facts.get(name, "") for name in ("finish_reason", "model")}
        return Ending(status=status, error=fields.get("error"), **facts)

    def spent(self) -> dict[str, Any]:
        """Give the columns that tell who has answered so far, and what was counted."""
        answered: dict[str, Any] = {
            name: self.facts[name] for name in ("provider", "model", "plan") if name in self.facts
        }
        return {**answered, **(columns_of(self.usage) if self.usage else {})}

    # Async: through the journal.

    async def aappend(self, piece: Piece, metadata: Mapping[str, Any] | None = None) -> Self:
        """Append text or a provider's delta; wait only while the journal is full.

        Raise what the stream was lost by: MessageClosed, AnotherWriter, InvalidMessage or JournalUnavailable.
        """
        if not self._known:
            await sync_to_async(self.learn)()
        if self._handlers is not None:
            return await self._ashow(piece, metadata)
        fragment = self.parts.fragment(piece, metadata)
        if fragment is not None:
            await journal.current().append(self.writer, fragment)
        return self

    async def _ashow(self, piece: Piece, metadata: Mapping[str, Any] | None) -> Self:
        """Append what the handlers leave of a piece."""
        try:
            left, stop = await arun(self.handlers.take(self.message, piece))
            fragment = self.parts.fragment(left, metadata)
            if fragment is not None:
                await journal.current().append(self.writer, fragment)
            if stop:
                raise stop
        except (Vetoed, Stopped) as exc:
            if not self._entered:
                await self._aclose(_ending(exc), error=exc)
            raise
        except (MessageClosed, AnotherWriter) as exc:
            if not self._entered:  # else leaving it does so
                await self._alose(exc)
            raise
        return self

    async def aconsume(self, pieces: AsyncIterable[Piece]) -> Self:
        """Append everything that an iterator yields."""
        async for piece in pieces:
            await self.aappend(piece)
        return self

    async def adrain(self) -> None:
        """Wait until all that was appended is committed; raise what the stream was lost by."""
        await journal.current().drain(self.writer)

    async def acomplete(self, metadata: Mapping[str, Any] | None = None, **fields: Any) -> Message:
        """See complete()."""
        return await self._aclose(Status.COMPLETED, metadata, **fields)

    async def afail(
        self, error: str | BaseException, metadata: Mapping[str, Any] | None = None, **fields: Any
    ) -> Message:
        """See fail()."""
        return await self._aclose(Status.FAILED, metadata, error=error, **fields)

    async def acancel(self, metadata: Mapping[str, Any] | None = None, **fields: Any) -> Message:
        """See cancel()."""
        return await self._aclose(Status.CANCELLED, metadata, **fields)

    async def alet_go(self, change: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Have the message changed to one that is open but that nobody writes to; leaving this does not close it then.

        ``change`` is called with the rest, in the journal's thread, once all that was appended is committed.
        """
        here = journal.current()
        await here.drain(self.writer)
        if self._handlers is not None:
            await arun(observing.pause(self._handlers, self.message, self._way()))
        here.release(self.writer)
        await here.thread.run(change, *args, **kwargs)
        self._let_go = True

    async def _aclose(self, status: Status, metadata: Mapping[str, Any] | None = None, **fields: Any) -> Message:
        here = journal.current()
        if not self.writer.lost:
            try:
                await here.drain(self.writer)
            except (MessageClosed, AnotherWriter, InvalidMessage) as exc:
                if not isinstance(exc, InvalidMessage):
                    await self._alose(exc)
                if status == Status.COMPLETED:
                    raise
        here.release(self.writer)
        write = partial(self._write, status, {**self.metadata, **(metadata or {})}, fields)
        if self._handlers is None:
            await here.thread.run(write)
        else:
            await arun(observing.close(self._handlers, self.message, self._way(), self._end(status, fields), write))
        return self.message

    async def _alose(self, reason: Exception) -> None:
        if self._handlers is not None:
            await arun(observing.lose(self._handlers, self.message, self._way(), reason))

    def _way(self) -> observing.Way:
        return observing.Way(journal.current().thread.run, atell)

    # As context managers: the way a stream is left closes it.

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> bool:
        if exc is None:
            self.complete()
            return False
        try:
            self._close(_ending(exc), error=exc)
        except MessageClosed:
            pass  # the exception that goes on is most likely this very fact
        return isinstance(exc, Stopped)

    async def __aenter__(self) -> Self:
        self._known = self._entered = True
        self.writer.lease = settings.CONVERSE_LEASE
        self.writer.on_lost = _task().cancel
        journal.current().watch(self.writer)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> bool:
        self.writer.on_lost = None
        if self._let_go:
            return False
        lost = self.writer.lost
        if isinstance(lost, MessageClosed | AnotherWriter):
            journal.current().release(self.writer)  # the message is somebody else's now
            await _whole(self._alose(lost))
        elif error := lost or exc:
            try:
                await _whole(self._aclose(_ending(error), error=error))
            except MessageClosed:
                pass
        else:
            await _whole(self._aclose(Status.COMPLETED))
        if lost and (exc is None or isinstance(exc, asyncio.CancelledError)):
            if exc:
                _task().uncancel()
            raise lost
        return isinstance(exc, Stopped)

    @property
    def touched(self) -> bool:
        """Whether anything was appended since the step began."""
        return self.parts.touched

    def begin_step(self, origin: str) -> None:
        """Say that a provider's answer begins: its calls are numbered anew, its signatures are of this origin."""
        self.parts.begin_step(origin)

    def learn(self) -> None:
        """Find out how far the message has come; somebody else may have begun it."""
        chunks = records.MessageChunk.objects.using(database()).filter(message_id=self.message.pk)
        if last := chunks.order_by("-sequence").first():
            self.writer.sequence = last.sequence
            self.parts.go_on(last.kind, last.part, chunks.aggregate(highest=Max("part"))["highest"])
        self._known = True


def _ending(exc: BaseException) -> Status:
    return Status.CANCELLED if isinstance(exc, CANCELLATIONS) else Status.FAILED


async def _whole(closing: Coroutine[Any, Any, Any]) -> None:
    """Wait for the end of something that goes on even if this is cancelled."""
    task = asyncio.ensure_future(closing)
    loops.keep(task)
    await asyncio.shield(task)


def _task() -> asyncio.Task[Any]:
    return cast("asyncio.Task[Any]", asyncio.current_task())
