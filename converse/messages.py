"""Conversations and messages that are not streamed: start, add, hide, bring back, change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.dispatch import Signal
from django.utils import timezone

from converse import attachments, records
from converse.choices import Role, Status
from converse.closing import close_in
from converse.drafts import Draft, jsonable, parse_all, render
from converse.events import (
    ConversationCreated,
    ConversationDeleted,
    ConversationEvent,
    ConversationUpdated,
    MessageCreated,
    MessageDeleted,
    MessageUpdated,
)
from converse.exceptions import InvalidMessage
from converse.log import Log, database, writing
from converse.managers import new_epoch
from converse.signals import (
    conversation_created,
    conversation_deleted,
    conversation_updated,
    message_created,
    message_deleted,
    message_updated,
)
from converse.windows import SUMMARIES, checked

if TYPE_CHECKING:
    from converse.managers import ConversationQuerySet, MessageQuerySet
    from converse.models import Conversation, ConversationParticipant, Message

EXTERNAL_ID_LIMIT = 100
TITLE_LIMIT = 255


def start(
    owner: models.Model | None,
    *,
    title: str,
    metadata: Mapping[str, Any] | None,
    context: Mapping[str, Any] | None,
    **fields: Any,
) -> Conversation:
    """Store a new conversation. Its log begins with its creation."""
    _check_owner(owner)
    conversation = records.Conversation(
        title=_title(title), metadata=jsonable(metadata), context=_context(context), owner=owner, **fields
    )
    alias = database()
    with transaction.atomic(using=alias):
        conversation.save(force_insert=True, using=alias)
        with writing(conversation.pk) as log:
            tell(log, conversation, ConversationCreated, conversation_created)
    return conversation


def _check_owner(owner: Any) -> None:
    if owner is None:
        return
    if not isinstance(owner, models.Model):
        reason = f"must be a row of a model, not {owner!r}; leave it out for a conversation of nobody"
        raise InvalidMessage(reason, field="owner")
    if owner.pk is None:
        raise InvalidMessage(f"{owner!r} is not saved; save it first", field="owner")


def _title(title: str) -> str:
    if not isinstance(title, str):
        raise InvalidMessage(f"must be text, not {title!r}", field="title")
    if len(title) > TITLE_LIMIT:
        raise InvalidMessage(f"may have {TITLE_LIMIT} characters, not {len(title)}", field="title")
    return title


def _context(context: Any) -> dict[str, Any]:
    """Give what every reply is told as JSON, a template of the system prompt rendered, the window looked at."""
    if not isinstance(context, Mapping):
        return jsonable(context, "context")
    given = dict(context)
    if (prompt := given.get("system_prompt")) is not None:
        try:
            given["system_prompt"] = render(prompt)
        except InvalidMessage as exc:
            raise InvalidMessage(exc.reason, field="context.system_prompt") from exc
    if "window" in given:
        given["window"] = checked(given["window"], "context.window")
    return jsonable(given, "context")


def add(conversation: Conversation, items: Iterable[Any]) -> list[Message]:
    """Add messages, all or none, in one insert; give them in order, those known by their external id as they are."""
    drafts = parse_all(items)
    for index, draft in enumerate(drafts):
        if draft.external_id and len(draft.external_id) > EXTERNAL_ID_LIMIT:
            raise InvalidMessage(f"may have {EXTERNAL_ID_LIMIT} characters", field=f"messages[{index}].external_id")
    if not drafts:
        return []
    with attachments.prepared(conversation, drafts) as drafts, writing(conversation.pk) as log:
        return add_to(log, drafts)


def add_to(log: Log, drafts: Iterable[Draft]) -> list[Message]:
    """Add messages to a locked conversation."""
    drafts = list(drafts)
    alias = database()
    messages = records.Message.all_objects.using(alias).filter(conversation_id=log.conversation_id)
    wanted = [draft.external_id for draft in drafts if draft.external_id]
    known = {message.external_id: message for message in messages.filter(external_id__in=wanted)} if wanted else {}
    result = []
    new: list[Message] = []
    sent: list[tuple[Message, Draft]] = []
    for draft in drafts:
        if draft.external_id is None or draft.external_id not in known:
            message = _new(log, draft)
            new.append(message)
            sent.append((message, draft))
            if draft.external_id:
                known[draft.external_id] = message
            result.append(message)
        else:
            result.append(known[draft.external_id])
    files = attachments.claim(log, sent)
    insert(log, new)
    attachments.settle(files)
    for message in new:
        log.tell(message.event(MessageCreated, log.uuid), message_created, records.Message, message=message)
    return result


def insert(log: Log, new: Collection[Message]) -> None:
    """Insert new messages into a locked conversation, and let them know their keys."""
    messages = records.Message.all_objects.using(database())
    messages.bulk_create(new)
    if any(message.pk is None for message in new):  # MySQL tells no keys
        placed = messages.filter(conversation_id=log.conversation_id, offset__in=[message.offset for message in new])
        keys = dict(placed.values_list("offset", "pk"))
        for message in new:
            message.pk = keys[message.offset]


def _new(log: Log, draft: Draft) -> Message:
    place = log.place()
    return records.Message(
        conversation_id=log.conversation_id,
        role=draft.role,
        content=draft.text or "",
        parts=[{"type": "text", "text": draft.text}] if draft.text else [],
        metadata=dict(draft.metadata),
        external_id=draft.external_id,
        status=Status.COMPLETED,
        closed_offset=place["offset"],
        finished_at=timezone.now(),
        **place,
    )


def visible(conversation: Conversation) -> MessageQuerySet:
    """Give a conversation's messages that are not deleted and on the branch that is shown."""
    messages: MessageQuerySet = records.Message.objects.filter(conversation_id=conversation.pk)
    return messages.current()


def window(conversation: Conversation, count: int) -> list[Message]:
    """Give the last messages other than system ones and, before them, all of those."""
    messages = visible(conversation).select_related("reply_to")
    rest = list(messages.exclude(role=Role.SYSTEM).order_by("-offset")[:count])
    return [*messages.system().order_by("offset"), *reversed(rest)]


def delete(message: Message) -> tuple[int, dict[str, int]]:
    """Hide a message; one that is open is cancelled first. Give what Django's ``delete()`` gives."""
    with writing(message.conversation_id) as log:
        rows = records.Message.all_objects.using(database()).filter(pk=message.pk, deleted_at__isnull=True)
        row = rows.first()
        if row is None:
            return 0, {}
        if row.is_open:
            close_in(log, message, Status.CANCELLED)
        message.changed_offset = log.next()
        message.deleted_at = timezone.now()
        rows.update(deleted_at=message.deleted_at, changed_offset=message.changed_offset)
        _tell_deleted(log, message)
    return 1, {records.Message._meta.label: 1}


def _tell_deleted(log: Log, message: Message) -> None:
    event = MessageDeleted(
        conversation_id=log.uuid,
        message_id=str(message.uuid),
        offset=message.changed_offset,
        place=message.offset,
        follows=message.follows,
    )
    log.tell(event, message_deleted, records.Message, message=message)


def clear(conversation: Conversation, *, keep_system: bool = True) -> int:
    """Hide all messages, on all branches, those of the system apart; open ones are cancelled first."""
    with writing(conversation.pk) as log:
        rows = records.Message.all_objects.using(database()).filter(
            conversation_id=conversation.pk, deleted_at__isnull=True
        )
        going = list(rows.exclude(role=Role.SYSTEM) if keep_system else rows)
        for message in going:
            if message.is_open:
                close_in(log, message, Status.CANCELLED)
        now = timezone.now()
        for message in going:
            message.deleted_at, message.changed_offset = now, log.next()
            _tell_deleted(log, message)
        rows.bulk_update(going, ["deleted_at", "changed_offset"])
        context = {**_rows(conversation).get().context}
        if context.pop(SUMMARIES, None):
            _rows(conversation).update(context=context)
    return len(going)


def restore(message: Message) -> None:
    """Bring a hidden message back.

    What readers have dropped cannot be told in one event, so the log gets a new epoch and they begin afresh.
    """
    with writing(message.conversation_id) as log:
        messages = records.Message.all_objects.using(database()).filter(pk=message.pk)
        if messages.filter(deleted_at__isnull=False).update(deleted_at=None, changed_offset=log.head + 1):
            log.next()
            renumber(log)
            message.refresh_from_db()
            log.tell(message.event(MessageUpdated, log.uuid), message_updated, records.Message, message=message)


def renumber(log: Log) -> None:
    """Begin a new epoch: cursors of the old one are worth nothing, so readers begin afresh with a snapshot."""
    log.epoch = new_epoch()
    records.Conversation.all_objects.using(database()).filter(pk=log.conversation_id).update(epoch=log.epoch)


def update_metadata(message: Message, metadata: Mapping[str, Any]) -> None:
    """Merge keys into a message's metadata."""
    update(message, metadata=metadata)


def update(message: Message, *, metadata: Mapping[str, Any] | None = None, **fields: Any) -> None:
    """Change what is known about a message, and tell readers unless it is hidden; keys of the metadata are merged."""
    new = jsonable(metadata)
    with writing(message.conversation_id) as log:
        row = records.Message.all_objects.using(database()).select_related("reply_to").get(pk=message.pk)
        row.metadata = {**row.metadata, **new}
        row.changed_offset = row.changed_offset if row.deleted_at else log.next()
        for name, value in fields.items():
            setattr(row, name, value)
        row.save(update_fields=["metadata", "changed_offset", *fields], using=database())
        for name in ("metadata", "changed_offset", *fields):
            setattr(message, name, getattr(row, name))
        if not row.deleted_at:
            log.tell(row.event(MessageUpdated, log.uuid), message_updated, records.Message, message=row)


def rename(conversation: Conversation, title: str) -> None:
    """Give a conversation another title."""
    with writing(conversation.pk) as log:
        _rows(conversation).update(title=_title(title))
        tell(log, conversation, ConversationUpdated, conversation_updated)


def entitle(conversation: Conversation, title: str) -> bool:
    """Give a conversation a title unless it has one or is deleted; say whether it was given."""
    with writing(conversation.pk) as log:
        given = _rows(conversation).filter(title="", deleted_at__isnull=True).update(title=_title(title)) > 0
        if given:
            tell(log, conversation, ConversationUpdated, conversation_updated)
    return given


def delete_conversation(conversation: Conversation) -> tuple[int, dict[str, int]]:
    """Hide a conversation; open messages in it are cancelled first. Give what Django's ``delete()`` gives."""
    with writing(conversation.pk) as log:
        for message in records.Message.all_objects.using(database()).filter(conversation_id=conversation.pk).open():
            close_in(log, message, Status.CANCELLED)
        if not _rows(conversation).filter(deleted_at__isnull=True).update(deleted_at=timezone.now()):
            return 0, {}
        tell(log, conversation, ConversationDeleted, conversation_deleted)
    return 1, {records.Conversation._meta.label: 1}


def restore_conversation(conversation: Conversation) -> None:
    """Bring a hidden conversation back: what was visible then is visible again, under a new epoch."""
    with writing(conversation.pk) as log:
        if _rows(conversation).filter(deleted_at__isnull=False).update(deleted_at=None):
            renumber(log)
            tell(log, conversation, ConversationUpdated, conversation_updated)


def _rows(conversation: Conversation) -> ConversationQuerySet:
    return records.Conversation.all_objects.using(database()).filter(pk=conversation.pk)


def tell(log: Log, conversation: Conversation, event: type[ConversationEvent], signal: Signal) -> None:
    """Note a change of the conversation itself in its log, and tell of it."""
    _rows(conversation).update(changed_offset=log.next(), updated_at=timezone.now())
    conversation.refresh_from_db(using=database())
    conversation.last_offset, conversation.leaf_offset = log.head, log.leaf
    log.tell(conversation.event(event, offset=log.head), signal, records.Conversation, conversation=conversation)


def after_unshare(sender: type[ConversationParticipant], instance: ConversationParticipant, **kwargs: Any) -> None:
    """Have readers' rights looked at again when a participant is removed; a receiver of ``post_delete``."""
    try:
        with writing(instance.conversation_id) as log:
            conversation = records.Conversation.all_objects.using(database()).get(pk=instance.conversation_id)
            tell(log, conversation, ConversationUpdated, conversation_updated)
    except records.Conversation.DoesNotExist:
        pass  # the conversation goes, and this with it
