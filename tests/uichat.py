"""A strict model of the AI SDK's client: what it throws at, and what it puts together. Written from its rules alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

# The chunks that each version knows, with the keys that it takes; a star marks what must be there.
WORDS = {f"{what}-start": "*id providerMetadata" for what in ("text", "reasoning")}
WORDS |= {f"{what}-delta": "*id *delta providerMetadata" for what in ("text", "reasoning")}
WORDS |= {f"{what}-end": "*id providerMetadata" for what in ("text", "reasoning")}
FIVE = {
    **WORDS,
    "start": "*messageId messageMetadata",
    "start-step": "",
    "finish-step": "",
    "tool-input-start": "*toolCallId *toolName",
    "tool-input-delta": "*toolCallId *inputTextDelta",
    "tool-input-available": "*toolCallId *toolName *input",
    "tool-input-error": "*toolCallId *toolName *input *errorText",
    "tool-output-available": "*toolCallId *output",
    "tool-output-error": "*toolCallId *errorText",
    "source-url": "*sourceId *url title providerMetadata",
    "file": "*url *mediaType providerMetadata",
    "message-metadata": "*messageMetadata",
    "finish": "messageMetadata",
    "abort": "",
    "error": "*errorText",
}
SIX = {
    **FIVE,
    "finish": "messageMetadata finishReason",
    "tool-approval-request": "*approvalId *toolCallId",
    "tool-output-denied": "*toolCallId",
}
SEVEN = {**SIX, "tool-approval-response": "*approvalId *approved reason"}
KNOWN = {5: FIVE, 6: SIX, 7: SEVEN}
REASONS = ("stop", "length", "content-filter", "tool-calls", "error", "other")


class Client:
    """What ``useChat`` makes of a response. Raises AssertionError where it would break off."""

    def __init__(self, sdk: int, message: dict[str, Any] | None = None) -> None:
        self.sdk = sdk
        self.message = deepcopy(message) or {"id": None, "role": "assistant", "metadata": {}, "parts": []}
        self.error = ""
        self.ended = False
        self.aborted = False
        self.finish_reason = ""
        self.words: dict[tuple[str, str], dict[str, Any]] = {}
        self.partial: dict[str, str] = {}

    @property
    def parts(self) -> list[dict[str, Any]]:
        return self.message["parts"]

    @property
    def step(self) -> list[dict[str, Any]]:
        """The parts of the last step."""
        begin = max((i for i, part in enumerate(self.parts) if part["type"] == "step-start"), default=-1)
        return self.parts[begin + 1 :]

    @property
    def would_send_by_itself(self) -> bool:
        """``lastAssistantMessageIsCompleteWithToolCalls``."""
        calls = [part for part in self.step if part["type"].startswith("tool-")]
        return bool(calls) and all(part["state"] in ("output-available", "output-error") for part in calls)

    def read(self, body: str) -> Client:
        """Read the body of a response."""
        assert body.endswith("data: [DONE]\n\n"), body[-200:]
        for block in body.removesuffix("\n\n").split("\n\n"):
            if block.startswith(":"):
                continue
            assert block.startswith("data: ")
            assert "\n" not in block
            if block != "data: [DONE]":
                self.take([json.loads(block.removeprefix("data: "))])
        return self

    def take(self, chunks: Iterable[dict[str, Any]]) -> Client:
        for chunk in chunks:
            assert not self.error, f"{chunk} after an error"
            assert not self.ended, f"{chunk} after the end"
            self._valid(chunk)
            self._one(chunk["type"], chunk)
        return self

    def _valid(self, chunk: dict[str, Any]) -> None:
        kind = chunk["type"]
        if kind.startswith("data-"):
            assert set(chunk) == {"type", "id", "data"}, chunk
            return
        assert kind in KNOWN[self.sdk], f"{kind} is not known to {self.sdk}"
        keys = KNOWN[self.sdk][kind].split()
        assert set(chunk) - {"type"} <= {key.lstrip("*") for key in keys}, chunk
        assert {key[1:] for key in keys if key[0] == "*"} <= set(chunk), chunk
        for provider in chunk.get("providerMetadata", {}).values():
            assert isinstance(provider, dict)

    def _one(self, kind: str, chunk: dict[str, Any]) -> None:
        what, _, move = kind.rpartition("-")
        if kind == "start":
            assert self.message["id"] in (None, chunk["messageId"])
            self.message["id"] = chunk["messageId"]
            self.message["metadata"].update(chunk.get("messageMetadata", {}))
        elif kind == "message-metadata":
            self.message["metadata"].update(chunk["messageMetadata"])
        elif kind == "start-step":
            self.parts.append({"type": "step-start"})
        elif kind == "finish-step":
            assert not self.words, "parts that are not ended"
        elif what in ("text", "reasoning"):
            self._say(what, move, chunk)
        elif kind.startswith("tool-"):
            self._call(kind, chunk)
        elif kind.startswith("data-"):
            same = [part for part in self.parts if part["type"] == kind and part.get("id") == chunk["id"]]
            if same:
                same[0]["data"] = chunk["data"]
            else:
                self.parts.append(dict(chunk))
        elif kind in ("file", "source-url"):
            self.parts.append(dict(chunk))
        elif kind == "error":
            self.error = chunk["errorText"]
            assert self.error
        else:
            assert kind in ("finish", "abort")
            assert chunk.get("finishReason", "other") in REASONS
            self.aborted = kind == "abort"
            self.finish_reason = chunk.get("finishReason", "")
            self.ended = True

    def _say(self, what: str, move: str, chunk: dict[str, Any]) -> None:
        key = (what, chunk["id"])
        if move == "start":
            assert key not in self.words
            self.words[key] = {"type": what, "text": "", "state": "streaming"}
            self.words[key].update({"providerMetadata": chunk["providerMetadata"]} if len(chunk) > 2 else {})
            self.parts.append(self.words[key])
            return
        assert key in self.words, f"{chunk} without its start"
        if move == "delta":
            self.words[key]["text"] += chunk["delta"]
        else:
            self.words.pop(key)["state"] = "done"

    def _call(self, kind: str, chunk: dict[str, Any]) -> None:
        if kind == "tool-approval-response":
            part = next(part for part in self.parts if part.get("approval", {}).get("id") == chunk["approvalId"])
            told = {key: chunk[key] for key in ("approved", "reason") if key in chunk}
            part["state"], part["approval"] = "approval-responded", {"id": chunk["approvalId"], **told}
            return
        call = chunk["toolCallId"]
        if kind == "tool-input-start":
            assert not [part for part in self.step if part.get("toolCallId") == call]
            self.parts.append({"type": f"tool-{chunk['toolName']}", "toolCallId": call, "state": "input-streaming"})
            self.partial[call] = ""
            return
        if kind == "tool-input-delta":
            assert call in self.partial, f"{chunk} without its start"
            self.partial[call] += chunk["inputTextDelta"]
            return
        if kind.startswith("tool-input-"):
            self._input(kind, call, chunk)
            return
        part = next(part for part in reversed(self.parts) if part.get("toolCallId") == call)
        if kind == "tool-approval-request":
            part["state"], part["approval"] = "approval-requested", {"id": chunk["approvalId"]}
        else:
            assert kind != "tool-output-denied" or "approval" in part, "nobody was asked"
            part["state"] = kind.replace("tool-", "")
            part.update({key: chunk[key] for key in ("output", "errorText") if key in chunk})

    def _input(self, kind: str, call: str, chunk: dict[str, Any]) -> None:
        found = [part for part in self.step if part.get("toolCallId") == call]
        if not found:
            self.parts.append({"type": f"tool-{chunk['toolName']}", "toolCallId": call})
            found = self.parts[-1:]
        if kind == "tool-input-available":
            found[0].update(state="input-available", input=chunk["input"])
        else:
            found[0].update(state="output-error", rawInput=chunk["input"], errorText=chunk["errorText"])


def uncut(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join neighbouring texts: where there is nothing else, a snapshot has them as one."""
    joined: list[dict[str, Any]] = []
    for part in parts:
        if joined and part["type"] == joined[-1]["type"] == "text" and "providerMetadata" not in joined[-1]:
            joined[-1] = {**joined[-1], "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return joined
