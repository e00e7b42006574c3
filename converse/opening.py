"""The beginning of an open message: an empty row that will grow, told of and leased."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from converse import records
from converse.choices import Role, Status
from converse.conf import settings
from converse.drafts import jsonable
from converse.events import MessageCreated
from converse.exceptions import InvalidMessage
from converse.log import Log, database, writing
from converse.signals import message_created

if TYPE_CHECKING:
    from converse.models import Conversation, Message


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
    message = records.Message(
        conversation_id=log.conversation_id,
        status=status,
        metadata={"streamed": True, **jsonable(metadata)},
        started_at=timezone.now() if status == Status.STREAMING else None,
        **log.place(),
        **fields,
    )
    message.save(force_insert=True, using=database())
    seconds = lease or (settings.CONVERSE_STALE_AFTER if status == Status.STREAMING else None)
    if seconds:
        records.Message.all_objects.using(database()).filter(pk=message.pk).renew(seconds)
    log.tell(message.event(MessageCreated, log.uuid), message_created, records.Message, message=message)
    return message
