"""What the client puts together from the chunks of a whole reply. No I/O.

So a page that is rendered on the server has what the stream would have given, by way of the same encoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from converse.transports.vercel.values import Chunk

Part = dict[str, Any]

STATES = {
    "tool-input-available": "input-available",
    "tool-input-error": "output-error",
    "tool-output-available": "output-available",
    "tool-output-error": "output-error",
    "tool-output-denied": "output-denied",
}
COPIED = ("output", "errorText")
PLAIN = ("file", "source-url")


def assembled(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """Give a message's ``parts`` and ``metadata``."""
    parts: list[Part] = []
    metadata: dict[str, Any] = {}
    known: dict[str, Part] = {}  # what is still written to, by what its chunks call it
    for chunk in chunks:
        kind = chunk["type"]
        what, _, move = kind.rpartition("-")
        if "messageMetadata" in chunk:
            metadata.update(chunk["messageMetadata"])
        elif kind == "start-step":
            parts.append({"type": "step-start"})
        elif what in ("text", "reasoning"):
            _words(parts, known, what, move, chunk)
        elif kind.startswith("tool-"):
            _call(parts, known, kind, chunk)
        elif kind in PLAIN or kind.startswith("data-"):
            parts.append(dict(chunk))
    return {"parts": parts, "metadata": metadata}


def _words(parts: list[Part], known: dict[str, Part], what: str, move: str, chunk: Chunk) -> None:
    key = f"{what} {chunk['id']}"
    if move == "start":
        marked = {"providerMetadata": chunk["providerMetadata"]} if "providerMetadata" in chunk else {}
        known[key] = {"type": what, "text": "", "state": "streaming", **marked}
        parts.append(known[key])
    elif move == "delta":
        known[key]["text"] += chunk["delta"]
    else:
        known.pop(key)["state"] = "done"


def _call(parts: list[Part], known: dict[str, Part], kind: str, chunk: Chunk) -> None:
    key = chunk.get("toolCallId") or chunk["approvalId"]  # ours are the same
    if key not in known:
        known[key] = {"type": f"tool-{chunk['toolName']}", "toolCallId": key, "state": "input-streaming"}
        parts.append(known[key])
    part = known[key]
    if kind == "tool-approval-request":
        part.update(state="approval-requested", approval={"id": key})
    elif kind == "tool-approval-response":
        told = {name: chunk[name] for name in ("approved", "reason") if name in chunk}
        part["state"], part["approval"] = "approval-responded", {**told, "id": key}
    elif kind in STATES:
        part["state"] = STATES[kind]
        part.update({name: chunk[name] for name in COPIED if name in chunk})
        if "input" in chunk:
            part["rawInput" if kind == "tool-input-error" else "input"] = chunk["input"]
