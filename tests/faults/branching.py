"""What people do to the branches of one conversation at the same time, and what must hold whatever they did."""

from __future__ import annotations

from random import Random
from typing import Any
from uuid import uuid4

from converse.exceptions import ConversationBusy, InvalidMessage, MessageClosed
from converse.log import walk
from converse.models import Conversation, Message

REFUSALS = (ConversationBusy, InvalidMessage, MessageClosed)
MOVES = ("add", "reply", "edit", "regenerate", "switch", "switch", "delete", "restore", "stop", "purge")


def play(conversation: str, seed: int, moves: int) -> list[str]:
    """Make so many moves at random; give those that were not refused."""
    dice = Random(seed)
    found = Conversation.objects.get(uuid=conversation)
    return [move for move in dice.choices(MOVES, k=moves) if _try(found, move, dice)]


def _try(conversation: Conversation, move: str, dice: Random) -> bool:
    messages = list(Message.all_objects.filter(conversation=conversation).order_by("offset"))
    try:
        if move in ("add", "reply"):
            _say(conversation, move)
            return True
        return bool(messages) and _change(dice.choice(messages), move)
    except (*REFUSALS, Message.DoesNotExist):
        return False


def _say(conversation: Conversation, move: str) -> None:
    if move == "add":
        conversation.create_user_message(uuid4().hex)
    else:
        conversation.reply(uuid4().hex)


def _change(message: Message, move: str) -> bool:
    match move:
        case "edit":
            message.edit(uuid4().hex)
        case "purge":
            removed, _ = message.purge()
            return bool(removed)
        case _:
            getattr(message, move)()
    return True


def branches(conversation: str) -> dict[str, Any]:
    """Give the marks of a conversation's messages, and the way from its leaf: the same offsets, if all is well."""
    found = Conversation.objects.get(uuid=conversation)
    rows = list(Message.all_objects.filter(conversation=found).order_by("offset"))
    follows = {row.offset: row.follows for row in rows}
    return {
        "marked": [row.offset for row in rows if row.current],
        "way": walk(follows, found.leaf_offset),
        "leaf": found.leaf_offset,
        "astray": [row.offset for row in rows if row.follows and row.follows not in follows],
        "early": [row.offset for row in rows if row.follows >= row.offset],
        "versions": len(rows),
        "open": sum(row.is_open and row.role == "assistant" for row in rows),
    }
