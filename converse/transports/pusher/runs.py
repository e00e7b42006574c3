"""What a replay packs, step by step in the order of the log, so that a reader may lose its socket between any two.

A replay is applied as a whole. These clients take one event at a time and keep the cursor of the last one: after each
step exactly what is up to its offset must have been told. So only neighbours in the log are packed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from converse import records
from converse.choices import Status
from converse.events import (
    ConversationDeleted,
    ConversationUpdated,
    Event,
    MessageCreated,
    MessageDeleted,
    MessageUpdated,
)
from converse.log import database
from converse.replays import CLOSING, COLUMNS, Row, as_open, update, was_closed

if TYPE_CHECKING:
    from converse.models import Conversation, Message

RUN = 50_000  # characters that are packed into one event

Step = tuple[int, Event | Row]  # at an offset: what happened, or what was appended


def steps(conversation_id: int, after: int, head: int, epoch: str) -> list[tuple[int, Event]]:
    """Give what happened after an offset up to a head, each with its offset; nothing where the log was renumbered."""
    conversation = records.Conversation.all_objects.using(database()).filter(pk=conversation_id).first()
    if conversation is None or conversation.epoch != epoch:
        return []
    chunks = records.MessageChunk.objects.using(database()).filter(conversation_id=conversation_id)
    rows: list[Row] = list(chunks.filter(offset__gt=after, offset__lte=head).values_list(*COLUMNS))
    messages = _messages(conversation_id, after, head, {row[0] for row in rows})
    found: list[Step] = [(row[2], row) for row in rows if row[0] in messages and not messages[row[0]].deleted_at]
    uuid = str(conversation.uuid)
    written = {row[0] for row in rows}
    for message in messages.values():
        found += _states(uuid, message, after, head, streamed=message.pk in written)
    found += _own(conversation, after, head)
    return list(_packed(uuid, messages, sorted(found, key=itemgetter(0))))


def _messages(conversation_id: int, after: int, head: int, written: set[int]) -> dict[int, Message]:
    """Read the messages that anything is to be told of; with content those that are told whole."""
    stored = records.Message.all_objects.using(database()).filter(conversation_id=conversation_id, offset__lte=head)
    found = stored.filter(changed_offset__gt=after) | stored.filter(pk__in=written)
    heavy = ("content", "parts", "reply_to__content", "reply_to__parts")
    messages = {message.pk: message for message in found.select_related("reply_to").defer(*heavy)}
    whole = [pk for pk, message in messages.items() if message.offset > after and pk not in written]
    for pk, content, parts in stored.filter(pk__in=whole).values_list("pk", "content", "parts"):
        messages[pk].content, messages[pk].parts = content, parts
    return messages


def _states(uuid: str, message: Message, after: int, head: int, *, streamed: bool) -> Iterator[Step]:
    """Tell what became of a message, but for what was appended to it."""
    changed, closed = message.changed_offset, message.closed_offset
    if message.deleted_at:
        if after < changed <= head:
            place, follows, gone = message.offset, message.follows, str(message.uuid)
            told = MessageDeleted(conversation_id=uuid, message_id=gone, offset=changed, place=place, follows=follows)
            yield changed, told
        return
    if message.offset > after:
        if was_closed(message, head) and not streamed:
            yield message.offset, message.event(MessageCreated, uuid, offset=message.offset)
            return
        yield message.offset, as_open(message, uuid)
    if closed is not None and after < closed <= head:
        yield closed, message.event(CLOSING[Status(message.status)], uuid, offset=closed)
    elif after < changed <= head and message.offset <= after:
        yield changed, message.event(MessageUpdated, uuid)


def _own(conversation: Conversation, after: int, head: int) -> Iterator[Step]:
    """Tell what became of the conversation itself."""
    if after < conversation.changed_offset <= head:
        told = ConversationDeleted if conversation.deleted_at else ConversationUpdated
        yield conversation.changed_offset, conversation.event(told, offset=conversation.changed_offset)


def _packed(uuid: str, messages: dict[int, Message], steps: Iterable[Step]) -> Iterator[tuple[int, Event]]:
    for key, group in groupby(steps, key=_run_of):
        if key is None:
            yield from ((offset, what) for offset, what in group if isinstance(what, Event))
        else:
            for rows in _cut([what for _, what in group if not isinstance(what, Event)]):
                row = _joined(rows)
                yield row[2], update(uuid, messages[row[0]], row)


def _run_of(step: Step) -> tuple[Any, ...] | None:
    """Say what a step may be packed with: others of the same part of the same message."""
    what = step[1]
    return None if isinstance(what, Event) else (what[0], what[3], what[4])


def _cut(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Cut a run into such as fit into one event, at least one row each."""
    run: list[Row] = []
    size = 0
    for row in rows:
        if run and size + len(row[5]) > RUN:
            yield run
            run, size = [], 0
        run.append(row)
        size += len(row[5])
    yield run


def _joined(rows: Sequence[Row]) -> Row:
    message, sequence, offset, kind, part, _, _ = rows[-1]
    metadata: dict[str, Any] = {}
    for row in rows:
        metadata |= row[6] or {}
    return message, sequence, offset, kind, part, "".join(row[5] for row in rows), metadata
