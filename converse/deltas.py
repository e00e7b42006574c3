"""What a provider yields: frozen values, each a fragment in flight or a fact about the reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from converse.choices import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The provider accepted the request."""

    request_id: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A fragment of the answer. One with a ``signature`` is a part of its own, to be sent back as it came."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningDelta:
    """A fragment of the model's reasoning; a signature, where a provider sends one, closes its block."""

    text: str = ""
    signature: str | None = None


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """A fragment of a refusal that the provider keeps apart from the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A fragment of a tool call's JSON arguments; ``index`` joins the fragments of one call.

    The first fragment of a call carries ``id`` and ``name``, and ``signature`` where a provider signs its calls.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    signature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDelta:
    """A source that the answer cites: where it is, what it is called, the passage that is quoted."""

    url: str = ""
    title: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDelta:
    """A file that the provider made, whole."""

    data: bytes
    mime_type: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class RawBlock:
    """A block of the reply that means something to its provider only; goes back to it as it came, and to nobody else.

    ``data`` is JSON: redacted thinking, encrypted reasoning, calls and results of the provider's own tools.
    """

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts so far; null is unknown, and ``input`` excludes what was read from or written to a cache.

    A later ``Usage`` of the same reply replaces an earlier one. ``raw`` is what the provider wrote.
    """

    input: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    output: int | None = None
    reasoning: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The provider's own end of the reply; a stream without one is truncated. ``raw`` is the provider's word."""

    reason: FinishReason
    raw: str = ""


Delta = (
    Started
    | TextDelta
    | ReasoningDelta
    | RefusalDelta
    | ToolCallDelta
    | SourceDelta
    | FileDelta
    | RawBlock
    | Usage
    | Finish
)
