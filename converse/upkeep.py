"""What is done now and then: compare closed messages with their chunks, mend what differs, prune what is old."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from django.db.models import Exists, OuterRef, Q, QuerySet

from converse import records
from converse.attachments import storage
from converse.closing import assemble
from converse.events import MessageUpdated
from converse.files import PLACE, ROOT
from converse.log import database, writing
from converse.messages import renumber
from converse.signals import message_updated

if TYPE_CHECKING:
    from converse.managers import ChunkQuerySet, ConversationQuerySet, MessageQuerySet
    from converse.models import Conversation, Message, MessageAttachment

NAMES = 500  # looked up in one query


class Problem(NamedTuple):
    """Something wrong with a message; it can be mended where its chunks tell what it should be."""

    message: Message
    text: str
    mendable: bool = False


def problems(conversation: Conversation) -> Iterator[Problem]:
    """Give what is wrong in a conversation's log. A message without chunks was written at once, or pruned."""
    for message in _with_chunks(_messages(conversation.pk).finished()).order_by("offset"):
        yield from _problems_of(message)
    yield from _misplaced(conversation)


def _problems_of(message: Message) -> Iterator[Problem]:
    places = list(_chunks().filter(message_id=message.pk).order_by("sequence").values_list("sequence", "offset"))
    offsets = [offset for _, offset in places]
    count = max(len(places), message.last_sequence)
    whole = [sequence for sequence, _ in places] == list(range(1, count + 1))
    if not whole:
        yield Problem(message, f"has {len(places)} chunks, not 1 to {max(count, places[-1][0])} without a gap")
    if offsets != sorted(offsets):
        yield Problem(message, "has chunks whose offsets are not in their order")
    built = copy(message)
    assemble(built, database())
    if (built.content, built.last_sequence) != (message.content, message.last_sequence):
        yield Problem(message, "has content that is not that of its chunks", mendable=whole)


def _misplaced(conversation: Conversation) -> list[Problem]:
    """Find offsets above the head, or taken twice; locked, for a log that grows meanwhile looks wrong."""
    with writing(conversation.pk) as log:
        mine = OuterRef("pk")
        above = Q(changed_offset__gt=log.head) | Exists(_chunks().filter(message=mine, offset__gt=log.head))
        created = _messages(conversation.pk).values("offset")
        twice = Exists(_chunks().filter(message=mine, offset__in=created))
        return [
            *(
                Problem(row, f"has an offset above the head, {log.head}")
                for row in _messages(conversation.pk).filter(above)
            ),
            *(Problem(row, "has a chunk at a message's offset") for row in _messages(conversation.pk).filter(twice)),
        ]


def mend(message: Message) -> None:
    """Put a closed message together from its chunks once more; readers, who may have the wrong text, begin afresh."""
    with writing(message.conversation_id) as log:
        row = _messages(message.conversation_id).select_related("reply_to").get(pk=message.pk)
        assemble(row, database())
        row.changed_offset = log.next()
        row.save(update_fields=["content", "parts", "last_sequence", "changed_offset"], using=database())
        renumber(log)
        if not row.deleted_at:
            log.tell(row.event(MessageUpdated, log.uuid), message_updated, records.Message, message=row)


def with_old_chunks(before: datetime) -> ConversationQuerySet:
    """Give the conversations that hold chunks of messages closed before a time."""
    old = _with_chunks(records.Message.all_objects.using(database()).finished().filter(finished_at__lt=before))
    found: ConversationQuerySet = records.Conversation.all_objects.using(database()).filter(
        Exists(old.filter(conversation=OuterRef("pk")))
    )
    return found


def prune_chunks(conversation: Conversation, before: datetime, *, dry_run: bool = False) -> int:
    """Remove the chunks of messages closed before a time; say how many.

    Their content tells the same: where it does not, they stay. Cursors among them would miss text, hence a new epoch.
    """
    with writing(conversation.pk) as log:
        old = _with_chunks(_messages(conversation.pk).finished().filter(finished_at__lt=before))
        sound = [message.pk for message in old if not list(_problems_of(message))]
        chunks = _chunks().filter(message_id__in=sound)
        if dry_run or not sound:
            return chunks.count()
        renumber(log)
        return chunks.delete()[0]


def unsent(before: datetime) -> QuerySet[MessageAttachment]:
    """Give the attachments that were stored before a time and never sent."""
    return _attachments().filter(message=None, created_at__lt=before)


def prune_attachments(before: datetime) -> int:
    """Remove the attachments that were stored before a time and never sent; say how many.

    Under their conversation's lock: one that is being sent right now is no longer among them.
    """
    removed = 0
    for conversation_id in list(unsent(before).order_by().values_list("conversation_id", flat=True).distinct()):
        with writing(conversation_id):
            removed += unsent(before).filter(conversation_id=conversation_id).delete()[0]
    return removed


def stray_files(before: datetime) -> Iterator[str]:
    """Give the stored files, last changed before a time, that belong to no attachment.

    There are some where a transaction was rolled back after the file was written, or the storage was away when one was
    to be removed. Raise NotImplementedError where the storage cannot list its files.
    """
    try:
        shards, _ = storage.listdir(ROOT)
    except FileNotFoundError:
        return
    for shard in shards:
        names = [f"{ROOT}/{shard}/{name}" for name in storage.listdir(f"{ROOT}/{shard}")[1]]
        names = [name for name in names if PLACE.fullmatch(name)]  # whatever else is there is not ours to remove
        for first in range(0, len(names), NAMES):
            some = names[first : first + NAMES]
            known = set(_attachments().filter(file__in=some).values_list("file", flat=True))
            yield from (name for name in some if name not in known and storage.get_modified_time(name) < before)


def _attachments() -> QuerySet[MessageAttachment]:
    attachments: QuerySet[MessageAttachment] = records.MessageAttachment.objects.using(database())
    return attachments


def prune_calls(before: datetime, *, dry_run: bool = False) -> int:
    """Remove the calls of providers that ended before a time; say how many."""
    calls = records.ProviderCall.objects.using(database()).filter(finished_at__lt=before)
    count: int = calls.count() if dry_run else calls.delete()[0]
    return count


def _messages(conversation_id: int) -> MessageQuerySet:
    messages: MessageQuerySet = records.Message.all_objects.using(database()).filter(conversation_id=conversation_id)
    return messages


def _chunks() -> ChunkQuerySet:
    chunks: ChunkQuerySet = records.MessageChunk.objects.using(database())
    return chunks


def _with_chunks(messages: MessageQuerySet) -> MessageQuerySet:
    return messages.filter(Exists(_chunks().filter(message=OuterRef("pk"))))
