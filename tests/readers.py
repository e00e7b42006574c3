"""A reader as a front end is one: it assembles texts from events, and notices what it should never see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from converse.models import Conversation
from converse.subscriptions import Subscription, subscribe


class Assembled:
    """A conversation put together from frames, by the rules of docs/reference/websocket.md."""

    def __init__(self) -> None:
        self.offset = 0
        self.epoch = ""
        self.title = ""
        self.texts: dict[str, str] = {}
        self.reasonings: dict[str, str] = {}
        self.statuses: dict[str, str] = {}
        self.sequences: dict[str, int] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.snapshots = 0

    def apply(self, name: str, data: dict[str, Any]) -> None:
        """Take in one delivery; raise AssertionError for a gap, a double or a step back."""
        self.events.append((name, data))
        if name == "Snapshot":
            self.snapshots += 1
            self.epoch, self.offset, self.title = data["epoch"], data["offset"], data["conversation"]["title"]
            self.texts, self.statuses, self.sequences = {}, {}, {}
            for message in data["messages"]:
                self._one("MessageCreated", message)
        elif name == "Replay":
            assert data["offset"] >= self.offset
            self.epoch, self.offset = data["epoch"], data["offset"]
            for event in data["events"]:
                self._one(event["event"], event["data"])
        elif data.get("offset") is not None:
            assert data["offset"] == self.offset + 1, f"{name} {data['offset']} after {self.offset}"
            self.offset = data["offset"]
            self._one(name, data)

    def _one(self, name: str, data: dict[str, Any]) -> None:
        message = data.get("messageId", "")
        if name == "StreamUpdate":
            assert data["sequence"] > self.sequences[message]
            self.sequences[message] = data["sequence"]
            if data["kind"] == "text":
                self.texts[message] += data["chunk"]
            elif data["kind"] == "reasoning":
                self.reasonings[message] = self.reasonings.get(message, "") + data["chunk"]
        elif name == "MessageDeleted":
            for known in (self.texts, self.statuses, self.sequences):
                known.pop(message, None)
        elif name.startswith("Message"):
            self.statuses[message] = data["status"]
            if name == "MessageCreated":
                self.texts[message], self.sequences[message] = data.get("content") or "", data["sequence"]
        elif name.startswith("Conversation"):
            self.title = data["title"]


async def stored(conversation: Conversation) -> dict[str, str]:
    """Give the texts as they are in the database, by uuid."""
    return {str(message.uuid): await message.atext() async for message in conversation.messages.filter(deleted_at=None)}


async def follow(subscription: Subscription, assembled: Assembled, until: Callable[[Assembled], bool], seconds: float = 10) -> None:
    """Read until a condition holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        async with subscription:
            async for delivery in subscription:
                assembled.apply(delivery.name, delivery.data)
                if until(assembled):
                    return


async def catch_up(conversation: Conversation, assembled: Assembled, user: Any = None) -> None:
    """Subscribe with the cursor, or without one at first, and read to the head."""
    await conversation.arefresh_from_db()
    head = conversation.last_offset
    if assembled.epoch and assembled.offset >= head:
        return
    after = assembled.offset if assembled.epoch else None
    subscription = subscribe(conversation, user, after=after, epoch=assembled.epoch or None)
    await follow(subscription, assembled, lambda reader: reader.offset >= head)
