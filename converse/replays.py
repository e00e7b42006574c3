"""What a reader missed, read from the database and packed: one event a message and part, never one a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from json import dumps
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from django.db.models import Case, Q, When
from django.db.models.functions import Length

from converse import records
from converse.choices import OPEN, ChunkKind, Status
from converse.conf import settings
from converse.events import (
    ConversationDeleted,
    ConversationUpdated,
    Event,
    MessageCancelled,
    MessageCompleted,
    MessageCreated,
    MessageDeleted,
    MessageFailed,
    MessageUpdated,
    Replay,
    Snapshot,
    StreamUpdate,
    frame,
)
from converse.log import database
from converse.parts import facts, stored

if TYPE_CHECKING:
    from converse.managers import MessageQuerySet
    from converse.models import Conversation, Message

PAGE = 20_000  # chunk rows in one replay, which holds no more text than a window but for its last row
FRAME = 1_000_000  # bytes of one replay or snapshot: Daphne sends nothing beyond a mebibyte
STEPS = (10, 100, 1000, 10_000)  # chunk rows read at a time: few at first, for nobody knows how large they are

CLOSING = {Status.COMPLETED: MessageCompleted, Status.FAILED: MessageFailed, Status.CANCELLED: MessageCancelled}

Row = tuple[int, int, int, str, int, str, Any]  # message, sequence, offset, kind, part, content, metadata
COLUMNS = ("message_id", "sequence", "offset", "kind", "part", "content", "metadata")


def read(conversation_id: int, after: int | None, epoch: str | None) -> Replay | Snapshot | None:
    """Give everything after a cursor; a snapshot where there is no cursor, or none that can be honoured.

    None where the conversation is gone. Everything is bounded by the head as read first, so that what is committed in
    between comes with the next reading, not twice.
    """
    conversation = records.Conversation.all_objects.using(database()).filter(pk=conversation_id).first()
    if conversation is None:
        return None
    head = conversation.last_offset
    if after is None or after > head or epoch != conversation.epoch:
        return _snapshot(conversation, head)
    return _replay(conversation, after, head)


def _replay(conversation: Conversation, after: int, head: int) -> Replay:
    chunks, head = _chunks(conversation.pk, after, head)
    messages, head = _changed(conversation.pk, after, head)
    texts = _packed(row for row in chunks if row[2] <= head)
    events: list[Event] = []
    uuid = str(conversation.uuid)
    for message in messages:
        events += _message_events(uuid, message, texts.get(message.pk, []), after, head)
    if after < conversation.changed_offset <= head:
        told = ConversationDeleted if conversation.deleted_at else ConversationUpdated
        events.append(conversation.event(told, offset=conversation.changed_offset))
    return Replay(
        conversation_id=uuid, epoch=conversation.epoch, offset=head, events=[frame(event) for event in events]
    )


def _changed(conversation_id: int, after: int, head: int) -> tuple[list[Message], int]:
    """Read the messages that something was told of after an offset, with content where they are told whole.

    Give them, and the head up to which they fit into one replay.
    """
    changed = Q(changed_offset__gt=after) | Q(status__in=OPEN)
    stored = records.Message.all_objects.using(database()).filter(conversation_id=conversation_id)
    size = Case(When(offset__gt=after, closed_offset__lte=head, then=Length("content")), default=0)
    found = stored.filter(changed, offset__lte=head).select_related("reply_to").annotate(size=size)
    messages = list(found.defer("content", "parts", "reply_to__content", "reply_to__parts").order_by("offset"))
    head = _fitting(messages, head)
    messages = [message for message in messages if message.offset <= head]
    whole = [message.pk for message in messages if message.offset > after and was_closed(message, head)]
    contents = {pk: rest for pk, *rest in stored.filter(pk__in=whole).values_list("pk", "content", "parts")}
    for message in messages:
        message.content, message.parts = contents.get(message.pk, ("", []))
    return messages, head


def _fitting(messages: Iterable[Any], head: int) -> int:
    """Give the head before the first message that would be one too many to be told whole."""
    size = 0
    for message in messages:
        told, size = size, size + 4 * message.size  # bytes a character at most
        if told and size > FRAME:
            return int(message.offset) - 1
    return head


def was_closed(message: Message, head: int) -> bool:
    """Say whether a message was closed already when the head was read."""
    return message.closed_offset is not None and message.closed_offset <= head


def _message_events(uuid: str, message: Message, texts: Sequence[Row], after: int, head: int) -> Iterable[Event]:
    """Tell what became of one message between two offsets."""
    if message.deleted_at:
        yield MessageDeleted(
            conversation_id=uuid,
            message_id=str(message.uuid),
            offset=min(message.changed_offset, head),
            place=message.offset,
            follows=message.follows,
        )
        return
    closed = was_closed(message, head)
    if message.offset > after:
        if closed:
            yield message.event(MessageCreated, uuid, offset=message.offset)
            return
        yield as_open(message, uuid)
    for row in texts:
        yield update(uuid, message, row)
    if closed and message.closed_offset is not None and message.closed_offset > after:
        yield message.event(CLOSING[Status(message.status)], uuid, offset=message.closed_offset)
    elif after < message.changed_offset <= head and message.offset <= after:
        yield message.event(MessageUpdated, uuid)


def as_open(message: Message, uuid: str, **changes: Any) -> MessageCreated:
    """Tell of a message that was open at the head that was read, though it may have been closed since."""
    status = message.status if message.is_open else Status.STREAMING.value
    before_close: dict[str, Any] = {"finished_at": None, "error": None, "sequence": 0, "content": "", "parts": None}
    return message.event(MessageCreated, uuid, offset=message.offset, status=status, **{**before_close, **changes})


def update(uuid: str, message: Message, row: Row) -> StreamUpdate:
    """Tell of a chunk, or of several that are packed into one row."""
    _, sequence, offset, kind, part, text, metadata = row
    return StreamUpdate(
        conversation_id=uuid,
        message_id=str(message.uuid),
        chunk=text,
        sequence=sequence,
        offset=offset,
        kind=kind,
        part=part,
        attempt=message.attempt,
        **facts(kind, metadata),
    )


def _chunks(conversation_id: int, after: int, head: int) -> tuple[list[Row], int]:
    """Read chunks, as many as fit into one replay; give them, and the offset up to which there are no others."""
    chunks = records.MessageChunk.objects.using(database()).filter(conversation_id=conversation_id, offset__lte=head)
    rows = chunks.order_by("offset").values_list(*COLUMNS)
    found: list[Row] = []
    size, limit = 0, settings.CONVERSE_WINDOW
    steps = chain(STEPS, repeat(STEPS[-1]))
    while True:
        room = 2 + (limit - size) * len(found) // size if size else PAGE  # if the next are as large as the last
        step = min(next(steps), room, PAGE - len(found))
        some = list(rows.filter(offset__gt=found[-1][2] if found else after)[:step])
        for row in some:
            found.append(row)
            size += len(row[5].encode())
            if size > limit or len(found) == PAGE:
                return found, row[2]
        if len(some) < step:
            return found, head


def _packed(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """Join the rows of each message's parts, in the order in which the parts ended: sequences only rise."""
    joined: dict[tuple[int, int], list[str]] = {}
    last: dict[tuple[int, int], Row] = {}
    named: dict[tuple[int, int], Any] = {}
    for row in rows:
        key = (row[0], row[4])
        if key in joined:
            joined[key].append(row[5])
        else:
            joined[key] = [row[5]]
        last[key] = row
        if row[6]:
            named[key] = {**named.get(key, {}), **row[6]}
    packed: dict[int, list[Row]] = {}
    for key, row in sorted(last.items(), key=lambda item: item[1][2]):
        message, sequence, offset, kind, part, _, _ = row
        text = "".join(joined[key])
        packed.setdefault(message, []).append((message, sequence, offset, kind, part, text, named.get(key)))
    return packed


def _snapshot(conversation: Conversation, head: int) -> Snapshot:
    limit = settings.CONVERSE_SNAPSHOT_LIMIT
    found = records.Message.all_objects.using(database()).filter(conversation_id=conversation.pk, offset__lte=head)
    chosen = _chosen(found.filter(deleted_at__isnull=True).select_related("reply_to"), limit + 1)
    messages = chosen[:limit]
    growing = [message for message in messages if message.closed_offset is None or message.closed_offset > head]
    chunks = records.MessageChunk.objects.using(database()).filter(
        message_id__in=[message.pk for message in growing], offset__lte=head
    )
    packed = _packed(chunks.order_by("offset").values_list(*COLUMNS)) if growing else {}
    uuid = str(conversation.uuid)
    states = [_state(uuid, message, packed.get(message.pk, []) if message in growing else None) for message in messages]
    fitting = sorted(_fit(states), key=itemgetter("offset"))
    leaf = conversation.leaf_offset
    return Snapshot(
        conversation_id=uuid,
        epoch=conversation.epoch,
        offset=head,
        conversation={"title": conversation.title, "deleted": conversation.deleted_at is not None, "leaf": leaf},
        messages=fitting,
        gone=_gone(found, fitting, leaf),
        truncated=len(chosen) > len(fitting),
    )


def _chosen(visible: MessageQuerySet, count: int) -> list[Message]:
    """Give the messages that matter most, and of those the newest first: what is shown goes before other versions."""
    newest = list(visible.order_by("-offset")[:count])
    if all(message.current for message in newest):
        return newest
    shown = list(visible.current().order_by("-offset")[:count])
    known = {message.pk for message in shown}
    return [*shown, *(message for message in newest if message.pk not in known)][:count]  # also those shown until now


def _fit(states: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give as many messages as fit into one snapshot, the first ones, at least one."""
    size = 0
    for number, state in enumerate(states):
        size += len(dumps(state, ensure_ascii=False).encode())
        if number and size > FRAME:
            return states[:number]
    return states


def _gone(found: MessageQuerySet, told: Sequence[Mapping[str, Any]], leaf: int) -> list[dict[str, int]]:
    """Say what deleted messages followed, where the way from one told message to another leads over them."""
    places = {state["offset"] for state in told}
    since = min(places, default=0)
    wanted = {place for place in (leaf, *(state["follows"] for state in told)) if place > since} - places
    if not wanted:
        return []
    deleted = found.filter(deleted_at__isnull=False, offset__gt=since)
    links = dict(deleted.values_list("offset", "follows"))
    gone: dict[int, int] = {}
    while wanted:
        place = wanted.pop()
        if place in links and place not in gone:
            gone[place] = links[place]
            wanted.add(links[place])
    return [{"place": place, "follows": follows} for place, follows in sorted(gone.items())]


def _state(uuid: str, message: Message, rows: Sequence[Row] | None) -> dict[str, Any]:
    """Give a message as it stood at the head, with its text and parts; ``rows`` are an open one's packed chunks."""
    if rows is None:
        return message.event(MessageCreated, uuid, offset=message.offset).wire()
    parts = [_part(row) for row in sorted(rows, key=lambda row: row[4])]
    text = "".join(part["text"] for part in parts if part["type"] == ChunkKind.TEXT)
    sequence = max((row[1] for row in rows), default=0)
    return as_open(message, uuid, content=text, sequence=sequence, parts=message.public_parts(parts)).wire()


def _part(row: Row) -> dict[str, Any]:
    _, _, _, kind, _, text, metadata = row
    return stored(kind, text, metadata or {})
