"""What the AI SDK is told about a message besides its text. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from converse.choices import ChunkKind, FinishReason

Json = Any
Chunk = dict[str, Any]
Link = Callable[[str], str]  # an attachment's uuid to its address

WORDS = (ChunkKind.TEXT, ChunkKind.REASONING, ChunkKind.REFUSAL)
WEB = ("https://", "http://")

INTERRUPTED = "The call was interrupted."

# What our reasons are called there.
REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool-calls",
    FinishReason.CONTENT_FILTER: "content-filter",
    FinishReason.REFUSAL: "content-filter",
    FinishReason.STEPS: "tool-calls",
}


def finish_reason(state: Mapping[str, Any]) -> str:
    """Give the reason why a reply ended in the SDK's words."""
    return REASONS.get(state.get("finishReason", ""), "other")


def metadata(state: Mapping[str, Any]) -> dict[str, Any]:
    """Give a message's metadata: who reads them is the application, so they have our names."""
    keys = ("status", "createdAt", "finishedAt", "replyTo", "attempt", "model", "finishReason", "error", "metadata")
    usage = {key: count for key, count in state.get("usage", {}).items() if count is not None}
    told = {**{key: state.get(key) for key in keys}, "usage": usage}
    return {key: value for key, value in told.items() if value not in (None, "", {})}


def arguments(text: str) -> tuple[Json, bool]:
    """Give a call's arguments, and whether they could be read; as their text where not."""
    if not text.strip():
        return {}, True
    value = structure(text)
    return (text, False) if value is None else (value, True)


def output(text: str) -> Json:
    """Give a tool's result: an object or a list where it is one in JSON, else its text."""
    value = structure(text)
    return text if value is None else value


def structure(text: str) -> Json | None:
    """Read an object or a list in JSON; None for anything else, also for what no browser would read or take."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # half a character, escaped, would end the stream
        return None if poisoned(value) else value
    except (ValueError, RecursionError):
        return None


def _finite(number: str) -> float:
    """Read a number; raise ValueError for one that JSON cannot write, such as 1e999."""
    if not isfinite(value := float(number)):
        raise ValueError(number)
    return value


def poisoned(value: Json) -> bool:
    """Say whether the SDK would break off the whole stream for a key that can change what objects are."""
    if isinstance(value, Mapping):
        constructor = value.get("constructor")
        bad = "__proto__" in value or (isinstance(constructor, Mapping) and "prototype" in constructor)
        return bad or any(poisoned(item) for item in value.values())
    return isinstance(value, list) and any(poisoned(item) for item in value)


def source(number: int, part: Mapping[str, Any]) -> Chunk:
    """Give a source; as data where it has no address that a link may lead to."""
    url, title, text = (str(part.get(key) or "") for key in ("url", "title", "text"))
    if not url.lower().startswith(WEB):
        return {"type": "data-source", "id": f"source-{number}", "data": {"title": title, "text": text}}
    named = {"title": title} if title else {}
    quoted = {"providerMetadata": {"converse": {"text": text}}} if text else {}
    return {"type": "source-url", "sourceId": f"source-{number}", "url": url, **named, **quoted}


def file(part: Mapping[str, Any], link: Link) -> Chunk:
    """Give a file by the address of our own door."""
    known = {key: part[key] for key in ("attachment", "name", "size") if key in part}
    kind = str(part.get("mimeType") or "application/octet-stream")
    url = link(str(part.get("attachment", "")))
    return {"type": "file", "url": url, "mediaType": kind, "providerMetadata": {"converse": known}}


class Braces:
    """Says when the JSON object that comes in pieces is whole, without reading it again and again."""

    def __init__(self) -> None:
        self.whole = False
        self._depth = 0
        self._quoted = False
        self._escaped = False

    def feed(self, text: str) -> None:
        for character in text:
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                self.whole = self._depth == 0
