"""Events as these clients are told them: under the names they listen for, with the cursor that resumes after them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from converse.choices import ChunkKind, Status
from converse.conf import settings
from converse.cursors import write_cursor
from converse.hubs import Delivery
from converse.transports.pusher.names import aliases, event_name
from converse.transports.pusher.protocol import encoded

LARGEST = 1_000_000  # bytes of a frame: Daphne sends nothing beyond a mebibyte
POINTER = ("conversationId", "messageId", "offset", "seq")  # what is told of an event that is too large

Telling = tuple[str, str]  # an event's name and its data, both written as JSON strings


def live(delivery: Delivery, epoch: str) -> list[Telling]:
    """Give a live event's tellings: encoded once for all readers."""
    key = (epoch, settings.CONVERSE_ECHO_NAMESPACE, settings.CONVERSE_ECHO_ALIASES)
    known = _encoded.setdefault(delivery, {})
    if key not in known:
        offset = delivery.data.get("offset")
        seq = "" if offset is None else write_cursor(offset, epoch)
        known[key] = tellings(delivery.name, delivery.data, seq)
    return known[key]


_encoded: WeakKeyDictionary[Delivery, dict[tuple[Any, ...], list[Telling]]] = WeakKeyDictionary()


def tellings(name: str, data: Mapping[str, Any], seq: str) -> list[Telling]:
    """Give an event's tellings: under its aliases, if any, and then, with the cursor, under its own name."""
    payload = {**data, **({"chunkIndex": data["sequence"]} if name == "StreamUpdate" else {})}
    if seq:
        payload["seq"] = seq
    old = _old(name, data) if aliases(name) else None
    others = [(alias, old) for alias in aliases(name)] if old is not None else []
    return [_telling(told, what) for told, what in [*others, (event_name(name), payload)]]


def snapshot(data: Mapping[str, Any], seq: str) -> list[Telling]:
    """Give a snapshot's telling, with as many of the newest messages as fit."""
    messages = data["messages"]
    while True:
        truncated = data["truncated"] or len(messages) < len(data["messages"])
        told = _quoted({**data, "messages": messages, "truncated": truncated, "seq": seq})
        if _fits(told) or len(messages) < 2:
            break
        messages = messages[len(messages) // 2 :]
    return [_telling(event_name("Snapshot"), {**data, "messages": messages, "truncated": truncated, "seq": seq})]


def written(telling: Telling, channel: str) -> str:
    """Write a frame. What a channel may be called needs no escaping."""
    name, data = telling
    return f'{{"event":{name},"channel":"{channel}","data":{data}}}'


def _telling(name: str, payload: Mapping[str, Any]) -> Telling:
    told = _quoted(payload)
    if not _fits(told):
        told = _quoted({**{key: payload[key] for key in POINTER if key in payload}, "tooLarge": True})
    return json.dumps(name), told


def _quoted(payload: Mapping[str, Any]) -> str:
    return json.dumps(encoded(payload), ensure_ascii=False)


def _fits(text: str) -> bool:
    return len(text) * 4 <= LARGEST or len(text.encode()) <= LARGEST


def _old(name: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the data that the original's front ends read; None where they would make nothing but nonsense of it."""
    if name != "StreamUpdate":
        return {"message": _old_message(data)}
    if data["kind"] != ChunkKind.TEXT:
        return None
    chunk = {"content": data["chunk"], "sequence": data["sequence"], "metadata": data.get("data") or {}}
    return {"message_id": data["messageId"], "chunk": chunk}


def _old_message(data: Mapping[str, Any]) -> dict[str, Any]:
    said = {"content": data["content"]} if "content" in data else {}
    return {
        "id": data["messageId"],
        "conversation_id": data["conversationId"],
        "role": data["role"],
        "status": data["status"],
        "is_complete": data["status"] == Status.COMPLETED,
        "metadata": data["metadata"],
        "created_at": data["createdAt"],
        **said,
    }
