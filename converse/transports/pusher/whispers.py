"""What is said in a channel and not stored: by its clients, by your code, by programs of others."""

from __future__ import annotations

import hashlib
from typing import Any

from converse.broadcasting import layer, publish
from converse.events import Whispered
from converse.models import Conversation
from converse.transports.pusher.names import Channel, channel, is_reserved
from converse.transports.pusher.protocol import EVENT_LIMIT, OWN, encoded, is_text

PREFIX = "client-"
TYPE = "converse.user"  # of a message to a user's group


def group_of(user_id: str) -> str:
    """Name the group of a user: whatever an id is, layers take this."""
    return f"converse.user.{hashlib.sha256(user_id.encode()).hexdigest()[:32]}"


async def say(where: Channel, event: str, data: str, *, user_id: str = "", but: str = "") -> None:
    """Say something in a channel, to all sockets but one."""
    if where.conversation:
        told = Whispered(
            conversation_id=where.conversation, channel=where.canonical, event=event, data=data, user_id=user_id
        )
        publish("", [told], origin=but)
    elif found := layer():
        message = {"type": TYPE, "channel": where.canonical, "event": event, "data": data, "but": but}
        await found.group_send(group_of(where.user), message)


def mistake_in(event: str) -> str:
    """Say what is wrong with the name of an event that is not the log's; nothing where it is fine."""
    if not 0 < len(event) <= EVENT_LIMIT:
        return f"must have 1 to {EVENT_LIMIT} characters"
    if event.startswith((*OWN, PREFIX)) or is_reserved(event):
        return "is a name of Converse's own or of the protocol's"
    if not is_text(event):
        return "must be text that can be written down"
    return ""


async def atrigger(where: Conversation | str, event: str, data: Any, *, socket_id: str | None = "") -> None:
    """Tell those who follow a conversation, or a channel by its name, something of your own. It is not stored.

    With the ``X-Socket-ID`` of a request as ``socket_id`` the socket that it came from is left out. Raise ValueError
    for a name that is Converse's own, and for a channel that there cannot be.
    """
    name = f"private-conversation.{where.uuid}" if isinstance(where, Conversation) else where
    found = channel(name)
    if found is None:
        raise ValueError(f"There is no channel {name!r}.")
    if mistake := mistake_in(event):
        raise ValueError(f"{event!r} {mistake}.")
    await say(found, event, encoded(data), but=socket_id or "")
