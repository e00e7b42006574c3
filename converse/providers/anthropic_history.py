"""A conversation as Anthropic wants it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from converse.choices import Role
from converse.parts import File, Part, Raw, Reasoning, Text, ToolCall, ToolResult
from converse.providers.base import PromptMessage
from converse.providers.content import OPENING, arguments_of, encoded, is_text, media_type, text_of, unsupported

ROLES: dict[str, str] = {Role.USER: "user", Role.ASSISTANT: "assistant", Role.TOOL_RESULT: "user"}

IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}

THINKING = {"thinking", "redacted_thinking"}


class History:
    """The messages of a request: user and assistant take turns, nothing is empty or orphaned, no id comes twice."""

    def __init__(self, turns: Sequence[PromptMessage]) -> None:
        self.system: list[dict[str, str]] = []
        self.turns: list[tuple[str, list[dict[str, Any]]]] = []
        self.names: dict[str, None] = {}  # of the tools that were called
        self.ids: set[str] = set()
        self.waiting: list[str] = []  # the ids of calls without results so far
        self.tail = 0  # the turns from here on have no words of the user's after them
        for turn in turns:
            if turn.role != Role.SYSTEM:
                self.add(turn)
            elif turn.text.strip():
                self.system.append({"type": "text", "text": turn.text})

    def add(self, turn: PromptMessage) -> None:
        blocks: list[dict[str, Any]] = []
        for part in turn.parts:
            self.add_part(blocks, part)
        self.turns.append((ROLES[turn.role], [block for block in blocks if block.get("text", "x").strip()]))
        if turn.role == Role.USER:
            self.tail = len(self.turns)

    def add_part(self, blocks: list[dict[str, Any]], part: Part) -> None:
        match part:
            case Text():
                add_text(blocks, part)
            case Reasoning() if part.signature:
                blocks.append({"type": "thinking", "thinking": part.text, "signature": part.signature})
            case ToolCall():
                blocks.append(self.call(part))
            case ToolResult() if self.waiting:
                blocks.append(result_of(part, self.waiting.pop(0)))
            case File():
                blocks.append(file_of(part))
            case Raw():
                blocks.append(dict(part.data))

    def call(self, call: ToolCall) -> dict[str, Any]:
        name = re.sub(r"[^\w-]", "_", call.name, flags=re.ASCII)[:128] or "_"
        self.names[name] = None
        self.waiting.append(self.new_id(call.id))
        block = {"type": "tool_use", "id": self.waiting[-1], "name": name, "input": arguments_of(call)}
        return {**facts(call.signature), **block}

    def new_id(self, call_id: str) -> str:
        """Return an id that Anthropic takes: others write other letters, or begin anew with each reply."""
        if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", call_id):
            call_id = "call_" + hashlib.sha256(call_id.encode()).hexdigest()[:24]
        unique = call_id
        while unique in self.ids:
            unique = f"{call_id[:50]}_{len(self.ids)}"
        self.ids.add(unique)
        return unique

    def messages(self) -> list[dict[str, Any]]:
        messages = merged(self.paired())
        for message in messages:
            while message["content"] and message["content"][-1]["type"] in THINKING:
                message["content"].pop()
        messages = merged((message["role"], message["content"]) for message in messages)
        if not messages or messages[0]["role"] != "user":
            messages.insert(0, {"role": "user", "content": [{"type": "text", "text": OPENING}]})
        last = messages[-1]["content"][-1]
        if messages[-1]["role"] == "assistant" and last["type"] == "text":
            last["text"] = last["text"].rstrip()
        return messages

    def paired(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Yield the turns without what Anthropic's own tools left undone, save at the end, where it may go on."""
        blocks = [block for _, content in self.turns for block in content]
        begun = {block["id"] for block in blocks if is_server_call(block)}
        ended = {block["tool_use_id"] for block in blocks if is_server_result(block)}
        for place, (role, content) in enumerate(self.turns):
            yield (
                role,
                [
                    block
                    for block in content
                    if not (is_server_call(block) and block["id"] not in ended and place < self.tail)
                    and not (is_server_result(block) and block["tool_use_id"] not in begun)
                ],
            )


def merged(turns: Iterable[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Return messages of turns that are not empty, with those of one role in a row as one."""
    messages: list[dict[str, Any]] = []
    for role, blocks in turns:
        if blocks and messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": role, "content": blocks})
    return messages


def add_text(blocks: list[dict[str, Any]], part: Text) -> None:
    """Add words to those before, or citations to the words that they belong to."""
    last = blocks[-1] if blocks and blocks[-1]["type"] == "text" else None
    if last and part.text and ("citations" not in last or not part.text.strip()):
        last["text"] += part.text
    elif part.text:
        blocks.append({"type": "text", "text": part.text})
    cited = facts(part.signature)
    count = cited.get("characters", 0)
    if last and "citations" not in last and 0 < count <= len(last["text"]):
        before, words = last["text"][:-count], last["text"][-count:]
        blocks.pop()
        add_text(blocks, Text(before))
        blocks.append({"type": "text", "text": words, "citations": cited["citations"]})


def result_of(result: ToolResult, call_id: str) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": call_id}
    if result.output.strip():
        block["content"] = result.output
    elif result.is_error:
        block["content"] = "It failed."  # an error has to say something
    return {**block, "is_error": True} if result.is_error else block


def file_of(file: File) -> dict[str, Any]:
    if media_type(file) in IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": media_type(file), "data": encoded(file)}}
    if media_type(file) == "application/pdf":
        source = {"type": "base64", "media_type": "application/pdf", "data": encoded(file)}
    elif is_text(file):
        source = {"type": "text", "media_type": "text/plain", "data": text_of(file)}
    else:
        raise unsupported(file, "JPEG, PNG, GIF and WebP images, PDF and text")
    return {"type": "document", "source": source, **({"title": file.name} if file.name else {})}


def is_server_call(block: dict[str, Any]) -> bool:
    return block["type"] in {"server_tool_use", "mcp_tool_use"}


def is_server_result(block: dict[str, Any]) -> bool:
    return "tool_use_id" in block and block["type"] != "tool_result"


def facts(signature: str | None) -> dict[str, Any]:
    """Return what this provider's own signatures of words and calls say."""
    try:
        known = json.loads(signature or "{}")
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
