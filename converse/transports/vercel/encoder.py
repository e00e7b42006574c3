"""One reply as the chunks that ``useChat`` reads, however it comes: live, packed, or whole. No I/O.

Its rules are in docs/reference/chat.md: what the client throws at, and what must come in which order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from json import dumps
from typing import Any

from converse.choices import CLOSED, ChunkKind, Status
from converse.transports.vercel.calls import Called, Calls
from converse.transports.vercel.values import (
    WORDS,
    Chunk,
    Link,
    file,
    finish_reason,
    metadata,
    poisoned,
    source,
)

Told = tuple[str, Mapping[str, Any]]  # an event's name and data

FINISH_REASON = 6  # the version from which every client takes it with the end


class Encoder:
    """Keeps what the client knows of a reply, and says the rest.

    A client that goes on with a reply it has the first parts of is told those from ``seen`` on.
    """

    def __init__(self, message: str, sdk: int, link: Link, seen: int = 0) -> None:
        self.message = message
        self.sdk = sdk
        self.link = link
        self.seen = seen
        self.ended = False
        self.waits = False  # as far as it was told
        self.state: Mapping[str, Any] = {}
        self._chunks: list[Chunk] = []
        self._calls = Calls(sdk, self._emit)
        self._muted = False
        self._started = False
        self._step = False  # whether one is open
        self._results = False  # whether results came since the last step began
        self._tools = False  # whether the step has calls of tools
        self._open: tuple[str, str] | None = None  # of the part of words being written: what it is, and its id
        self._held = 0  # the last sequence of what was told whole
        self._told: dict[int, int] = {}  # how much of each part is told, in characters
        self._of_part: dict[int, Called] = {}

    def take(self, events: Iterable[Told]) -> list[Chunk]:
        """Give the chunks of what was told at one time. ``Snapshot`` is the message's whole state."""
        for updates, group in groupby(events, lambda event: event[0] == "StreamUpdate"):
            # A replay tells parts in the order in which they ended. They are shown as they began.
            for name, data in sorted(group, key=_part_of) if updates else group:
                self._event(name, data)
        return self._given()

    def rest(self) -> list[Chunk]:
        """Give the end for now of a reply that waits for a person."""
        self._close_words()
        self._calls.wait()
        self._end(self._finish())
        return self._given()

    def pause(self) -> list[Chunk]:
        """Give the end of what is told of a reply that goes on."""
        self._close_words()
        return self._given()

    def fail(self, text: str) -> list[Chunk]:
        """Give the end of a stream that cannot go on."""
        self._end({"type": "error", "errorText": text})
        return self._given()

    def _event(self, name: str, data: Mapping[str, Any]) -> None:
        if self.ended:
            return
        if name == "StreamUpdate":
            if data["sequence"] > self._held:
                facts = {"id": data.get("toolCallId"), "name": data.get("toolName"), **(data.get("data") or {})}
                self._grow(data["part"], data["kind"], data["chunk"], facts)
            return
        if name == "MessageDeleted":
            self._close({**self.state, "status": Status.CANCELLED.value})
            return
        self.state = data
        self._start()
        if data.get("content") is not None:
            self._whole(data)
        self.waits = data["status"] == Status.WAITING
        if data["status"] in CLOSED:
            self._close(data)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._chunks.append({"type": "start", "messageId": self.message, "messageMetadata": metadata(self.state)})

    def _whole(self, data: Mapping[str, Any]) -> None:
        """Take a state with all of the text in it, and tell what is new of it."""
        self._held = data["sequence"]
        parts = data.get("parts")
        if parts is None:  # the content is all there is
            known = sum(self._told.values())
            if more := data["content"][known:]:
                self._grow(max(self._told, default=0), ChunkKind.TEXT.value, more, {})
            return
        for number, part in enumerate(parts):
            text = part.get("arguments", part.get("output", part.get("text", "")))
            if part["type"] in (*WORDS, ChunkKind.TOOL_CALL):
                self._grow(number, part["type"], text[self._told.get(number, 0) :], part)
            elif number not in self._told:
                self._grow(number, part["type"], text, part)

    def _grow(self, number: int, kind: str, text: str, facts: Mapping[str, Any]) -> None:
        new = number not in self._told
        self._told[number] = self._told.get(number, 0) + len(text)
        self._mute(number < self.seen)
        if kind in WORDS:
            if text:
                self._say(number, kind, text)
        elif kind == ChunkKind.TOOL_CALL:
            self._call(number, text, facts, new=new)
        elif kind == ChunkKind.APPROVAL:
            self._close_words()
            self._calls.decide(self._called(number, facts), text, str(facts.get("reason") or ""))
        elif kind == ChunkKind.TOOL_RESULT:
            self._close_words()
            self._calls.finish(self._called(number, facts), text, is_error=bool(facts.get("isError")))
            self._results = self._tools = True
        elif kind == ChunkKind.SOURCE:
            self._add(source(number, {**facts, "text": text}))
        elif kind == ChunkKind.FILE:
            self._add(file(facts, self.link))

    def _say(self, number: int, kind: str, text: str) -> None:
        # What the model would not say is shown like what it says: no application has to know of it.
        what = "reasoning" if kind == ChunkKind.REASONING else "text"
        name = str(number)
        if self._open != (what, name):
            self._begin_part()
            self._open = (what, name)
            refused = {"providerMetadata": {"converse": {"kind": kind}}} if kind == ChunkKind.REFUSAL else {}
            self._emit({"type": f"{what}-start", "id": name, **refused})
        self._emit({"type": f"{what}-delta", "id": name, "delta": text})

    def _call(self, number: int, text: str, facts: Mapping[str, Any], *, new: bool) -> None:
        if new:
            self._begin_part()
            self._tools = True
            self._of_part[number] = self._called(number, facts)
        self._calls.grow(self._of_part[number], text)

    def _called(self, number: int, facts: Mapping[str, Any]) -> Called:
        """Give the call of an id; one that nobody has made where somebody streams results by hand."""
        name = str(facts.get("id") or f"call-{number}")
        return self._calls.known.setdefault(name, Called(name, str(facts.get("name") or "tool")))

    def _add(self, chunk: Chunk) -> None:
        self._begin_part()
        self._emit(chunk)

    def _begin_part(self) -> None:
        """End what was being said; after results, and at first, begin a step."""
        self._close_words()
        if self._results or not self._step:
            self._begin_step()

    def _begin_step(self) -> None:
        self._finish_step()
        self._emit({"type": "start-step"})
        self._step, self._results, self._tools = True, False, False

    def _finish_step(self) -> None:
        if self._step:
            self._emit({"type": "finish-step"})
            self._step = False

    def _close_words(self) -> None:
        if self._open:
            what, name = self._open
            self._open = None
            self._emit({"type": f"{what}-end", "id": name})

    def _close(self, state: Mapping[str, Any]) -> None:
        """Tell how the reply ended."""
        self._mute(False)
        self._close_words()
        status = state.get("status")
        if status != Status.COMPLETED:
            self._calls.interrupt()
        if (structured := state.get("structured")) is not None:
            told = dumps(structured) if poisoned(structured) else structured
            self._add({"type": "data-structured", "id": "structured", "data": told})
        elif self._tools and not self._calls.open and status != Status.FAILED:
            # A client that sends by itself when the last step has nothing but finished calls must not.
            self._results = True
            self._add({"type": "data-end", "id": "end", "data": {"status": status}})
        self.state = state
        if status == Status.FAILED:
            text = (state.get("error") or {}).get("message") or "The reply failed."
            self._end({"type": "error", "errorText": text})
        else:
            self._end({"type": "abort"} if status == Status.CANCELLED else self._finish())

    def _finish(self) -> Chunk:
        ended = self.sdk >= FINISH_REASON and self.state.get("status") == Status.COMPLETED
        return {"type": "finish", **({"finishReason": finish_reason(self.state)} if ended else {})}

    def _end(self, chunk: Chunk) -> None:
        self._mute(False)
        self._finish_step()
        if self._started:
            self._emit({"type": "message-metadata", "messageMetadata": metadata(self.state)})
        self._emit(chunk)
        self.ended = True

    def _mute(self, muted: bool) -> None:
        """Say no more, or say what comes: the client has what was said so far."""
        if self._muted and not muted:
            self._open = None
            self._step = False
            for call in self._calls.open:
                call.asked = True
        self._muted = muted

    def _emit(self, chunk: Chunk) -> None:
        if not self._muted:
            self._chunks.append(chunk)

    def _given(self) -> list[Chunk]:
        given, self._chunks = self._chunks, []
        return given


def _part_of(event: Told) -> int:
    part: int = event[1]["part"]
    return part
