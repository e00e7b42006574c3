"""The wire vocabulary: an event's class name is its name on the wire, its fields in camelCase are its keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar


def camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.title() for word in tail)


@cache
def wire_names(event: Any) -> tuple[tuple[str, str, bool], ...]:
    """Give (attribute, key, whether null is left out) for each field of an event class."""
    return tuple((f.name, camel(f.name), f.metadata.get("optional", False)) for f in fields(event))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that readers of a conversation are told."""

    name: ClassVar[str] = ""
    layer_type: ClassVar[str] = ""

    conversation_id: str

    def __init_subclass__(cls) -> None:
        # A dataclass with slots is made twice; both times it gets the same two names.
        cls.name = cls.__name__
        cls.layer_type = re.sub(r"(?<!^)(?=[A-Z])", ".", cls.__name__).lower()

    def wire(self) -> dict[str, Any]:
        """Give the event's data as JSON-ready keys and values."""
        names = wire_names(type(self))  # type: ignore[arg-type]  # a class is hashable, whatever mypy takes it for
        named = ((key, getattr(self, attribute), optional) for attribute, key, optional in names)
        return {key: value for key, value, optional in named if not (optional and value is None)}


def _optional() -> Any:
    return field(default=None, metadata={"optional": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamUpdate(Event):
    """Text was added to a streaming message."""

    message_id: str
    chunk: str
    sequence: int
    offset: int | None = _optional()
    kind: str = "text"
    part: int = 0
    attempt: int = 1
    tool_call_id: str | None = _optional()
    tool_name: str | None = _optional()
    data: Mapping[str, Any] | None = _optional()


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEvent(Event):
    """The state of a message, as a reader may see it."""

    message_id: str
    offset: int
    role: str
    status: str
    content: str | None = _optional()
    parts: Sequence[Mapping[str, Any]] | None = _optional()
    sequence: int = 0
    follows: int = 0
    reply_to: str | None = None
    attempt: int = 1
    client_id: str | None = None
    created_at: str | None = None
    finished_at: str | None = None
    provider: str = ""
    model: str = ""
    finish_reason: str = ""
    usage: Mapping[str, int | None] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    structured: object | None = _optional()
    error: Mapping[str, str] | None = _optional()


class MessageCreated(MessageEvent):
    """A message was added."""

    __slots__ = ()


class MessageUpdated(MessageEvent):
    """What is known about a message changed; its text did not."""

    __slots__ = ()


class MessageCompleted(MessageEvent):
    """A message closed without error."""

    __slots__ = ()


class MessageFailed(MessageEvent):
    """A message closed with an error; what had come of it is kept."""

    __slots__ = ()


class MessageCancelled(MessageEvent):
    """A message was stopped; what had come of it is kept."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDeleted(Event):
    """A message was removed from the conversation; what followed it now follows what it followed."""

    message_id: str
    offset: int
    place: int
    follows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationEvent(Event):
    """The state of a conversation, as a reader may see it."""

    offset: int
    title: str = ""
    leaf: int = 0


class ConversationCreated(ConversationEvent):
    """A conversation was started."""

    __slots__ = ()


class ConversationUpdated(ConversationEvent):
    """A conversation's title or other particulars changed, or its log was renumbered."""

    __slots__ = ()


class ConversationDeleted(ConversationEvent):
    """A conversation was removed."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay(Event):
    """Everything between a reader's cursor and ``offset``, packed; to be applied as a whole."""

    epoch: str
    offset: int
    events: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Event):
    """A conversation as of ``offset``: forget what was there, take this."""

    epoch: str
    offset: int
    conversation: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    gone: Sequence[Mapping[str, int]] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Typing(Event):
    """Somebody is typing."""

    user: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Here(Event):
    """Who is in the conversation now."""

    users: Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining(Event):
    """Somebody came into the conversation."""

    user: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving(Event):
    """Somebody left the conversation."""

    user: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whispered(Event):
    """Something was said in a channel of a conversation. Not stored."""

    channel: str
    event: str
    data: str  # JSON, or any text
    user_id: str = ""


def frame(event: Event) -> dict[str, Any]:
    """Give an event as it travels: its name and its data."""
    return {"event": event.name, "data": event.wire()}
