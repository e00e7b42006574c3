"""Names of channels and events: which there are, and what they stand for. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from converse import events
from converse.conf import settings
from converse.events import Event

ALLOWED = re.compile(r"[A-Za-z0-9_\-=@,.;]{1,200}")
DOUBLED = re.compile(r"^(?:private-){2,}")  # useEcho() puts one before a name that has one already
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
CONVERSATION = re.compile(rf"(private|presence|private-cache)-conversation\.({UUID})")
USER = re.compile(r"private-user\.(.+)")
SERVER_TO_USER = "#server-to-user-"

# Names by which the original's front ends listen. Both forms, for listen("message.created") asks for the second.
ALIASES = {
    "MessageCreated": "message.created",
    "MessageUpdated": "message.updated",
    "MessageCompleted": "message.completed",
    "MessageFailed": "message.failed",
    "MessageCancelled": "message.cancelled",
    "StreamUpdate": "chunk.received",
}


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel as a client names it, and what that stands for."""

    given: str
    canonical: str
    conversation: str = ""  # uuid
    user: str = ""  # id
    presence: bool = False
    cache: bool = False  # whether it begins with a snapshot

    @property
    def signs_in(self) -> bool:
        """Whether it takes no signature, only that the socket signed in."""
        return self.given.startswith(SERVER_TO_USER)


def channel(name: Any) -> Channel | None:
    """Read a channel's name; None for any that there is not."""
    if not isinstance(name, str):
        return None
    if name.startswith(SERVER_TO_USER):
        user = name.removeprefix(SERVER_TO_USER)
        return Channel(name, name, user=user) if 0 < len(user) <= 128 else None
    if not ALLOWED.fullmatch(name):
        return None
    canonical = DOUBLED.sub("private-", name)
    if found := CONVERSATION.fullmatch(canonical):
        kind, uuid = found.groups()
        return Channel(name, canonical, conversation=uuid, presence=kind == "presence", cache=kind == "private-cache")
    if found := USER.fullmatch(canonical):
        return Channel(name, canonical, user=found[1])
    return None


def event_name(name: str) -> str:
    """Give the name of an event as ``listen(name)`` asks for it."""
    space = settings.CONVERSE_ECHO_NAMESPACE.replace(".", "\\")
    return f"{space}\\{name}" if space else name


def aliases(name: str) -> list[str]:
    """Give the other names under which an event is told, where the settings want them."""
    if not settings.CONVERSE_ECHO_ALIASES or name not in ALIASES:
        return []
    alias = ALIASES[name]
    return [alias, event_name(alias.replace(".", "\\"))]


RESERVED = {
    "Whispered",
    *ALIASES.values(),
    *(
        name
        for name, value in vars(events).items()
        if isinstance(value, type) and issubclass(value, Event) and value is not Event
    ),
}


def is_reserved(name: str) -> bool:
    """Say whether an event of this name could be taken for one of the log, or of the protocol."""
    plain = "." + name.replace("\\", ".")
    return ":" in name or any(plain.endswith(f".{word}") for word in RESERVED)
