"""One flush: what streams appended, stored in one transaction and published after its commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, transaction

from converse import broadcasting, records
from converse.events import StreamUpdate
from converse.exceptions import AnotherWriter, InvalidMessage, MessageClosed
from converse.log import database
from converse.managers import NewChunk
from converse.parts import facts

ROW = 10_000  # characters of a row that is packed of several fragments: whatever they are, its event is not too large


class Fragment(NamedTuple):
    """Text for one part of a message; fragments that differ in their text only are packed into one chunk."""

    kind: str
    part: int
    metadata: Mapping[str, Any] | None
    text: str


@dataclass(eq=False, slots=True, weakref_slot=True)
class Writer:
    """The journal's view of one open message.

    ``sequence`` is that of the last committed chunk. It is the writer's claim too: the database takes a number once, so
    of two writers only one goes on.
    """

    message_id: int
    conversation_id: int
    message_uuid: str
    attempt: int
    sequence: int = 0
    lease: float = 0.0  # seconds
    renewed: float = 0.0  # monotonic
    pending: list[Fragment] = field(default_factory=list)
    received: datetime | None = None  # when the first pending fragment came
    lost: Exception | None = None
    on_lost: Callable[[], object] | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def lose(self, reason: Exception) -> None:
        """Stop accepting; in the writer's loop."""
        if self.lost is None:
            self.lost = reason
            if self.on_lost:
                self.on_lost()


@dataclass(slots=True)
class Entry:
    """What one flush takes from one writer."""

    writer: Writer
    fragments: Sequence[Fragment]
    received: datetime
    first: int = 0  # the sequence of the first fragment

    def __post_init__(self) -> None:
        self.first = self.writer.sequence + 1


@dataclass(slots=True)
class Outcome:
    """What became of the entries of a flush."""

    written: list[tuple[Writer, list[NewChunk]]] = field(default_factory=list)
    refused: list[tuple[Writer, Exception]] = field(default_factory=list)


def pack(fragments: Iterable[Fragment]) -> list[Fragment]:
    """Join neighbours that differ in their text only, so that they cost one row, as long as that is not large."""
    packed: list[Fragment] = []
    texts: list[str] = []
    size = 0
    for fragment in fragments:
        size += len(fragment.text)
        if packed and packed[-1][:3] == fragment[:3] and size <= ROW:
            texts.append(fragment.text)
            continue
        _join(packed, texts)
        packed.append(fragment)
        texts = [fragment.text]
        size = len(fragment.text)
    _join(packed, texts)
    return packed


def _join(packed: list[Fragment], texts: list[str]) -> None:
    if len(texts) > 1:
        packed[-1] = packed[-1]._replace(text="".join(texts))


def commit(entries: Sequence[Entry], *, again: bool = False) -> Outcome:
    """Store entries in one transaction of a constant number of statements; publish after its commit.

    ``again`` says that an earlier try may have been committed though we were told otherwise.
    """
    alias = database()
    outcome = Outcome()
    with transaction.atomic(using=alias):
        heads = records.Conversation.all_objects.using(alias).lock({entry.writer.conversation_id for entry in entries})
        messages = records.Message.all_objects.using(alias)
        streaming = messages.still_streaming([entry.writer.message_id for entry in entries])
        stored = _stored_already(alias, entries) if again else {}
        offsets = {pk: head.offset for pk, head in heads.items()}
        rows: list[NewChunk] = []
        for entry in entries:
            writer = entry.writer
            if found := stored.get(writer.message_id):
                outcome.written.append((writer, found))
            elif writer.message_id in streaming:
                chunks = _number(entry, offsets)
                outcome.written.append((writer, chunks))
                rows += chunks
            else:
                outcome.refused.append((writer, MessageClosed("The message is closed: nothing was added.")))
        if rows:
            records.MessageChunk.objects.using(alias).insert(rows)
            moved = {pk: offset for pk, offset in offsets.items() if offset > heads[pk].offset}
            records.Conversation.all_objects.using(alias).advance(moved)
        renew(alias, [writer for writer, _ in outcome.written])
        epochs = {pk: (head.uuid, head.epoch) for pk, head in heads.items()}
        transaction.on_commit(partial(publish, epochs, outcome), using=alias)
    return outcome


def _number(entry: Entry, offsets: dict[int, int]) -> list[NewChunk]:
    writer = entry.writer
    chunks = []
    for sequence, (kind, part, metadata, text) in enumerate(entry.fragments, entry.first):
        offsets[writer.conversation_id] += 1
        offset = offsets[writer.conversation_id]
        chunks.append(
            NewChunk(
                writer.message_id, sequence, writer.conversation_id, offset, kind, part, text, metadata, entry.received
            )
        )
    return chunks


def _stored_already(alias: str, entries: Sequence[Entry]) -> dict[int, list[NewChunk]]:
    """Find the entries that a commit, whose answer was lost, has stored."""
    wanted = {entry.writer.message_id: entry for entry in entries}
    found: dict[int, list[NewChunk]] = {}
    # Only the last flush is in doubt, so what lies beyond the committed sequence is its rows.
    rows = records.MessageChunk.objects.using(alias).filter(message_id__in=wanted).order_by("message_id", "sequence")
    lowest = min(entry.first for entry in entries)
    for row in rows.filter(sequence__gte=lowest).values_list(*NewChunk._fields):
        chunk = NewChunk(*row)
        if chunk.sequence >= wanted[chunk.message_id].first:
            found.setdefault(chunk.message_id, []).append(chunk)
    return {
        pk: chunks
        for pk, chunks in found.items()
        if [(c.kind, c.part, c.content) for c in chunks] == [(f.kind, f.part, f.text) for f in wanted[pk].fragments]
    }


def renew(alias: str, writers: Iterable[Writer]) -> None:
    """Renew the leases that are a third over; streams of one flush commonly share one length of lease."""
    now = monotonic()
    due: dict[float, list[Writer]] = {}
    for writer in writers:
        if now - writer.renewed > writer.lease / 3:
            due.setdefault(writer.lease, []).append(writer)
    for lease, group in due.items():
        records.Message.all_objects.using(alias).filter(pk__in=[writer.message_id for writer in group]).renew(lease)
        for writer in group:
            writer.renewed = now


def publish(conversations: Mapping[int, tuple[str, str]], outcome: Outcome) -> None:
    """Tell of what a flush stored; ``conversations`` are the uuid and epoch by key."""
    logs = ((*conversations[writer.conversation_id], writer, chunks) for writer, chunks in outcome.written)
    broadcasting.publish_all(
        (epoch, [update(uuid, writer, chunk) for chunk in chunks]) for uuid, epoch, writer, chunks in logs
    )


def update(conversation_uuid: str, writer: Writer, chunk: NewChunk) -> StreamUpdate:
    """Tell of one stored chunk."""
    return StreamUpdate(
        conversation_id=conversation_uuid,
        message_id=writer.message_uuid,
        chunk=chunk.content,
        sequence=chunk.sequence,
        offset=chunk.offset,
        kind=chunk.kind,
        part=chunk.part,
        attempt=writer.attempt,
        **facts(chunk.kind, chunk.metadata),
    )


def commit_each(entries: Sequence[Entry], *, again: bool = False) -> Outcome:
    """Store entries together; where the database refuses that, one by one, so that a bad one harms no other."""
    try:
        return commit(entries, again=again)
    except (OperationalError, InterfaceError):
        raise
    except (DatabaseError, ValueError, TypeError) as exc:
        if len(entries) == 1:
            return Outcome(refused=[(entries[0].writer, refusal(exc))])
    outcome = Outcome()
    for entry in entries:
        one = commit_each([entry], again=again)
        outcome.written += one.written
        outcome.refused += one.refused
    return outcome


def refusal(exc: Exception) -> Exception:
    """Say in our words why the database would not store an entry."""
    if isinstance(exc, IntegrityError):
        return AnotherWriter("Somebody else appended to this message in the meantime.")
    return InvalidMessage(f"the database refused it: {exc}")
