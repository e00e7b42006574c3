"""One open message: append to it, complete it, fail it, cancel it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, cast

from asgiref.sync import sync_to_async
from django.db.models import Max
from django.utils import timezone

from converse import journal, records
from converse.choices import ChunkKind, Role, Status
from converse.closing import close, columns_of
from converse.conf import settings
from converse.deltas import ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta, Usage
from converse.drafts import checked, jsonable
from converse.events import MessageCreated
from converse.exceptions import AnotherWriter, InvalidMessage, MessageClosed
from converse.flushes import Entry, Fragment, Writer, commit_each
from converse.log import Log, database, writing
from converse.signals import message_created

if TYPE_CHECKING:
    from converse.models import Conversation, Message, MessageChunk

Piece = str | TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta


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
        """Give the columns that tell who has answered so far, and what was counted."""
        answered = {"model": self.facts["model"]} if self.facts.get("model") else {}
        return {**answered, **(columns_of(self.usage) if self.usage else {})}

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
    return cast("asyncio.Task[Any]", asyncio.current_task())
