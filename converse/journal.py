"""Appends of all open streams of an event loop, committed together, then published."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from weakref import WeakSet, WeakValueDictionary

from django.db import DatabaseError, InterfaceError, OperationalError

from converse import broadcasting, records
from converse.choices import Status
from converse.conf import settings
from converse.drafts import checked
from converse.exceptions import JournalUnavailable, MessageClosed
from converse.flushes import Entry, Fragment, Outcome, Writer, commit_each, pack, renew
from converse.log import database
from converse.loops import DatabaseThread, PerLoop

logger = logging.getLogger(__name__)

BATCH = 1000  # streams in one transaction
SMOOTH = 1000  # chunks a second; with more the interval stretches, at most to twice itself
LONGEST = 0.5  # seconds between two flushes that a slow channel layer may cause: the fewer they are, the less it gets
TRIES = 6  # of one flush while the database is away
PAUSE = 0.1  # seconds before the second try; doubles
WATCH_INTERVAL = 0.4  # seconds between two looks at streams that are silent


class Journal:
    """The appends of one event loop. One flush is in flight at a time and takes all that has gathered meanwhile.

    An idle journal flushes at once, so a first token waits for nothing; a busy one batches by itself, at most once in
    ``CONVERSE_FLUSH_INTERVAL`` seconds, and more rarely when there are many streams or a flush, or the layer, is slow.
    """

    def __init__(self) -> None:
        self.thread = DatabaseThread()
        self.size = 0  # characters waiting
        self._limit = 0
        self._waiting: dict[Writer, None] = {}
        self._flushing: asyncio.Task[None] | None = None
        self._in_flight: set[Writer] = set()
        self._flushed = asyncio.Condition()
        self._last = 0.0
        self._pause = 0.0
        self._open: WeakSet[Writer] = WeakSet()
        self._watching: asyncio.Task[None] | None = None

    async def append(self, writer: Writer, fragment: Fragment) -> None:
        """Take a fragment; it is committed and visible a little later. Wait only while the journal is full.

        Raise what the writer was lost by: MessageClosed, AnotherWriter, InvalidMessage or JournalUnavailable.
        """
        if writer.lost:
            raise writer.lost
        checked(fragment.text)
        if not writer.pending:
            writer.received = datetime.now(UTC)
            self._waiting[writer] = None
        writer.pending.append(fragment)
        self.size += len(fragment.text)
        if self._flushing is None:
            self._limit = settings.CONVERSE_JOURNAL_LIMIT
            self._flushing = asyncio.get_running_loop().create_task(self._flush())
        if self.size > self._limit:
            async with self._flushed:
                await self._flushed.wait_for(lambda: self.size <= self._limit or writer.lost)

    async def drain(self, writer: Writer) -> None:
        """Wait until all that a writer appended is committed; raise what it was lost by."""
        async with self._flushed:
            await self._flushed.wait_for(lambda: not writer.pending and writer not in self._in_flight)
        if writer.lost:
            raise writer.lost

    def watch(self, writer: Writer) -> None:
        """Keep a writer's lease while it is silent, and tell it when its message is closed by somebody else."""
        writer.loop = asyncio.get_running_loop()
        self._open.add(writer)
        _watched[writer.message_id] = writer
        if self._watching is None:
            self._watching = writer.loop.create_task(self._watch())

    def release(self, writer: Writer) -> None:
        self._open.discard(writer)
        _watched.pop(writer.message_id, None)

    async def _flush(self) -> None:
        try:
            while self._waiting:
                wait = self._last + self._pause - monotonic()
                if wait > 0:
                    await asyncio.sleep(wait)
                self._last = monotonic()
                streams = await self._flush_once()
                took = monotonic() - self._last
                interval = settings.CONVERSE_FLUSH_INTERVAL
                lag = min(broadcasting.lag(), LONGEST)
                self._pause = max(interval, min(2 * interval, streams / SMOOTH), 2 * took, lag)
        finally:
            self._flushing = None

    async def _flush_once(self) -> int:
        """Commit what is waiting; say of how many streams."""
        entries = []
        taken = 0
        for writer in list(self._waiting)[:BATCH]:
            del self._waiting[writer]
            fragments, writer.pending = writer.pending, []
            taken += sum(len(fragment.text) for fragment in fragments)
            if fragments and writer.received and not writer.lost:
                entries.append(Entry(writer, pack(fragments), writer.received))
        self._in_flight = {entry.writer for entry in entries}
        try:
            outcome = await self._commit(entries)
            for writer, chunks in outcome.written:
                writer.sequence = chunks[-1].sequence
            for writer, reason in outcome.refused:
                writer.lose(reason)
        finally:
            self._in_flight = set()
            self.size -= taken
            async with self._flushed:
                self._flushed.notify_all()
        return len(entries)

    async def _commit(self, entries: Sequence[Entry]) -> Outcome:
        pause = PAUSE
        for tried in range(TRIES):
            try:
                return await self.thread.run(commit_each, entries, again=tried > 0)
            except (OperationalError, InterfaceError) as exc:
                logger.warning("A flush of %d streams failed (%d of %d): %s", len(entries), tried + 1, TRIES, exc)
                error: Exception = exc
            except Exception as exc:  # a flush that cannot run at all must not leave its writers waiting
                logger.exception("A flush of %d streams could not run.", len(entries))
                error = exc
                break
            await asyncio.sleep(pause)
            pause *= 2
        reason = JournalUnavailable("The database did not take what was appended.")
        reason.__cause__ = error
        return Outcome(refused=[(entry.writer, reason) for entry in entries])

    async def _watch(self) -> None:
        try:
            while self._open:
                await asyncio.sleep(min(WATCH_INTERVAL, settings.CONVERSE_LEASE / 3))
                silent = [writer for writer in self._open if writer not in self._in_flight and not writer.lost]
                if not silent:
                    continue
                try:
                    streaming = await self.thread.run(_look, silent)
                except DatabaseError as exc:
                    logger.warning("Leases of %d streams could not be looked after: %s", len(silent), exc)
                    continue
                for writer in silent:
                    if writer.message_id not in streaming:
                        writer.lose(MessageClosed("The message was closed by somebody else."))
        finally:
            self._watching = None


def _look(writers: Sequence[Writer]) -> set[int]:
    alias = database()
    messages = records.Message.all_objects.using(alias).filter(pk__in=[writer.message_id for writer in writers])
    streaming = set(messages.filter(status=Status.STREAMING).values_list("pk", flat=True))
    renew(alias, [writer for writer in writers if writer.message_id in streaming])
    return streaming


_watched: WeakValueDictionary[int, Writer] = WeakValueDictionary()
_journals = PerLoop(Journal)


def current() -> Journal:
    """Give the journal of the running loop."""
    return _journals()


def closed(message_id: int) -> None:
    """Tell the writer in this process, if there is one, that its message was closed; the others look by themselves."""
    writer = _watched.get(message_id)
    if writer and writer.loop and not writer.loop.is_closed():
        writer.loop.call_soon_threadsafe(writer.lose, MessageClosed("The message was closed."))
