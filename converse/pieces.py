"""What can be appended to an open message: taken apart into fragments of its parts, which are numbered here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from converse.choices import ChunkKind
from converse.deltas import RawBlock, ReasoningDelta, RefusalDelta, SourceDelta, TextDelta, ToolCallDelta
from converse.drafts import jsonable
from converse.exceptions import InvalidMessage
from converse.flushes import Fragment
from converse.parts import StoredFile, ToolResult

Piece = (
    str | TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | ToolResult | SourceDelta | StoredFile | RawBlock
)

# Each of these is a part of its own.
ALONE = (ChunkKind.TOOL_RESULT, ChunkKind.SOURCE, ChunkKind.FILE, ChunkKind.RAW)


class Parts:
    """The parts of one message as they grow: a change of kind begins a new one."""

    def __init__(self) -> None:
        self.origin = ""  # whose signatures and raw blocks are being appended
        self.touched = False  # whether anything was appended since the last begin_step()
        self._place: tuple[str, Any] | None = None  # the kind and key of the part being written
        self._numbers: dict[tuple[str, Any], int] = {}
        self._highest = -1

    def begin_step(self, origin: str) -> None:
        """Begin a provider's answer: its calls are numbered anew, its signatures are of this origin."""
        self.origin = origin
        self.touched = False
        self._place = None
        self._numbers = {}

    def go_on(self, kind: str, part: int, highest: int) -> None:
        """Go on after a chunk of this kind and part, in a message whose parts are numbered up to ``highest``."""
        self._highest = highest
        self._place = (kind, None)
        self._numbers[self._place] = part

    def fragment(self, piece: Piece, metadata: Mapping[str, Any] | None) -> Fragment | None:
        """Give a piece as a fragment to be stored; None for an empty one. Raise InvalidMessage."""
        kind, text, facts = read(piece)
        if not text and not facts:
            return None
        self.touched = True
        key = piece.index if isinstance(piece, ToolCallDelta) else None
        signed = "signature" in facts
        if self.origin and (signed or kind == ChunkKind.RAW):
            facts["origin"] = self.origin
        alone = kind in ALONE or (signed and kind == ChunkKind.TEXT)
        part = self._part_of(kind, key, alone=alone)
        if alone or (signed and kind == ChunkKind.REASONING):
            self._place = None  # a signature closes its part
        return Fragment(kind, part, {**jsonable(metadata), **facts} or None, text)

    def _part_of(self, kind: str, key: Any = None, *, alone: bool = False) -> int:
        """Number the parts: a change of kind begins a new one; fragments of a tool call find theirs again."""
        place = (kind, key)
        if alone or (place != self._place and (key is None or place not in self._numbers)):
            self._highest += 1
            self._numbers[place] = self._highest
        self._place = place
        return self._numbers[place]


def read(piece: Piece) -> tuple[str, str, dict[str, Any]]:
    """Take a piece apart: its kind, its text, and what else its chunk keeps."""
    match piece:
        case str():
            return ChunkKind.TEXT.value, piece, {}
        case TextDelta():
            return ChunkKind.TEXT.value, piece.text, _known(signature=piece.signature)
        case RefusalDelta():
            return ChunkKind.REFUSAL.value, piece.text, {}
        case ReasoningDelta():
            return ChunkKind.REASONING.value, piece.text, _known(signature=piece.signature)
        case ToolCallDelta():
            named = _known(id=piece.id, name=piece.name, signature=piece.signature)
            return ChunkKind.TOOL_CALL.value, piece.arguments, named
        case ToolResult():
            named = _known(id=piece.id, name=piece.name, is_error=piece.is_error)
            return ChunkKind.TOOL_RESULT.value, piece.output, named
        case SourceDelta():
            return ChunkKind.SOURCE.value, piece.text, _known(url=piece.url, title=piece.title)
        case StoredFile():
            return ChunkKind.FILE.value, "", asdict(piece)
        case RawBlock():
            return ChunkKind.RAW.value, "", {"data": dict(piece.data)}
        case _:
            raise InvalidMessage(f"must be text or a delta, not {type(piece).__name__}")


def _known(**facts: Any) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value}


def kind_and_text(piece: Piece) -> tuple[str, str]:
    """Give the kind of a piece and its text."""
    kind, text, _ = read(piece)
    return kind, text
