"""A conversation as Gemini wants it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from converse.choices import Role
from converse.parts import File, Part, Raw, Reasoning, Text, ToolCall, ToolResult
from converse.providers.base import PromptMessage
from converse.providers.content import OPENING, arguments_of, encoded, is_text, media_type, unsupported

ROLES: dict[str, str] = {Role.USER: "user", Role.ASSISTANT: "model", Role.TOOL_RESULT: "user"}

# Begins the ids of calls that came without one; they are our own business.
MADE = "gemini-"

# Google's own word for calls that another model made; newer models refuse a call without a signature.
FOREIGN = "skip_thought_signature_validator"

MEDIA = re.compile(r"image/(png|jpeg|webp|heic|heif)|(audio|video)/.+|application/pdf")


class Contents:
    """The contents of a request: user and model take turns, and each call is followed by its results."""

    def __init__(self, turns: Sequence[PromptMessage], model: str) -> None:
        self.system: list[dict[str, str]] = []
        self.contents: list[dict[str, Any]] = []
        self.token: str | None = None  # with which an answer that broke off at a limit goes on
        self.signs = "gemini" in model and not re.search(r"gemini-[12]\b", model)
        self.waiting: list[ToolCall] = []  # calls without results so far
        for turn in turns:
            if turn.role != Role.SYSTEM:
                self.add(turn)
            elif turn.text.strip():
                self.system.append({"text": turn.text})
        if self.token and self.contents and self.contents[-1]["role"] == "model":
            self.contents.pop()  # the service knows it, and begins where it ends
        if not self.contents or self.contents[0]["role"] != "user":
            self.contents.insert(0, {"role": "user", "parts": [{"text": OPENING}]})

    def add(self, turn: PromptMessage) -> None:
        self.token = None
        role = ROLES[turn.role]
        parts: list[dict[str, Any]] = []
        for part in turn.parts:
            self.add_part(parts, part)
        if not parts:
            return
        last = self.contents[-1] if self.contents else None
        # A turn of results has nothing but results.
        if last and last["role"] == role and "functionResponse" not in {*last["parts"][-1], *parts[0]}:
            last["parts"] += parts
        else:
            self.contents.append({"role": role, "parts": parts})

    def add_part(self, parts: list[dict[str, Any]], part: Part) -> None:
        match part:
            case Text(text="", signature=str()) if parts and "inlineData" in parts[-1]:
                parts[-1]["thoughtSignature"] = part.signature
            case Text() if part.text or part.signature:
                parts.append(signed({"text": part.text}, part.signature))
            case Reasoning() if part.signature:
                parts.append(signed({"text": part.text, "thought": True}, part.signature))
            case ToolCall():
                foreign = self.signs and not any("functionCall" in other for other in parts)
                call = {"name": part.name, "args": arguments_of(part), **id_of(part)}
                parts.append(signed({"functionCall": call}, part.signature or (FOREIGN if foreign else None)))
                self.waiting.append(part)
            case ToolResult() if self.waiting:
                parts.append(result_of(part, self.waiting.pop(0)))
            case File():
                parts.append(file_of(part))
            case Raw() if token := part.data.get("continuationToken"):
                self.token = token
            case Raw():
                parts.append(dict(part.data))


def signed(part: dict[str, Any], signature: str | None) -> dict[str, Any]:
    return {**part, "thoughtSignature": signature} if signature else part


def id_of(call: ToolCall) -> dict[str, str]:
    return {} if call.id.startswith(MADE) else {"id": call.id}


def result_of(result: ToolResult, call: ToolCall) -> dict[str, Any]:
    said = {"error" if result.is_error else "output": result.output}
    return {"functionResponse": {"name": call.name, "response": said, **id_of(call)}}


def file_of(file: File) -> dict[str, Any]:
    kind = media_type(file)
    if not MEDIA.fullmatch(kind):
        if not is_text(file):
            raise unsupported(file, "images (not GIF), audio, video, PDF and text")
        kind = "text/plain"  # it refuses many kinds of text by their names
    return {"inlineData": {"mimeType": kind, "data": encoded(file)}}
