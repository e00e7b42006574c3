"""The end of an open message: put it together from its chunks, account for it, say how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone

from converse import journal, records
from converse.choices import ChunkKind, ErrorType, Status
from converse.deltas import Usage
from converse.drafts import jsonable
from converse.events import MessageCancelled, MessageCompleted, MessageFailed
from converse.exceptions import PUBLIC_TEXTS, MessageClosed, ProviderError
from converse.log import Log, database, writing
from converse.signals import message_cancelled, message_completed, message_failed

if TYPE_CHECKING:
    from converse.models import Message

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
    for name, value in (columns_of(usage) if usage else {}).items():
        setattr(row, name, value)


def columns_of(usage: Usage) -> dict[str, Any]:
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
