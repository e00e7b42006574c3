"""One open message: append to it, complete it, fail it, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from asgiref.sync import sync_to_async
from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from converse import journal, records
from converse.choices import ChunkKind, ErrorType, Role, Status
from converse.conf import settings
from converse.deltas import ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from converse.drafts import checked, jsonable
from converse.events import MessageCancelled, MessageCompleted, MessageCreated, MessageFailed
from converse.exceptions import PUBLIC_TEXTS, AnotherWriter, InvalidMessage, MessageClosed, ProviderError
from converse.journal import Entry, Fragment, Writer
from converse.log import Log, database, writing
from converse.signals import message_cancelled, message_completed, message_created, message_failed

if TYPE_CHECKING:
    from converse.models import Conversation, Message, MessageChunk

Piece = str | TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta

CLOSINGS = {
    Status.COMPLETED: (MessageCompleted, message_completed),
    Status.FAILED: (MessageFailed, message_failed),
    Status.CANCELLED: (MessageCancelled, message_cancelled),
}


def start(
    conversation: Conversation, role: str, metadata: Mapping[str, Any] | None = None, *, lease: float | None = None
) -> Message:
    """Store an empty message that will grow, and give it back; it is committed when this returns."""
    if role not in Role.values:
        raise InvalidMessage(f"{role!r} is not one of {', '.join(Role.values)}", field="role")
    with writing(conversation.pk) as log:
        return open_message(log, role=role, status=Status.STREAMING, metadata=metadata, lease=lease)


def open_message(
    log: Log, *, status: Status, lease: float | None = None, metadata: Mapping[str, Any] | None = None, **fields: Any
) -> Message:
    """Add an open message to a locked conversation. ``lease`` is in seconds; a pending message may have none."""
    offset = log.next()
    message = records.Message(
        conversation_id=log.conversation_id,
        offset=offset,
        changed_offset=offset,
        status=status,
        metadata={"streamed": True, **jsonable(metadata)},
        started_at=timezone.now() if status == Status.STREAMING else None,
        **fields,
    )
    message.save(force_insert=True, using=database())
    seconds = lease or (settings.CONVERSE_STALE_AFTER if status == Status.STREAMING else None)
    if seconds:
        records.Message.all_objects.using(database()).filter(pk=message.pk).renew(seconds)
    log.tell(message.event(MessageCreated, log.uuid), message_created, records.Message, message=message)
    return message


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
        self.touched = False  # whether anything was appended
        self._place: tuple[str, Any] | None = None  # the kind and key of the part being written
        self._parts: dict[tuple[str, Any], int] = {}
        self._highest = -1
        self._known = False

    # Sync: each call commits.

    def append(self, piece: Piece, metadata: Mapping[str, Any] | None = None) -> Self:
        """Append text or a provider's delta. Raise MessageClosed, AnotherWriter or InvalidMessage."""
        self.append_chunk(piece, metadata)
        return self

    def append_chunk(self, piece: Piece, metadata: Mapping[str, Any] | None = None) -> MessageChunk | None:
        """Append text and give its chunk; an empty piece adds nothing and gives None."""
        if not self._known:
            self._learn()
        fragment = self._fragment(piece, metadata)
        if fragment is None:
            return None
        checked(fragment.text)
        outcome = journal.commit_each([Entry(self.writer, [fragment], datetime.now(UTC))])
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
        close(
            self.message,
            status,
            metadata={**self.metadata, **(metadata or {})},
            usage=self.usage,
            **self.facts,
            **fields,
        )
        return self.message

    def spent(self) -> dict[str, Any]:
        """Give the columns that tell what the provider has counted so far."""
        return _columns(self.usage) if self.usage else {}

    # Async: through the journal.

    async def aappend(self, piece: Piece, metadata: Mapping[str, Any] | None = None) -> Self:
        """Append text or a provider's delta; wait only while the journal is full.

        Raise what the stream was lost by: MessageClosed, AnotherWriter, InvalidMessage or JournalUnavailable.
        """
        if not self._known:
            await sync_to_async(self._learn)()
        fragment = self._fragment(piece, metadata)
        if fragment is not None:
            await journal.current().append(self.writer, fragment)
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

    async def _aclose(self, status: Status, metadata: Mapping[str, Any] | None = None, **fields: Any) -> Message:
        here = journal.current()
        if not self.writer.lost:
            try:
                await here.drain(self.writer)
            except (MessageClosed, AnotherWriter, InvalidMessage):
                if status == Status.COMPLETED:
                    raise
        here.release(self.writer)
        return await here.thread.run(self._close, status, metadata, **fields)

    # As context managers: the way a stream is left closes it.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        if exc is None:
            self.complete()
            return
        try:
            self._close(_ending(exc), error=exc)
        except MessageClosed:
            pass  # the exception that goes on is most likely this very fact

    async def __aenter__(self) -> Self:
        self._known = True
        self.writer.lease = settings.CONVERSE_LEASE
        self.writer.on_lost = _task().cancel
        journal.current().watch(self.writer)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        self.writer.on_lost = None
        lost = self.writer.lost
        if isinstance(lost, MessageClosed | AnotherWriter):
            journal.current().release(self.writer)  # the message is somebody else's now
        elif error := lost or exc:
            closing = asyncio.ensure_future(self._aclose(_ending(error), error=error))
            try:
                await asyncio.shield(closing)
            except MessageClosed:
                pass
        else:
            await self._aclose(Status.COMPLETED)
        if lost and (exc is None or isinstance(exc, asyncio.CancelledError)):
            if exc:
                _task().uncancel()
            raise lost

    def _learn(self) -> None:
        """Find out how far the message has come; somebody else may have begun it."""
        chunks = records.MessageChunk.objects.using(database()).filter(message_id=self.message.pk)
        if last := chunks.order_by("-sequence").first():
            self.writer.sequence = last.sequence
            self._highest = chunks.aggregate(highest=Max("part"))["highest"]
            self._place = (last.kind, None)
            self._parts[self._place] = last.part
        self._known = True

    def _fragment(self, piece: Piece, metadata: Mapping[str, Any] | None) -> Fragment | None:
        kind, text, facts = _read(piece)
        if not text and not facts:
            return None
        self.touched = True
        key = piece.index if isinstance(piece, ToolCallDelta) else None
        return Fragment(kind, self._part_of(kind, key), {**jsonable(metadata), **facts} or None, text)

    def _part_of(self, kind: str, key: Any = None) -> int:
        """Number the parts: a change of kind begins a new one; fragments of a tool call find theirs again."""
        place = (kind, key)
        if place != self._place and (key is None or place not in self._parts):
            self._highest += 1
            self._parts[place] = self._highest
        self._place = place
        return self._parts[place]


def _read(piece: Piece) -> tuple[str, str, dict[str, Any]]:
    """Take a piece apart: its kind, its text, and what else its chunk keeps."""
    match piece:
        case str():
            return ChunkKind.TEXT.value, piece, {}
        case TextDelta():
            return ChunkKind.TEXT.value, piece.text, {}
        case RefusalDelta():
            return ChunkKind.REFUSAL.value, piece.text, {}
        case ReasoningDelta():
            return ChunkKind.REASONING.value, piece.text, {"signature": piece.signature} if piece.signature else {}
        case ToolCallDelta():
            named = (("id", piece.id), ("name", piece.name))
            return ChunkKind.TOOL_CALL.value, piece.arguments, {key: value for key, value in named if value}
        case _:
            raise InvalidMessage(f"must be text or a delta, not {type(piece).__name__}")


def _ending(exc: BaseException) -> Status:
    return (
        Status.CANCELLED
        if isinstance(exc, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt)
        else Status.FAILED
    )


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("An asynchronous stream is entered in a task.")
    return task


def close(message: Message, status: Status, **fields: Any) -> None:
    """Close an open message, in a transaction of its own. See close_in()."""
    with writing(message.conversation_id) as log:
        close_in(log, message, status, **fields)


def close_in(
    log: Log,
    message: Message,
    status: Status,
    *,
    metadata: Mapping[str, Any] | None = None,
    usage: Usage | None = None,
    error: str | BaseException | None = None,
    error_type: str = "",
    public_error: str = "",
    if_abandoned: bool = False,
    **fields: Any,
) -> None:
    """Close an open message of a locked conversation, with the content of its chunks, and bring ``message`` up to date.

    Raise MessageClosed when somebody else closed it first; with ``if_abandoned``, also while its lease is good.
    """
    alias = database()
    given = jsonable(metadata)
    messages = records.Message.all_objects.using(alias).filter(pk=message.pk).open()
    if if_abandoned:
        messages = messages.abandoned()
    row = messages.select_related("reply_to").first()
    if row is None:
        raise MessageClosed("The message is closed already.")
    row.status = status
    row.finished_at = timezone.now()
    row.closed_offset = row.changed_offset = log.next()
    row.lease_expires_at = None
    for name, value in fields.items():
        setattr(row, name, value)
    assemble(row, alias)
    _account(row, usage, given)
    if error is not None and status == Status.FAILED:
        _blame(row, error, error_type, public_error)
    row.metadata = {**row.metadata, **_metrics(row), **given}
    row.save(force_update=True, using=alias)
    for field in row._meta.concrete_fields:
        setattr(message, field.attname, getattr(row, field.attname))
    event, signal = CLOSINGS[status]
    log.tell(row.event(event, log.uuid), signal, records.Message, message=row)
    transaction.on_commit(partial(journal.closed, row.pk), using=alias)


def assemble(row: Message, alias: str) -> None:
    """Put a message's parts and content together from its chunks; the row itself is not written."""
    chunks = records.MessageChunk.objects.using(alias).filter(message_id=row.pk).order_by("sequence")
    parts: dict[int, dict[str, Any]] = {}
    texts: dict[int, list[str]] = {}
    row.last_sequence = 0
    for sequence, kind, part, content, metadata, created_at in chunks.values_list(
        "sequence", "kind", "part", "content", "metadata", "created_at"
    ).iterator():
        if part not in parts:
            parts[part] = {"type": kind}
            texts[part] = []
        texts[part].append(content)
        if metadata and kind in (ChunkKind.TOOL_CALL, ChunkKind.REASONING):
            parts[part].update(metadata, type=kind)
        row.first_chunk_at = row.first_chunk_at or created_at
        row.last_sequence = sequence
    for part, texted in texts.items():
        parts[part]["arguments" if parts[part]["type"] == ChunkKind.TOOL_CALL else "text"] = "".join(texted)
    row.parts = [parts[part] for part in sorted(parts)]
    row.content = "".join(part["text"] for part in row.parts if part["type"] == ChunkKind.TEXT)


# The original's names of what a provider reported, in a message's metadata, and our columns.
REPORTED = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "model": "model",
    "finish_reason": "finish_reason",
}


def _account(row: Message, usage: Usage | None, metadata: Mapping[str, Any]) -> None:
    for key, field in REPORTED.items():
        if metadata.get(key) is not None:
            setattr(row, field, metadata[key])
    for name, value in (_columns(usage) if usage else {}).items():
        setattr(row, name, value)


def _columns(usage: Usage) -> dict[str, Any]:
    counts = (
        (f"{name}_tokens", getattr(usage, name))
        for name in ("input", "cached_input", "cache_write", "output", "reasoning")
    )
    return {"usage": dict(usage.raw), **{name: value for name, value in counts if value is not None}}


def _blame(row: Message, error: str | BaseException, error_type: str, public_error: str) -> None:
    provider_error = error if isinstance(error, ProviderError) else None
    kind = ErrorType(error_type or (provider_error.type if provider_error else ErrorType.ERROR))
    row.error_type = kind.value
    row.error_message = public_error or PUBLIC_TEXTS[kind]
    row.error_detail = error if isinstance(error, str) else f"{type(error).__name__}: {error}"


def _metrics(row: Message) -> dict[str, Any]:
    """Give the stream's figures under the names that the original's documentation promised."""
    started = row.started_at or row.created_at
    finished = row.finished_at or timezone.now()
    duration = finished - started
    total = None if row.input_tokens is None or row.output_tokens is None else row.input_tokens + row.output_tokens
    figures = {
        "stream_chunks": row.last_sequence,
        "stream_duration": round(duration.total_seconds(), 6),
        "stream_duration_ms": round(duration / timedelta(milliseconds=1)),
        "stream_started_at": started.isoformat(),
        "stream_failed_at" if row.status == Status.FAILED else "stream_completed_at": finished.isoformat(),
        "stream_first_chunk_ms": round((row.first_chunk_at - started) / timedelta(milliseconds=1), 3)
        if row.first_chunk_at
        else None,
        "prompt_tokens": row.input_tokens,
        "completion_tokens": row.output_tokens,
        "tokens": total,
        "model": row.model or None,
        "finish_reason": row.finish_reason or None,
        "error": row.error_detail or None,
    }
    return {key: value for key, value in figures.items() if value is not None}


def settle_abandoned(conversation_ids: Iterable[int] | None = None) -> list[Message]:
    """Close, as failed, the open messages whose writer is gone; give those that this call closed."""
    abandoned = records.Message.all_objects.using(database()).abandoned()
    if conversation_ids is not None:
        abandoned = abandoned.filter(conversation_id__in=list(conversation_ids))
    settled = []
    for message in abandoned.order_by("pk")[:100]:
        with writing(message.conversation_id) as log:
            if settle_in(log, message):
                settled.append(message)
    return settled


def settle_in(log: Log, message: Message) -> bool:
    """Close, as failed, an open message of a locked conversation if its writer is gone; say whether it was."""
    try:
        close_in(
            log,
            message,
            Status.FAILED,
            error="The lease ran out: the writer is gone.",
            error_type=ErrorType.INTERRUPTED,
            if_abandoned=True,
        )
    except MessageClosed:
        return False
    return True
