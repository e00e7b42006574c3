"""A reply's calls of tools in the words of the AI SDK, as far as each version has them. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from converse.approvals import Decision
from converse.transports.vercel.values import INTERRUPTED, Braces, Chunk, arguments, output

APPROVALS = 6  # the version from which a person's approval has words of its own
RESPONSES = 7  # the one from which the server may tell a decision

Emit = Callable[[Chunk], None]


@dataclass(slots=True)
class Called:
    """A call of a tool, and how far the client knows of it."""

    id: str
    name: str = ""
    text: str = ""
    decision: str = ""
    reason: str = ""
    begun: bool = False
    available: bool = False
    asked: bool = False  # whether the client knows that somebody has to decide
    done: bool = False
    braces: Braces = field(default_factory=Braces)

    @property
    def denied(self) -> bool:
        return self.decision == Decision.DENIED


class Calls:
    """The calls of one reply."""

    def __init__(self, sdk: int, emit: Emit) -> None:
        self.sdk = sdk
        self.known: dict[str, Called] = {}
        self._emit = emit

    def grow(self, call: Called, text: str) -> None:
        """Take in more of a call's arguments."""
        call.text += text
        if call.available:
            return  # no more than white space, or the provider would have to call anew
        if not call.begun:
            call.begun = True
            self._emit({"type": "tool-input-start", "toolCallId": call.id, "toolName": call.name})
        if text:
            self._emit({"type": "tool-input-delta", "toolCallId": call.id, "inputTextDelta": text})
        call.braces.feed(text)
        if call.braces.whole:
            self.complete(call)

    def complete(self, call: Called) -> bool:
        """Say that the arguments are there, if they are any; say whether they are."""
        value, readable = arguments(call.text)
        if readable and not call.available:
            call.available = True
            self._emit({"type": "tool-input-available", "toolCallId": call.id, "toolName": call.name, "input": value})
        return readable

    def ask(self, call: Called) -> None:
        """Say that somebody has to decide about a call."""
        if call.asked:
            return
        self.complete(call)
        call.asked = True
        if self.sdk >= APPROVALS:
            self._emit({"type": "tool-approval-request", "approvalId": call.id, "toolCallId": call.id})
        else:
            self._emit(_approval(call))

    def decide(self, call: Called, decision: str, reason: str) -> None:
        """Tell what was decided about a call."""
        call.decision, call.reason = decision, reason
        if self.sdk < APPROVALS:
            self.complete(call)
            self._emit(_approval(call))
        elif self.sdk >= RESPONSES or call.denied:
            self.ask(call)  # a decision needs its question
        if self.sdk >= RESPONSES:
            explained = {"reason": reason} if reason else {}
            approved = not call.denied
            self._emit({"type": "tool-approval-response", "approvalId": call.id, "approved": approved, **explained})

    def finish(self, call: Called, text: str, *, is_error: bool) -> None:
        """Tell a call's result."""
        call.done = True
        if not self.complete(call) and is_error:
            self._unreadable(call, text)
            return
        if not call.available:  # somebody streamed this by hand: the arguments are no JSON
            call.available = True
            told = {"toolCallId": call.id, "toolName": call.name, "input": call.text}
            self._emit({"type": "tool-input-available", **told})
        if call.denied and self.sdk >= APPROVALS:
            self._emit({"type": "tool-output-denied", "toolCallId": call.id})
        elif is_error:
            self._emit({"type": "tool-output-error", "toolCallId": call.id, "errorText": text or "The tool failed."})
        else:
            self._emit({"type": "tool-output-available", "toolCallId": call.id, "output": output(text)})

    def interrupt(self) -> None:
        """Say of the calls that have no result that they will have none."""
        for call in self.open:
            self.finish(call, INTERRUPTED, is_error=True)

    def wait(self) -> None:
        """Say of the calls that have no result that somebody has to decide."""
        for call in self.open:
            if call.decision and self.sdk < APPROVALS:
                continue
            call.asked = call.asked and bool(call.decision) and self.sdk >= RESPONSES
            self.ask(call)

    @property
    def open(self) -> list[Called]:
        return [call for call in self.known.values() if not call.done]

    def _unreadable(self, call: Called, text: str) -> None:
        told = {"toolCallId": call.id, "toolName": call.name, "input": call.text}
        self._emit({"type": "tool-input-error", **told, "errorText": text})


def _approval(call: Called) -> Chunk:
    value, _ = arguments(call.text)
    told: Mapping[str, Any] = {"toolCallId": call.id, "toolName": call.name, "input": value}
    return {
        "type": "data-approval",
        "id": call.id,
        "data": {**told, "decision": call.decision, "reason": call.reason},
    }
