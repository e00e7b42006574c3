"""What somebody who looks through conversations reads, a page at a time."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from json import dumps
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings as django_settings
from django.db.models import Model, Q
from django.utils.module_loading import import_string

from converse import records
from converse.choices import Action, ParticipantRole
from converse.closing import assemble
from converse.conf import Settings, settings
from converse.events import MessageCreated
from converse.exceptions import InvalidMessage
from converse.log import database
from converse.permissions import may
from converse.replays import COLUMNS, update

if TYPE_CHECKING:
    from converse.managers import ConversationQuerySet, MessageQuerySet
    from converse.models import Conversation, Message

SHIPPED_RULE: str = vars(Settings)["CONVERSE_AUTHORIZE"]

PAGE = 1_000_000  # bytes of messages or chunks in one page, which has one at least

Page = tuple[list[dict[str, Any]], bool]  # data of events, and whether there are more


# Conversations.


def conversations(
    user: Any, *, limit: int, cursor: str = "", search: str = "", deleted: bool = False
) -> tuple[list[Conversation], str | None]:
    """Give conversations of a user's, the latest first, and the cursor of the next page, None after the last one.

    Of deleted ones, those that the user may bring back. Raise InvalidMessage for a cursor that is none.
    """
    after = _after(cursor) if cursor else Q()
    found: dict[int, Conversation] = {}
    for source in _sources(user, deleted=deleted):
        rows = source.using(database()).filter(after, deleted_at__isnull=not deleted)
        rows = rows.filter(title__icontains=search) if search else rows
        found.update({row.pk: row for row in rows.order_by("-last_activity_at", "-pk")[: limit + 1]})
    ordered = sorted(found.values(), key=lambda row: (row.last_activity_at, row.pk), reverse=True)
    page = ordered[:limit]
    following = write_place(page[-1].last_activity_at, page[-1].uuid) if len(ordered) > limit else None
    action = Action.MANAGE if deleted else Action.READ
    return [row for row in page if _as_shipped() or may(user, action, row)], following


def _sources(user: Any, *, deleted: bool) -> Iterator[ConversationQuerySet]:
    """Give what is listed: each in the order of an index, which one statement for both would not be."""
    if settings.CONVERSE_CLIENT_LIST:
        yield import_string(settings.CONVERSE_CLIENT_LIST)(user)
    elif isinstance(user, Model):
        every: ConversationQuerySet = records.Conversation.all_objects.all()
        yield every.for_owner(user)
        shared = Q(participants__user_id=user.pk)
        yield every.filter(shared, participants__role=ParticipantRole.OWNER) if deleted else every.filter(shared)


def _as_shipped() -> bool:
    """Say whether what is listed is what the rule lets in, so that it need not be asked for each."""
    return not settings.CONVERSE_CLIENT_LIST and settings.CONVERSE_AUTHORIZE == SHIPPED_RULE


def write_place(at: datetime, uuid: UUID) -> str:
    """Give a place in a list of conversations as a cursor."""
    return urlsafe_b64encode(f"{at.isoformat()} {uuid.hex}".encode()).decode().rstrip("=")


def read_place(cursor: str) -> tuple[datetime, UUID]:
    """Read a cursor; raise InvalidMessage for what write_place() has not written."""
    try:
        time, _, key = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(" ")
        at, uuid = datetime.fromisoformat(time), UUID(key)
        fits = (at.utcoffset() == timedelta() if django_settings.USE_TZ else at.tzinfo is None) and at.year > 1
        if fits and write_place(at, uuid) == cursor:
            return at, uuid
    except ValueError:  # told below
        pass
    raise InvalidMessage("is none that was given; begin without one", field="cursor")


def _after(cursor: str) -> Q:
    at, uuid = read_place(cursor)
    last = records.Conversation.all_objects.using(database()).filter(uuid=uuid).values_list("pk", flat=True).first()
    earlier = Q(last_activity_at__lt=at)
    return earlier | Q(last_activity_at=at, pk__lt=last) if last else earlier


def trashed(user: Any, uuid: UUID) -> Conversation:
    """Give a deleted conversation that a user may bring back; raise DoesNotExist for any other."""
    row: Conversation = records.Conversation.all_objects.using(database()).trashed().get(uuid=uuid)
    if not may(user, Action.MANAGE, row):
        raise records.Conversation.DoesNotExist("There is no such conversation.")
    return row


# Messages.


def messages(conversation: Conversation, *, limit: int, before: int | None, after: int | None) -> Page:
    """Give messages of the branch that is shown, oldest first: the newest, or those before or after an offset."""
    rows = _visible(conversation).current()
    if after is not None:
        found = list(rows.filter(offset__gt=after).order_by("offset")[: limit + 1])
    else:
        older = rows if before is None else rows.filter(offset__lt=before)
        found = list(older.order_by("-offset")[: limit + 1])
    states, more = _fitting((state(row, conversation) for row in found[:limit]), more=len(found) > limit)
    return (states if after is not None else states[::-1]), more


def message(conversation: Conversation, uuid: UUID) -> Message:
    """Give a message of a conversation, on any branch; raise DoesNotExist for any other."""
    row: Message = _visible(conversation).get(uuid=uuid)
    return row


def state(row: Message, conversation: Conversation) -> dict[str, Any]:
    """Give a message as a snapshot has it, an open one with its text so far."""
    changes: dict[str, Any] = {}
    if row.is_open:
        so_far = records.Message(pk=row.pk)
        assemble(so_far, database())
        parts = row.public_parts(so_far.parts)
        changes = {"content": so_far.content, "parts": parts, "sequence": so_far.last_sequence}
    return row.event(MessageCreated, str(conversation.uuid), offset=row.offset, **changes).wire()


def versions(conversation: Conversation, states: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Give for each message which version of its turn it is, of how many, and the ids of all of them, oldest first."""
    places: dict[tuple[int, str], list[str]] = {(row["follows"], row["role"]): [] for row in states}
    rows = _visible(conversation).filter(follows__in={follows for follows, _ in places}).order_by("offset")
    for follows, role, uuid in rows.values_list("follows", "role", "uuid"):
        places.setdefault((follows, role), []).append(str(uuid))
    return {row["messageId"]: _version(row["messageId"], places[row["follows"], row["role"]]) for row in states}


def _version(uuid: str, ids: Sequence[str]) -> dict[str, Any]:
    ids = ids if uuid in ids else [*ids, uuid]  # deleted a moment ago
    return {"number": ids.index(uuid) + 1, "of": len(ids), "ids": ids}


def chunks(row: Message, conversation: Conversation, *, after: int, limit: int) -> Page:
    """Give stored chunks of a message after a sequence, each as the StreamUpdate that it was told with."""
    found = list(row.chunks.filter(sequence__gt=after).order_by("sequence").values_list(*COLUMNS)[: limit + 1])
    updates = (update(str(conversation.uuid), row, chunk).wire() for chunk in found[:limit])
    return _fitting(updates, more=len(found) > limit)


def _visible(conversation: Conversation) -> MessageQuerySet:
    rows = records.Message.objects.using(database()).filter(conversation_id=conversation.pk)
    kept: MessageQuerySet = rows.select_related("reply_to").defer("reply_to__content", "reply_to__parts")
    return kept


def _fitting(states: Iterable[dict[str, Any]], *, more: bool) -> Page:
    """Take as many as fit into one page, and say whether there are more than those."""
    taken: list[dict[str, Any]] = []
    size = 0
    for told in states:
        size += len(dumps(told, ensure_ascii=False))
        if taken and size > PAGE:
            return taken, True
        taken.append(told)
    return taken, more
