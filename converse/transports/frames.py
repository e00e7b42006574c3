"""What clients send: read it, bound it, and say clearly what is wrong with it."""

from __future__ import annotations

import json
from math import isfinite
from time import monotonic
from typing import Any

from django.core.exceptions import ObjectDoesNotExist

from converse.conf import settings
from converse.drafts import checked
from converse.exceptions import ConversationBusy, InvalidMessage, MessageClosed, UnknownProvider

Frame = dict[str, Any]

# A client's names for what our exceptions blame. What is not among them, it could not have done any better.
FIELDS = {
    **{name: name for name in ("content", "policy", "attachments", "message", "provider")},
    "external_id": "clientId",
    "call_id": "call",
}

BUSY = "Another reply is being written: wait for its end, or stop it."  # for people; the exception is for programmers
CHEAP = 10  # acknowledgements and pings may come this many times as often as other frames
LARGEST = 1_000_000  # bytes of a frame: Daphne sends nothing beyond a mebibyte


class Refused(Exception):
    """A command that is not carried out; becomes an error frame."""

    def __init__(self, code: str, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.frame = {"type": "error", "code": code, "reason": reason, **({"field": field} if field else {})}


class Flood(Exception):
    """More frames than ``CONVERSE_FRAME_RATE`` allows."""


class Budget:
    """A bucket of tokens: so many frames a second, and so many besides at once."""

    def __init__(self, rate: float, besides: int = 0) -> None:
        self.rate = rate
        self.size = max(rate, 1) + besides
        self.tokens = self.size
        self.at = monotonic()

    def spend(self) -> None:
        """Take one token; raise Flood when there is none."""
        now = monotonic()
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            raise Flood
        self.tokens -= 1


class Allowance:
    """What one socket may send. Who comes back may follow everything again at once; signs of life may come often."""

    def __init__(self) -> None:
        self._frames = Budget(settings.CONVERSE_FRAME_RATE, besides=settings.CONVERSE_SUBSCRIPTION_LIMIT)
        self._cheap = Budget(settings.CONVERSE_FRAME_RATE * CHEAP)

    def spend(self, *, cheap: bool) -> None:
        """Count one frame; raise Flood when it is one too many."""
        (self._cheap if cheap else self._frames).spend()


def explain(exc: Exception) -> Refused | None:
    """Put an exception of ours into a client's words; None for a fault that is not the client's."""
    match exc:
        case Refused():
            return exc
        case ObjectDoesNotExist():
            return Refused("not_found", "There is no such conversation or message.")
        case ConversationBusy():
            return Refused("busy", BUSY, "conversation")
        case UnknownProvider():
            return Refused("invalid", "There is no such provider.", "provider")
        case MessageClosed():
            return Refused("invalid", str(exc), "message")
        case InvalidMessage() if (root := exc.field.partition("[")[0]) in FIELDS:
            return Refused("invalid", exc.reason, FIELDS[root] + exc.field.removeprefix(root))
    return None


def parse(text: str) -> Frame:
    """Read a frame; raise Refused unless it is a JSON object."""
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("bad_frame", "A frame must be JSON.") from None
    if not isinstance(frame, dict):
        raise Refused("bad_frame", "A frame must be a JSON object.")
    return frame


def text_of(frame: Frame, field: str, *, required: bool = True, limit: int | None = None) -> str:
    """Give a field that must be text; raise Refused otherwise."""
    value = frame.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise Refused("invalid", "must be a string", field)
    if limit and len(value) > limit:
        raise Refused("invalid", f"may have {limit} characters, not {len(value)}", field)
    try:
        return checked(value)
    except InvalidMessage as exc:
        raise Refused("invalid", exc.reason, field) from exc


def texts_of(frame: Frame, field: str) -> list[str]:
    """Give a field that must be a list of texts, or is missing; raise Refused otherwise."""
    value = frame.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise Refused("invalid", "must be a list of strings", field)
    return [text_of({field: item}, field) for item in value]


def pieces(text: str) -> list[str]:
    """Give a frame as one that can be sent, or as several where it is too large."""
    step = LARGEST // 4  # bytes a character at most, also of one that is escaped
    if len(text) <= step or len(text.encode()) <= LARGEST:
        return [text]
    cut = [text[start : start + step] for start in range(0, len(text), step)]
    last = len(cut) - 1
    return [
        json.dumps({"type": "piece", "text": piece, "more": number < last}, ensure_ascii=False)
        for number, piece in enumerate(cut)
    ]


def id_of(frame: Frame) -> dict[str, Any]:
    """Give what an answer repeats of a frame: its ``id``, if it has one that every client can read again."""
    value = frame.get("id")
    known = isinstance(value, str | int) or (isinstance(value, float) and isfinite(value))
    return {"id": value} if known else {}


def number_of(frame: Frame, field: str) -> int | None:
    """Give a field that must be a whole number, or None where it is missing; raise Refused otherwise."""
    value = frame.get(field)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise Refused("invalid", "must be a whole number, 0 or more", field)
    return value
