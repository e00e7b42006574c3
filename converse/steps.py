"""Stored messages as turns of a prompt, mended: whatever became of a reply, no provider refuses it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from converse.choices import ChunkKind, Role, Status
from converse.parts import Part, Raw, Reasoning, StoredFile, Text, ToolCall, ToolResult

if TYPE_CHECKING:
    from converse.models import Message

Stored = Mapping[str, Any]
Piece = Part | StoredFile

INTERRUPTED = "No result: the call was interrupted."

# Whoever adds calls and results as messages of their own writes them as their provider did.
CALL_IDS = ("id", "tool_call_id", "toolCallId", "call_id")
NAMES = ("name", "tool_name", "toolName", "function_name")
ARGUMENTS = ("arguments", "args", "input")
OUTPUTS = ("output", "result", "content")


@dataclass(slots=True)
class Step:
    """What an assistant said at one go, and what the tools that it called gave back."""

    said: list[Stored] = field(default_factory=list)
    results: list[Stored] = field(default_factory=list)
    cut: bool = False  # whether it may have been stopped in the middle of it

    def take(self, result: Stored) -> bool:
        """Take a result that one of the step's calls waits for; say whether any does."""
        given = [known["id"] for known in self.results]
        for call in self.said:
            if call["type"] != ChunkKind.TOOL_CALL or not _matches(call, result):
                continue
            if call["id"] in given:
                given.remove(call["id"])
                continue
            self.results.append({**result, "id": call["id"], "name": call["name"]})
            return True
        return False


@dataclass(slots=True)
class Turn:
    """A stored message, with those that belong to it, as the messages of a prompt that come of it."""

    offset: int
    role: str
    pinned: bool = False
    rows: int = 1
    own: bool = False  # whether it is the reply that is being asked for
    steps: list[Step] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)  # of the user's or the system's

    def messages(self, origin: str) -> Iterator[tuple[str, list[Piece]]]:
        """Yield roles and parts; signatures and raw blocks only where they are of this origin."""
        if self.pieces:
            yield self.role, self.pieces
        for step in self.steps:
            sent = _Sent(step, origin, own=self.own)
            if sent.pieces:
                yield Role.ASSISTANT.value, sent.pieces
            if sent.results:
                yield Role.TOOL_RESULT.value, sent.results


def turns_of(rows: Iterable[Message]) -> list[Turn]:
    """Read stored messages, oldest first; those that say nothing are left out."""
    turns: list[Turn] = []
    for row in rows:
        if row.role in (Role.USER, Role.SYSTEM):
            turns.append(Turn(row.offset, row.role, row.pinned, pieces=list(_pieces_of(row))))
        elif row.role == Role.ASSISTANT:
            turns.append(_reply(row, row.parts or [{"type": ChunkKind.TEXT, "text": row.content}]))
        elif row.role == Role.TOOL_CALL:
            _join(turns, row, _calls_of(row))
        else:
            _join(turns, row, _results_of(row))
    return [turn for turn in turns if turn.steps or turn.pieces]


def own_turn(row: Message) -> Turn:
    """Give what the reply that is being asked for has come to so far."""
    turn = _reply(row, row.parts)
    turn.own = True
    return turn


def _reply(row: Message, parts: Iterable[Stored]) -> Turn:
    turn = Turn(row.offset, Role.ASSISTANT.value, row.pinned)
    for part in parts:
        if part["type"] == ChunkKind.TOOL_RESULT:
            _answer([turn], part)
        elif part["type"] != ChunkKind.APPROVAL:
            _say(turn, part)
    if turn.steps:
        turn.steps[-1].cut = row.status == Status.CANCELLED and not turn.steps[-1].results
    return turn


def _say(turn: Turn, part: Stored) -> None:
    """Add to a turn; a new step begins where something is said after results."""
    if not turn.steps or turn.steps[-1].results:
        turn.steps.append(Step())
    turn.steps[-1].said.append({"id": "", "name": "", **part})


def _answer(turns: Iterable[Turn], result: Stored) -> None:
    """Put a result where the call is that waits for it; one that none waits for is dropped."""
    for turn in turns:
        if any(step.take(result) for step in reversed(turn.steps)):
            return


def _join(turns: list[Turn], row: Message, parts: Iterable[Stored]) -> None:
    """Add a message that is a call or a result by itself to what the assistant said before it."""
    start = len(turns)
    while start and turns[start - 1].role != Role.USER:
        start -= 1
    since = [turn for turn in turns[start:] if turn.role != Role.SYSTEM]
    for part in parts:
        if part["type"] == ChunkKind.TOOL_RESULT:
            _answer(reversed(since), part)
            continue
        if not since or since[-1] is not turns[-1] or any(step.cut for step in since[-1].steps):
            since.append(Turn(row.offset, Role.ASSISTANT.value, rows=0))
            turns.append(since[-1])
        _say(since[-1], part)
    if since:
        since[-1].rows += 1
        since[-1].pinned = since[-1].pinned or row.pinned


def _matches(call: Stored, result: Stored) -> bool:
    if result["id"]:
        return bool(call["id"] == result["id"])
    return not result["name"] or bool(call["name"] == result["name"])


# What stored parts become.


def _pieces_of(row: Message) -> Iterator[Piece]:
    for part in row.parts or [{"type": ChunkKind.TEXT, "text": row.content}]:
        if part["type"] == ChunkKind.TEXT and part["text"].strip():
            yield Text(part["text"])
        elif part["type"] == ChunkKind.FILE:
            yield file_of(part)


def file_of(part: Stored) -> StoredFile:
    return StoredFile(
        attachment=part["attachment"], name=part["name"], mime_type=part["mime_type"], size=part.get("size") or 0
    )


class _Sent:
    """A step as it goes to a provider."""

    def __init__(self, step: Step, origin: str, *, own: bool) -> None:
        self.origin = origin
        self.own = own
        self.cut = self.broken = step.cut
        self.given = list(step.results)
        self.pieces: list[Piece] = []
        self.results: list[Piece] = []
        for part in step.said:
            self._add(part)
        if self.broken:  # a block of the provider's may be half of what it means
            self.pieces = [piece for piece in self.pieces if not isinstance(piece, Raw)]
        if not own:
            self.pieces = _telling(self.pieces)

    def _add(self, part: Stored) -> None:
        ours = bool(self.origin) and part.get("origin") == self.origin
        signature = part.get("signature") if ours else None
        match part["type"]:
            case ChunkKind.TEXT | ChunkKind.REFUSAL if part["text"] or signature:
                self.pieces.append(Text(part["text"], signature))
            case ChunkKind.REASONING if signature or self._goes_on(part):
                self.pieces.append(Reasoning(part["text"], signature))
            case ChunkKind.RAW if ours:
                self.pieces.append(Raw(part["data"]))
            case ChunkKind.FILE:
                self.pieces.append(file_of(part))
            case ChunkKind.TOOL_CALL:
                self._call(part, signature)

    def _call(self, part: Stored, signature: str | None) -> None:
        """Add a call with its result, or with one that says that there is none."""
        result = next((result for result in self.given if result["id"] == part["id"]), None)
        arguments = _arguments_of(part, answered=result is not None, cut=self.cut)
        if arguments is None:
            self.broken = True
            return
        call = ToolCall(id=part["id"], name=part["name"], arguments=arguments, signature=signature)
        output, error = INTERRUPTED, True
        if result is not None:
            self.given.remove(result)
            output, error = result.get("output", ""), bool(result.get("is_error"))
        self.pieces.append(call)
        self.results.append(ToolResult(id=call.id, name=call.name, output=output, is_error=error))

    def _goes_on(self, part: Stored) -> bool:
        """Say whether reasoning is the reply's own that nobody signs: between its steps some servers want it back."""
        return self.own and bool(self.origin) and "signature" not in part


def _telling(pieces: list[Piece]) -> list[Piece]:
    """Leave out reasoning that nothing came of, and everything where nothing was said."""
    while pieces and isinstance(pieces[-1], Reasoning):
        pieces = pieces[:-1]
    return pieces if any(map(_tells, pieces)) else []


def _tells(piece: Piece) -> bool:
    if isinstance(piece, Text):
        return bool(piece.text.strip() or piece.signature)
    return isinstance(piece, ToolCall | StoredFile)


def _arguments_of(call: Stored, *, answered: bool, cut: bool) -> str | None:
    """Give a call's arguments, as they were written where they are a JSON object.

    None where they were cut off. What was answered all the same stays, for its result says what was wrong with it.
    """
    text: str = call.get("arguments", "")
    if not call["id"] or not call["name"]:
        return None
    if not text.strip():
        return None if cut else "{}"
    if isinstance(_json(text), dict):
        return text
    return json.dumps({"arguments": text}) if answered else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# Calls and results that were added as messages of their own.


def _calls_of(row: Message) -> Iterator[Stored]:
    """Read calls from JSON content, one or a list, or from metadata, where the content may be the arguments."""
    found = _json(row.content)
    known = _first(row.metadata, NAMES)
    for item in found if isinstance(found, list) else [found]:
        told = item if isinstance(item, dict) else {}
        told = {**told, **told["function"]} if isinstance(told.get("function"), dict) else told
        name = _first(told, NAMES)
        if name is None or known not in (None, name):  # the arguments only
            told, name = {"arguments": _first(row.metadata, ARGUMENTS) or told}, known
        arguments = _first(told, ARGUMENTS) or {}
        yield {
            "type": ChunkKind.TOOL_CALL,
            "id": str(_first(told, CALL_IDS) or _first(row.metadata, CALL_IDS) or f"call_{row.offset}"),
            "name": str(name or ""),
            "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
        }


def _results_of(row: Message) -> Iterator[Stored]:
    """Read results from JSON content, one or a list, or from metadata, where the content is the output."""
    found = _json(row.content)
    known = _first(row.metadata, CALL_IDS)
    wanted = CALL_IDS if known is None else CALL_IDS[1:]  # an id in an output may be anything's
    items = found if isinstance(found, list) else [found]
    told = [item for item in items if isinstance(item, dict) and _first(item, wanted)]
    for item in told or [{**row.metadata, "output": row.content}]:
        output = _first(item, OUTPUTS)
        yield {
            "type": ChunkKind.TOOL_RESULT,
            "id": str(_first(item, CALL_IDS[1:]) or _first(item, CALL_IDS) or ""),
            "name": str(_first(item, NAMES) or ""),
            "output": output if isinstance(output, str) else json.dumps(output),
            "is_error": bool(item.get("is_error") or item.get("isError")),
        }


def _first(told: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Give the first value that there is under any of several names."""
    return next((told[name] for name in names if told.get(name) not in (None, "")), None)
