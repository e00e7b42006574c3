"""Files of messages: attached by people, made by providers, kept by reference in Django's storage."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from django.core.files.base import ContentFile
from django.db import transaction

from converse import loops, records
from converse.choices import ChunkKind
from converse.conf import settings
from converse.deltas import FileDelta
from converse.drafts import Draft
from converse.exceptions import InvalidMessage, MessageClosed
from converse.files import AttachmentStorage, Facts, examine, examine_made, opened, place
from converse.log import Log, database, writing
from converse.parts import File, StoredFile, stored

if TYPE_CHECKING:
    from converse.models import Conversation, Message, MessageAttachment

logger = logging.getLogger(__name__)

storage = AttachmentStorage()


def attach(conversation: Conversation, file: Any, name: str = "", mime_type: str = "") -> MessageAttachment:
    """Store a file in a conversation, to be sent with a message. Raise InvalidMessage for one that may not be."""
    if not settings.CONVERSE_ATTACHMENT_COUNT:
        raise InvalidMessage("nothing may be attached: CONVERSE_ATTACHMENT_COUNT is 0", field="file")
    with opened(file) as content:
        return _store(conversation.pk, content, examine(content, name, mime_type))


def keep(message: Message, delta: FileDelta) -> StoredFile:
    """Store a file that a provider made for an open message, whatever its type and size: it was paid for.

    Raise MessageClosed when the message is open no longer; then nothing is kept.
    """
    facts = examine_made(delta.data, delta.name, delta.mime_type)
    row = _store(message.conversation_id, ContentFile(delta.data), facts, message_id=message.pk)
    return StoredFile(attachment=str(row.uuid), name=row.name, mime_type=row.mime_type, size=row.size)


async def akeep(message: Message, delta: FileDelta) -> StoredFile:
    """See keep(). The storage may be slow and far away, so it is in nobody's way."""
    return await loops.apart(partial(keep, message, delta))


def _store(conversation_id: int, content: Any, facts: Facts, message_id: int | None = None) -> MessageAttachment:
    """Write the file, then its row; without the row the file goes again."""
    file = storage.save(place(), content)
    try:
        with writing(conversation_id):
            if message_id and not records.Message.all_objects.using(database()).open().filter(pk=message_id).exists():
                raise MessageClosed("The message is closed already.")
            row: MessageAttachment = records.MessageAttachment.objects.using(database()).create(
                conversation_id=conversation_id, message_id=message_id, file=file, **facts._asdict()
            )
    except BaseException:
        storage.delete(file)
        raise
    return row


def part_of(attachment: MessageAttachment) -> dict[str, Any]:
    """Give an attachment as a message's part: by reference, and what readers are told of it."""
    reference = StoredFile(
        attachment=str(attachment.uuid),
        name=attachment.name,
        mime_type=attachment.mime_type,
        size=attachment.size,
    )
    return stored(ChunkKind.FILE.value, "", asdict(reference))


def read(uuids: Iterable[str], conversation_id: int) -> dict[str, File]:
    """Give attachments of a conversation with their bytes; those whose file is gone are left out."""
    rows = records.MessageAttachment.objects.using(database()).filter(
        conversation_id=conversation_id, uuid__in=set(uuids)
    )
    found = {}
    for row in rows:
        try:
            with row.file.open("rb") as file:
                found[str(row.uuid)] = File(name=row.name, mime_type=row.mime_type, data=file.read())
        except FileNotFoundError:
            logger.warning("The file of attachment %s is gone: %s", row.uuid, row.file.name)
    return found


# Sending.


@contextmanager
def prepared(conversation: Conversation, drafts: Sequence[Draft]) -> Iterator[list[Draft]]:
    """Store the files that drafts bring along, before the transaction that sends them, and give the drafts with those.

    What was not sent in the end, for whatever reason, is removed again.
    """
    fresh: list[MessageAttachment] = []

    def one(item: Any, field: str) -> Any:
        if isinstance(item, str | UUID | records.MessageAttachment):
            return item
        try:
            fresh.append(attach(conversation, item))
        except InvalidMessage as exc:
            raise InvalidMessage(exc.reason, field=f"{field}.{exc.field}") from exc
        return fresh[-1]

    try:
        yield [
            replace(draft, attachments=[one(item, f"{where}[{index}]") for index, item in enumerate(draft.attachments)])
            for draft, where in zip(drafts, _fields(drafts), strict=True)
        ]
    finally:
        if fresh:
            _remove_unsent([row.pk for row in fresh])


def _fields(drafts: Collection[Draft]) -> list[str]:
    one = len(drafts) == 1
    return ["attachments" if one else f"messages[{index}].attachments" for index in range(len(drafts))]


def _remove_unsent(keys: Collection[int]) -> None:
    """Remove what nobody has seen yet; the files at once, for a transaction around this may be rolled back."""
    try:
        rows = records.MessageAttachment.objects.using(database()).filter(pk__in=keys, message=None)
        files = list(rows.values_list("file", flat=True))
        rows.delete()
    except Exception:  # it must not hide what went wrong before; and there is converse_prune
        logger.exception("Attachments that were not sent could not be removed")
    else:
        for file in files:
            _remove_file(file)


def claim(log: Log, drafts: Sequence[tuple[Message, Draft]]) -> list[MessageAttachment]:
    """Give new messages, not inserted yet, the attachments that their drafts name; ``settle()`` the rows given later.

    One that was sent before is shared: the new message has a row of its own for the same file. Raise InvalidMessage
    for one that is missing, of another conversation or named twice, and for too many.
    """
    wanted = [
        (message, [_uuid(item, f"{field}[{index}]") for index, item in enumerate(draft.attachments)], field)
        for (message, draft), field in zip(drafts, _fields([draft for _, draft in drafts]), strict=True)
    ]
    uuids = {uuid for _, named, _ in wanted for uuid in named}
    if not uuids:
        return []
    found = records.MessageAttachment.objects.using(database()).filter(
        conversation_id=log.conversation_id, uuid__in=uuids
    )
    # Locked, or a file might go with the message that is purged while another is to share it.
    known: dict[UUID, MessageAttachment] = {row.uuid: row for row in found.select_for_update()}
    rows = []
    for message, named, field in wanted:
        _check(named, known, field)
        for uuid in named:
            row = known[uuid] if known[uuid].message is None else _again(known[uuid])
            row.message = message
            message.parts = [*message.parts, part_of(row)]
            rows.append(row)
    return rows


def _uuid(item: Any, field: str) -> UUID:
    try:
        return item if isinstance(item, UUID) else UUID(str(getattr(item, "uuid", item)))
    except ValueError:
        raise InvalidMessage("must be an attachment, its uuid, or a file", field=field) from None


def _check(named: Sequence[UUID], known: Mapping[UUID, Any], field: str) -> None:
    limit = settings.CONVERSE_ATTACHMENT_COUNT
    if len(named) > limit:
        raise InvalidMessage(f"may be {limit}, not {len(named)}", field=field)
    for index, uuid in enumerate(named):
        if uuid not in known:
            raise InvalidMessage("there is no such attachment in this conversation", field=f"{field}[{index}]")
        if uuid in named[:index]:
            raise InvalidMessage("is named twice", field=f"{field}[{index}]")


def _again(row: MessageAttachment) -> MessageAttachment:
    """Give another row for the same file, not inserted yet."""
    fields = ("conversation_id", "file", "name", "mime_type", "size", "checksum", "metadata")
    again: MessageAttachment = records.MessageAttachment(uuid=uuid4(), **{name: getattr(row, name) for name in fields})
    return again


def settle(rows: Collection[MessageAttachment]) -> None:
    """Store what attachments belong to, once their messages are inserted."""
    manager = records.MessageAttachment.objects.using(database())
    if waiting := [row for row in rows if row.pk]:
        manager.bulk_update(waiting, ["message"])
    if shared := [row for row in rows if not row.pk]:
        manager.bulk_create(shared)


def share(originals: Sequence[Message], copies: Sequence[Message]) -> list[MessageAttachment]:
    """Give copies of messages, not inserted yet, attachments of their own with the same files; ``settle()`` them later.

    The originals are of one conversation, the copies of any one. Their parts are changed to name the new attachments.
    """
    pairs: dict[int | None, Message] = dict(zip((message.pk for message in originals), copies, strict=True))
    rows = []
    found = records.MessageAttachment.objects.using(database()).filter(
        conversation_id__in={message.conversation_id for message in originals}
    )
    for row in found.select_for_update():  # or the file might go with the original meanwhile
        copy = pairs.get(row.message_id)
        if copy is None:
            continue
        again = _again(row)
        again.message, again.conversation_id = copy, copy.conversation_id
        copy.parts = [_renamed(part, str(row.uuid), again) for part in copy.parts]
        rows.append(again)
    return rows


def _renamed(part: dict[str, Any], uuid: str, row: MessageAttachment) -> dict[str, Any]:
    return part_of(row) if part["type"] == ChunkKind.FILE and part["attachment"] == uuid else part


# Removing.


def after_delete(sender: type[MessageAttachment], instance: MessageAttachment, **kwargs: Any) -> None:
    """Remove a purged attachment's file after the commit; a receiver of ``post_delete``."""
    if instance.file:
        transaction.on_commit(partial(_remove_file, str(instance.file)), using=database())


def _remove_file(name: str) -> None:
    """Remove a file that no row names any more."""
    if records.MessageAttachment.objects.using(database()).filter(file=name).exists():
        return
    try:
        storage.delete(name)
    except Exception:  # the row is gone: nobody can be told any more, and there is converse_prune
        logger.exception("The file %s could not be removed", name)
