"""The parts of a message, in streamed order: as values for providers, and as stored, JSON with a ``type``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converse.choices import ChunkKind
from converse.events import camel


@dataclass(frozen=True, slots=True)
class Text:
    """What was said; a ``signature`` goes back with it to the provider that signed."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What was thought. Without a signature no provider takes it back."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool; ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str
    signature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """What the call of this ``id`` gave, as text."""

    id: str
    name: str
    output: str
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """An attachment with its bytes."""

    name: str
    mime_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """A block that its provider gave and gets back as it was; see ``RawBlock``."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An attachment by reference: its uuid, and what readers are told of it."""

    attachment: str
    name: str
    mime_type: str
    size: int


Part = Text | Reasoning | ToolCall | ToolResult | File | Raw

# Where the text of a part of each kind is kept; under "text" for all others.
TEXT_KEY = {ChunkKind.TOOL_CALL: "arguments", ChunkKind.TOOL_RESULT: "output"}

# What readers are told of the parts of each kind, besides their text.
PUBLIC: Mapping[str, tuple[str, ...]] = {
    ChunkKind.TEXT: (),
    ChunkKind.REASONING: (),
    ChunkKind.REFUSAL: (),
    ChunkKind.TOOL_CALL: ("id", "name"),
    ChunkKind.TOOL_RESULT: ("id", "name", "is_error"),
    ChunkKind.APPROVAL: ("id", "name", "reason"),
    ChunkKind.SOURCE: ("url", "title"),
    ChunkKind.FILE: ("attachment", "name", "mime_type", "size"),
    ChunkKind.RAW: (),  # that there is one: the parts keep their numbers
}

# Marks for one request; kept in a history they would pile up until its provider refuses it.
TRANSIENT = ("cache_control", "cache_type", "provider_options")

CALLS = (ChunkKind.TOOL_CALL, ChunkKind.TOOL_RESULT, ChunkKind.APPROVAL)


def facts(kind: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Give what a StreamUpdate tells of a chunk besides its text."""
    if not metadata:
        return {}
    told = {name: metadata[name] for name in PUBLIC[kind] if name in metadata}
    called = {"tool_call_id": told.pop("id", None), "tool_name": told.pop("name", None)} if kind in CALLS else {}
    return {**called, "data": {camel(name): value for name, value in told.items()} or None}


def stored(kind: str, text: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Give a part as it is stored: what is known of it, but for what was meant for one request only, and its text."""
    kept = {name: _lasting(value) for name, value in _lasting(facts).items()}
    return {**kept, "type": kind, TEXT_KEY.get(ChunkKind(kind), "text"): text}


def _lasting(facts: Any) -> Any:
    return {name: facts[name] for name in facts if name not in TRANSIENT} if isinstance(facts, Mapping) else facts


def public(part: Mapping[str, Any]) -> dict[str, Any]:
    """Give a stored part for readers, without what only its provider needs."""
    kind = part["type"]
    key = TEXT_KEY.get(kind, "text")
    return {camel(name): part[name] for name in ("type", key, *PUBLIC[kind]) if name in part}
