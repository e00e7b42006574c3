"""The end of an open message: put it together from its chunks, account for it, say how it ended."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, transaction
from django.utils import timezone

from converse import calls, journal, records
from converse.choices import ChunkKind, ErrorType, Status
from converse.deltas import Usage
from converse.drafts import jsonable
from converse.events import MessageCancelled, MessageCompleted, MessageFailed, MessageUpdated
from converse.exceptions import PUBLIC_TEXTS, MessageClosed, ProviderError, Vetoed
from converse.handlers import callbacks
from converse.log import Log, database, writing
from converse.parts import stored
from converse.signals import message_cancelled, message_completed, message_failed, message_updated

if TYPE_CHECKING:
    from converse.models import Message

logger = logging.getLogger(__name__)

CLOSINGS = {
    Status.COMPLETED: (MessageCompleted, message_completed),
    Status.FAILED: (MessageFailed, message_failed),
    Status.CANCELLED: (MessageCancelled, message_cancelled),
}


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
    tells: bool = False,
    **fields: Any,
) -> None:
    """Close an open message of a locked conversation, with the content of its chunks, and bring ``message`` up to date.

    Raise MessageClosed when somebody else closed it first; with ``if_abandoned``, also while its lease is good. With
    ``tells`` the caller tells the callbacks of the reply's plan by itself.
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
    if if_abandoned:
        _take_over(row)
    if error is not None and status == Status.FAILED:
        _blame(row, error, error_type, public_error)
        given = {**_chances(error), **given}
    row.metadata = {**row.metadata, **_metrics(row), **given}
    row.save(force_update=True, using=alias)
    if not row.provider and any(getattr(row, name) is not None for name in calls.TOKENS):
        calls.record(row)  # streamed by hand: nobody else keeps the account
    for field in row._meta.concrete_fields:
        setattr(message, field.attname, getattr(row, field.attname))
    event, signal = CLOSINGS[status]
    log.tell(row.event(event, log.uuid), signal, records.Message, message=row)
    if not tells and row.plan.get("callbacks"):
        log.signals.append(partial(_tell, row, status))
    transaction.on_commit(partial(journal.closed, row.pk), using=alias)


def _tell(row: Message, status: Status) -> None:
    if errors := callbacks.told_of(row, status):
        note(row, errors)


def note(message: Message, reports: Mapping[str, Any]) -> None:
    """Add to what the metadata of a message tells of its handlers, unless it is gone. Never raises."""
    try:
        _note(message, reports)
    except (DatabaseError, records.Conversation.DoesNotExist):  # the message itself is in order
        logger.exception("What handlers of %s had to report could not be stored", message.uuid)


def _note(message: Message, reports: Mapping[str, Any]) -> None:
    alias = database()
    with writing(message.conversation_id) as log:
        row = records.Message.all_objects.using(alias).select_related("reply_to").filter(pk=message.pk).first()
        if row is None:
            return
        row.metadata = {**row.metadata, "handlers": {**row.metadata.get("handlers", {}), **reports}}
        row.changed_offset = log.next()
        row.save(update_fields=["metadata", "changed_offset"], using=alias)
        message.metadata, message.changed_offset = row.metadata, row.changed_offset
        if row.deleted_at is None:
            log.tell(row.event(MessageUpdated, log.uuid), message_updated, records.Message, message=row)


def assemble(row: Message, alias: str) -> None:
    """Put a message's parts and content together from its chunks; the row itself is not written."""
    chunks = records.MessageChunk.objects.using(alias).filter(message_id=row.pk).order_by("sequence")
    kinds: dict[int, str] = {}
    texts: dict[int, list[str]] = {}
    told: dict[int, dict[str, Any]] = {}
    row.last_sequence = 0
    for sequence, kind, part, content, metadata, created_at in chunks.values_list(
        "sequence", "kind", "part", "content", "metadata", "created_at"
    ).iterator():
        if part not in kinds:
            kinds[part] = kind
            texts[part] = []
            told[part] = {}
        texts[part].append(content)
        if metadata:
            told[part].update(metadata)
        row.first_chunk_at = row.first_chunk_at or created_at
        row.last_sequence = sequence
    row.parts = [stored(kinds[part], "".join(texts[part]), _kept(kinds[part], told[part])) for part in sorted(kinds)]
    row.content = "".join(part["text"] for part in row.parts if part["type"] == ChunkKind.TEXT)


def _kept(kind: str, told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give what a part keeps of its chunks' metadata; that of a text is its writer's own, but for a signature."""
    return {key: told[key] for key in SIGNED if key in told} if kind == ChunkKind.TEXT else told


SIGNED = ("signature", "origin")

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
    for name, value in (columns_of(usage) if usage else {}).items():
        setattr(row, name, value)


def _take_over(row: Message) -> None:
    """Keep the account of a writer that is gone: its call is over, and what the ones before it took is stored."""
    calls.interrupt(row.pk)
    for name, count in calls.totals(row.pk).items():
        if count is not None:
            setattr(row, name, count)


def columns_of(usage: Usage) -> dict[str, Any]:
    counts = (
        (f"{name}_tokens", getattr(usage, name))
        for name in ("input", "cached_input", "cache_write", "output", "reasoning")
    )
    return {"usage": dict(usage.raw), **{name: value for name, value in counts if value is not None}}


def _blame(row: Message, error: str | BaseException, error_type: str, public_error: str) -> None:
    known = error if isinstance(error, ProviderError | Vetoed) else None
    kind = ErrorType(error_type or (known.type if known else ErrorType.ERROR))
    row.error_type = kind.value
    row.error_message = public_error or (known.public[:500] if isinstance(known, Vetoed) else PUBLIC_TEXTS[kind])
    row.error_detail = error if isinstance(error, str) else f"{type(error).__name__}: {error}"


def _chances(error: str | BaseException) -> dict[str, Any]:
    """Say whether it may help to try again, and in how many seconds, where the provider said so."""
    if not isinstance(error, ProviderError):
        return {}
    return {"retryable": error.retryable} | ({} if error.retry_after is None else {"retry_after": error.retry_after})


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
