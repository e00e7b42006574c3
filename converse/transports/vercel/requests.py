"""What ``useChat`` sends: read it, and take of it only what may be taken from a client. No I/O."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from converse.choices import Role
from converse.conf import settings
from converse.drafts import checked
from converse.exceptions import InvalidMessage
from converse.transports.frames import Frame, Refused, text_of

SUBMIT, REGENERATE = "submit-message", "regenerate-message"
SDKS = (5, 6, 7)
ID_LIMIT = 100  # characters
RESPONDED = "approval-responded"
RESULTS = ("output-available", "output-error")


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file part: where it is, or all of it as a ``data:`` address."""

    field: str
    url: str
    name: str
    mime_type: str

    @property
    def data(self) -> bytes | None:
        """The bytes of a ``data:`` address; None for any other. Raise Refused where they cannot be read."""
        if self.url[:5].lower() != "data:":
            return None
        head, comma, body = self.url[5:].partition(",")
        try:
            if not comma:
                raise ValueError
            return base64.b64decode(body, validate=True) if head.lower().endswith(";base64") else unquote_to_bytes(body)
        except (ValueError, binascii.Error):
            raise Refused("invalid", "is no data: address that can be read", f"{self.field}.url") from None


@dataclass(frozen=True, slots=True)
class Answered:
    """What a person decided about a call."""

    call: str
    approved: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Said:
    """A message of the client's: the one that its request is about."""

    id: str
    role: str
    text: str
    files: Sequence[SentFile]
    answers: Sequence[Answered]
    results: Sequence[str]  # the calls that it claims the results of


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for."""

    chat: str
    trigger: str
    message_id: str
    said: Said | None
    extras: Frame  # what the commands take besides


def sdk_of(text: str | None) -> int:
    """Give the version of the SDK that a client names; that of ``CONVERSE_CHAT_SDK`` where it names none."""
    if not text:
        return int(settings.CONVERSE_CHAT_SDK)
    if text not in map(str, SDKS):
        raise Refused("invalid", f"must be one of {', '.join(map(str, SDKS))}", "sdk")
    return int(text)


def parse(body: bytes) -> Request:
    """Read the body of a request; raise Refused, naming the field, for one that makes no sense."""
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("invalid", "The body must be JSON.") from None
    if not isinstance(read, dict):
        raise Refused("invalid", "The body must be a JSON object.")
    trigger = text_of(read, "trigger", required=False) or SUBMIT
    if trigger not in (SUBMIT, REGENERATE):
        raise Refused("invalid", f"must be {SUBMIT} or {REGENERATE}", "trigger")
    message_id = text_of(read, "messageId", required=False, limit=ID_LIMIT)
    said = _said(read, message_id)
    if said is None and trigger == SUBMIT:
        raise Refused("invalid", "must have at least one message", "messages")
    extras = {name: read[name] for name in ("provider", "policy") if read.get(name) is not None}
    return Request(text_of(read, "id"), trigger, message_id, said, extras)


def _said(body: Frame, message_id: str) -> Said | None:
    """Find the message that a request is about: the one it names, or the last; all others are only claims."""
    if (single := body.get("message")) is not None:
        return _message(single, "message", body)
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise Refused("invalid", "must be a list of messages", "messages")
    named = (index for index, message in enumerate(messages) if message_id and _id(message) == message_id)
    index = next(named, len(messages) - 1)
    return _message(messages[index], f"messages[{index}]", body) if messages else None


def _id(message: Any) -> Any:
    return message.get("id") if isinstance(message, dict) else None


def _message(message: Any, field: str, body: Frame) -> Said:
    if not isinstance(message, dict):
        raise Refused("invalid", "must be an object", field)
    role = message.get("role")
    if role not in (Role.USER, Role.ASSISTANT):
        raise Refused("invalid", "must be user or assistant: no other message is taken from a client", f"{field}.role")
    where = f"{field}.id"
    known = text_of({where: message.get("id")}, where, required=False, limit=ID_LIMIT)
    parts = list(_parts(message, field))
    texts = [_text(part, "text", where) for where, part in parts if part.get("type") == "text"]
    return Said(
        id=known,
        role=role,
        text="\n".join(texts),
        files=[_file(part, where) for where, part in parts if part.get("type") == "file"],
        answers=[*_answers(parts), *_extra_answers(body)],
        results=[str(part.get("toolCallId")) for _, part in parts if part.get("state") in RESULTS],
    )


def _parts(message: Frame, field: str) -> Iterator[tuple[str, Frame]]:
    parts = message.get("parts")
    if not isinstance(parts, list):
        raise Refused("invalid", "must be a list of parts", f"{field}.parts")
    for index, part in enumerate(parts):
        where = f"{field}.parts[{index}]"
        if not isinstance(part, dict):
            raise Refused("invalid", "must be an object", where)
        yield where, part


def _text(part: Frame, key: str, where: str) -> str:
    value = part.get(key)
    if not isinstance(value, str):
        raise Refused("invalid", "must be a string", f"{where}.{key}")
    try:
        return checked(value)
    except InvalidMessage as exc:
        raise Refused("invalid", exc.reason, f"{where}.{key}") from exc


def _file(part: Frame, where: str) -> SentFile:
    given: Mapping[str, str] = {"filename": "", "mediaType": "", **part}
    name, mime_type = (_text(dict(given), key, where) for key in ("filename", "mediaType"))
    return SentFile(where, _text(part, "url", where), name, mime_type)


def _answers(parts: Sequence[tuple[str, Frame]]) -> Iterator[Answered]:
    """Find what a person decided: only new decisions are in this state."""
    for where, part in parts:
        if part.get("state") == RESPONDED:
            yield _answer(part.get("approval"), "id", f"{where}.approval")


def _extra_answers(body: Frame) -> Iterator[Answered]:
    """Find decisions beside the messages: before version 6 there is no place for them within."""
    given = body.get("approvals") or []
    if not isinstance(given, list):
        raise Refused("invalid", "must be a list", "approvals")
    for index, answer in enumerate(given):
        yield _answer(answer, "toolCallId", f"approvals[{index}]")


def _answer(given: Any, key: str, where: str) -> Answered:
    if not isinstance(given, dict) or not isinstance(given.get("approved"), bool):
        raise Refused("invalid", "must say whether the call is approved", f"{where}.approved")
    reason = given.get("reason") or ""
    return Answered(_text(given, key, where), given["approved"], _text({"reason": reason}, "reason", where))
