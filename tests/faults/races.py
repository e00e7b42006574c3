"""The moves that two processes make at the same moment: each gives what came of it, in one word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from converse.approvals import suspend
from converse.choices import Role, Status
from converse.closing import settle_abandoned
from converse.deltas import ToolCallDelta
from converse.driving import run
from converse.exceptions import AnotherWriter, ConversationBusy, InvalidMessage, MessageClosed
from converse.models import Conversation, Message

REFUSALS = (AnotherWriter, ConversationBusy, InvalidMessage, MessageClosed)
SCRIPT = '{"deltas": 3, "pause": 0, "size": 30}'

_next: list[Callable[[], str | None]] = []


def prepare(status: str) -> dict[str, str]:
    """Make a conversation with a message to fight over."""
    conversation = Conversation.objects.start()
    turn = conversation.create_user_message(SCRIPT)
    message = conversation.start_streaming_assistant()
    fields: dict[str, Any] = {"reply_to": turn, "provider": "default"}
    match status:
        case Status.STREAMING:
            message.append_chunk("Once ")
        case Status.PENDING:
            fields["status"] = status
        case "abandoned":
            Message.objects.filter(pk=message.pk).renew(-1)
        case Status.COMPLETED:
            message.complete_streaming()
        case Status.WAITING | "waiting twice":
            fields["plan"] = {"tools": ["tests.faults.tools.pay"]}
            for index in range(1 if status == Status.WAITING else 2):
                call = ToolCallDelta(index=index, id=f"c{index}", name="pay", arguments=f'{{"amount": {index}}}')
                message.stream.append(call)
            suspend(message)
    Message.objects.filter(pk=message.pk).update(**fields)
    return {"conversation": str(conversation.uuid), "message": str(message.uuid)}


def get_ready(move: str, conversation: str, message: str) -> None:
    """Prepare for a move: all that comes before the race."""
    found = Message.objects.select_related("reply_to").get(uuid=message)
    _next.append(MOVES[move](Conversation.objects.get(uuid=conversation), found))


def go(at: float) -> str:
    """Make the move at a given moment; give ``won``, or how it was refused."""
    make = _next.pop()
    while time.time() < at:
        pass
    try:
        return make() or "won"
    except REFUSALS as exc:
        return type(exc).__name__


def append(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    message.append_chunk("")  # adds nothing, but now both know the same last chunk
    return lambda: message.append_chunk(f"{uuid4().hex} ") and None


def complete(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: message.complete_streaming() and None


def fail(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: message.fail_streaming("why") and None


def stop(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: None if message.stop() else "late"


def settle(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: None if settle_abandoned([conversation.pk]) else "late"


def send(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: conversation.reply("hello") and None


def send_once(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: str(conversation.reply("hello", external_id="the same").uuid)


def replace(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: conversation.reply("hello", policy="cancel_previous") and None


def retry(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: message.retry() and None


def drive(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: asyncio.run(run(message.pk))


def approve(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: message.approve("c0")


def approve_other(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: message.approve("c1")


def deny(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: message.deny("c0", reason="no")


def delete(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: conversation.delete() and None


def edit(conversation: Conversation, message: Message) -> Callable[[], str | None]:
    return lambda: message.reply_to.edit(f"again {uuid4().hex}") and None


MOVES = {
    move.__name__: move
    for move in (
        *(append, complete, fail, stop, settle, send, send_once, replace, retry, drive),
        *(approve, approve_other, deny, delete, edit),
    )
}


def audit(conversation: str) -> dict[str, Any]:
    """Give what the log and the messages of a conversation look like."""
    found = Conversation.objects.get(uuid=conversation)
    messages = list(found.messages.order_by("offset"))
    chunks = [list(message.chunks.values_list("sequence", "offset", "content")) for message in messages]
    created = [message.offset for message in messages]
    closed = [m.closed_offset for m in messages if m.closed_offset and m.closed_offset != m.offset]
    return {
        "head": found.last_offset,
        "offsets": sorted([found.changed_offset, *created, *closed, *(row[1] for rows in chunks for row in rows)]),
        "whole": all(
            [row[0] for row in rows] == list(range(1, len(rows) + 1))
            and (message.is_open or not rows or message.content == "".join(row[2] for row in rows))
            for message, rows in zip(messages, chunks, strict=True)
        ),
        "open": sum(message.is_open for message in messages),
        "users": sum(message.role == Role.USER for message in messages),
        "statuses": [str(message.status) for message in messages],
        "content": messages[1].text,
    }
