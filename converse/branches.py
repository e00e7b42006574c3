"""Versions of turns and replies: each on a branch of its own, of which one is shown and none is lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import models, transaction

from converse import attachments, records
from converse.choices import ChunkKind, Role
from converse.drafts import Content, UserMessage
from converse.events import ConversationUpdated, MessageCreated
from converse.exceptions import InvalidMessage
from converse.log import Log, database, walk, writing
from converse.messages import insert, start, tell
from converse.replies import reply_again
from converse.signals import conversation_updated, message_created
from converse.windows import SUMMARIES

if TYPE_CHECKING:
    from converse.managers import MessageQuerySet
    from converse.models import Conversation, Message

LISTED = 1000  # offsets named one by one in a statement


def regenerate(message: Message, **kwargs: Any) -> Message:
    """Answer once more what a reply answered, beside it; without keywords in the way that it was asked for."""
    if message.role != Role.ASSISTANT or message.reply_to is None:
        raise InvalidMessage("is not a reply: retry the reply to it, or edit it", field="message")
    return reply_again(message.conversation, like=message, branch=partial(_beside, message), **kwargs)


def edit(message: Message, content: Content, **kwargs: Any) -> Message:
    """Say something else in place of a user's turn, beside it, and reply; files stay unless others are given."""
    if message.role != Role.USER:
        raise InvalidMessage("is not a turn of the user's", field="message")
    files = [part["attachment"] for part in message.parts if part["type"] == ChunkKind.FILE]
    said = UserMessage(content, {"edited_from": str(message.uuid)})
    last = _of(message).filter(reply_to=message, role=Role.ASSISTANT).order_by("offset").last()
    given = {"attachments": files, **kwargs}
    return reply_again(message.conversation, said, like=last, branch=partial(_beside, message), **given)


def _beside(message: Message, log: Log) -> Message | None:
    """Show the branch up to what a message follows; give what it answers."""
    row = _visible(message)
    show(log, row.follows)
    return row.reply_to


def versions(message: Message) -> list[Message]:
    """Give the messages that stand for one another, oldest first: of one role, and following the same message."""
    rows = _of(message).filter(follows=message.follows, role=message.role, deleted_at__isnull=True)
    return list(rows.select_related("reply_to").order_by("offset"))


def switch(message: Message) -> None:
    """Show a message instead of its other versions, with what was last said after it."""
    with writing(message.conversation_id) as log:
        row = _visible(message)
        if not row.current:
            show(log, _latest_after(row))
            tell(log, message.conversation, ConversationUpdated, conversation_updated)
    message.current = True


def show(log: Log, leaf: int) -> None:
    """Make the branch that ends at an offset the one that is shown, in a locked conversation."""
    rows = records.Message.all_objects.using(database()).filter(conversation_id=log.conversation_id)
    found = list(rows.order_by().values_list("offset", "follows", "current"))
    current = {offset for offset, _, shown in found if shown}
    path = walk({offset: follows for offset, follows, _ in found}, leaf)
    shared = max(current.intersection(path), default=0)
    rows.filter(current=True, offset__gt=shared).update(current=False)
    new = [offset for offset in path if offset > shared]
    for first in range(0, len(new), LISTED):
        rows.filter(offset__in=new[first : first + LISTED]).update(current=True)
    log.leaf = leaf


def _latest_after(message: Message) -> int:
    """Give the offset of the latest message on any branch that goes through one."""
    rows = _of(message).filter(offset__gt=message.offset).order_by("offset")
    through, latest = {message.offset}, message.offset
    for offset, follows, deleted in rows.values_list("offset", "follows", "deleted_at"):
        if follows in through:
            through.add(offset)
            latest = latest if deleted else offset
    return latest


def _of(message: Message) -> MessageQuerySet:
    messages: MessageQuerySet = records.Message.all_objects.using(database())
    return messages.filter(conversation_id=message.conversation_id)


def _visible(message: Message) -> Message:
    row = _of(message).filter(pk=message.pk, deleted_at__isnull=True).select_related("reply_to").first()
    if row is None:
        raise InvalidMessage("is deleted", field="message")
    return row


# A fork: a conversation of its own that begins like another.

COPIED = (
    *("role", "status", "content", "parts", "metadata", "attempt", "pinned", "provider", "model", "options", "plan"),
    *("structured", "finish_reason", "error_type", "error_message", "error_detail"),
    *("started_at", "first_chunk_at", "finished_at"),
)


def fork(
    conversation: Conversation, at: Message | None = None, *, title: str = "", owner: models.Model | None = None
) -> Conversation:
    """Start a conversation with copies of the messages up to one, or of the branch that is shown.

    Left out is what is deleted or open. Copies have no chunks and no token counts: what was spent is counted once.
    """
    with transaction.atomic(using=database()):
        origin = records.Conversation.all_objects.using(database()).get(pk=conversation.pk)
        originals = _branch(origin, at)
        new = start(
            owner or origin.owner,
            title=title or origin.title,
            metadata=origin.metadata,
            context={name: value for name, value in origin.context.items() if name != SUMMARIES},
            forked_from=origin,
            forked_at=originals[-1].offset if originals else None,
        )
        with writing(new.pk) as log:
            copies = _copy(log, originals)
            for copy in copies:
                log.tell(copy.event(MessageCreated, log.uuid), message_created, records.Message, message=copy)
        new.last_offset, new.leaf_offset = log.head, log.leaf
    return new


def _branch(conversation: Conversation, at: Message | None) -> list[Message]:
    """Read the messages that a fork takes over, oldest first."""
    if at is not None and not isinstance(at, records.Message):
        raise InvalidMessage(f"must be a message of this conversation, not {at!r}", field="at")
    if at is not None and at.conversation_id != conversation.pk:
        raise InvalidMessage("is a message of another conversation", field="at")
    if at is not None and _visible(at).is_open:
        raise InvalidMessage("is open still", field="at")
    leaf = conversation.leaf_offset if at is None else at.offset
    rows = records.Message.all_objects.using(database()).filter(conversation_id=conversation.pk)
    path = set(walk(dict(rows.order_by().values_list("offset", "follows")), leaf))
    closed = rows.finished().filter(deleted_at__isnull=True, offset__lte=leaf).order_by("offset")
    return [row for row in closed if row.offset in path]


def _copy(log: Log, originals: Sequence[Message]) -> list[Message]:
    copies = []
    for original in originals:
        fields = {name: getattr(original, name) for name in COPIED}
        place = log.place()
        copies.append(
            records.Message(conversation_id=log.conversation_id, closed_offset=place["offset"], **place, **fields)
        )
    files = attachments.share(originals, copies)
    insert(log, copies)
    attachments.settle(files)
    _settle(originals, copies)
    return copies


def _settle(originals: Iterable[Message], copies: Sequence[Message]) -> None:
    """Let replies answer the copies of what they answered, and let all keep their times."""
    known: dict[int | None, Message] = {original.pk: copy for original, copy in zip(originals, copies, strict=True)}
    for original, copy in zip(originals, copies, strict=True):
        copy.reply_to = known.get(original.reply_to_id)
        copy.created_at = original.created_at
    records.Message.all_objects.using(database()).bulk_update(copies, ["reply_to", "created_at"])
