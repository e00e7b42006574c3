"""A reply's calls of tools: which are still to be run, and what people have decided about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from converse import records
from converse.choices import ChunkKind, Status
from converse.closing import assemble
from converse.conf import settings
from converse.drafts import checked
from converse.events import MessageUpdated
from converse.exceptions import InvalidMessage, MessageClosed
from converse.flushes import update
from converse.log import Log, database, writing
from converse.managers import NewChunk
from converse.signals import message_updated

if TYPE_CHECKING:
    from converse.models import Message


class Decision(StrEnum):
    """The text of an approval's chunk."""

    APPROVED = "approved"
    DENIED = "denied"


@dataclass(slots=True, kw_only=True)
class Call:
    """A call of a tool that has no result yet, and what was decided about it, if anything."""

    part: Mapping[str, Any]
    decision: str = ""
    reason: str = ""

    @property
    def id(self) -> str:
        return str(self.part.get("id", ""))

    @property
    def name(self) -> str:
        return str(self.part.get("name", ""))

    @property
    def arguments(self) -> str:
        return str(self.part["arguments"])


def parts_of(message: Message) -> list[dict[str, Any]]:
    """Read an open message's parts from its chunks."""
    row = records.Message(pk=message.pk)
    assemble(row, database())
    parts: list[dict[str, Any]] = row.parts
    return parts


def open_calls(parts: Iterable[Mapping[str, Any]]) -> list[Call]:
    """Find the calls that have no result yet, in order, with what was decided about them."""
    calls: list[Call] = []
    for part in parts:
        if part["type"] == ChunkKind.TOOL_CALL:
            calls.append(Call(part=part))
        elif part["type"] in (ChunkKind.TOOL_RESULT, ChunkKind.APPROVAL):
            call = next((call for call in calls if call.id == part.get("id", "")), None)
            if call is None:
                continue  # somebody streamed this by hand
            if part["type"] == ChunkKind.TOOL_RESULT:
                calls.remove(call)
            else:
                call.decision, call.reason = part["text"], part["reason"]
    return calls


def undecided(message: Message) -> list[dict[str, Any]]:
    """Give the calls, as parts, that wait for a person to approve or deny them."""
    if message.status != Status.WAITING:
        return []
    return [dict(call.part) for call in open_calls(parts_of(message)) if not call.decision]


def suspend(message: Message, **fields: Any) -> None:
    """Have a streaming reply wait for a person: open, with no lease, written by nobody; also change ``fields``.

    Raise MessageClosed when somebody closed it in the meantime.
    """
    with writing(message.conversation_id) as log:
        row = _row(message)
        if row is None or row.status != Status.STREAMING:
            raise MessageClosed("The message is closed.")
        for name, value in fields.items():
            setattr(row, name, value)
        _move(log, row, Status.WAITING, "lease_expires_at", *fields)


def decide_in(
    log: Log, message: Message, call_id: str, decision: Decision, *, by: Any = None, reason: str = ""
) -> bool:
    """Record what a person decided about a call, in a locked conversation; say whether nothing is undecided any more.

    Then the message is pending. Raise MessageClosed when it is closed, InvalidMessage when it does not wait for this.
    """
    row = _row(message)
    if row is None or not row.is_open:
        raise MessageClosed("The message is closed: there is nothing to decide.")
    if row.status != Status.WAITING:
        raise InvalidMessage("does not wait for an approval", field="message")
    assemble(row, database())
    calls = open_calls(row.parts)
    call = next((call for call in calls if call.id == call_id), None)
    if call is None:
        raise InvalidMessage(f"no call {call_id!r} waits for an approval", field="call_id")
    if call.decision:
        raise InvalidMessage(f"this call was {call.decision} already", field="call_id")
    call.decision = decision
    _record(log, row, call, {"by": None if by is None else str(by.pk), "reason": checked(reason)})
    done = all(call.decision for call in calls)
    if done:
        _move(log, row, Status.PENDING)
        records.Message.all_objects.using(database()).filter(pk=row.pk).renew(settings.CONVERSE_LEASE)
    message.status, message.changed_offset = row.status, row.changed_offset
    return done


def _record(log: Log, row: Message, call: Call, facts: Mapping[str, Any]) -> None:
    chunk = NewChunk(
        message_id=row.pk,
        sequence=row.last_sequence + 1,
        conversation_id=log.conversation_id,
        offset=log.next(),
        kind=ChunkKind.APPROVAL.value,
        part=len(row.parts),
        content=call.decision,
        metadata={"id": call.id, "name": call.name, **facts},
        created_at=datetime.now(UTC),
    )
    records.MessageChunk.objects.using(database()).insert([chunk])
    log.events.append(update(log.uuid, row.stream.writer, chunk))


def _row(message: Message) -> Message | None:
    rows = records.Message.all_objects.using(database()).filter(pk=message.pk)
    found: Message | None = rows.select_related("reply_to").first()
    return found


def _move(log: Log, row: Message, status: Status, *fields: str) -> None:
    row.status = status
    row.lease_expires_at = None
    row.changed_offset = log.next()
    row.save(update_fields=["status", "changed_offset", "lease_expires_at", *fields], using=database())
    log.tell(row.event(MessageUpdated, log.uuid), message_updated, records.Message, message=row)
