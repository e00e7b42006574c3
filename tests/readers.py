"""A reader as a front end is one: it assembles texts from events, and notices what it should never see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from converse.closing import assemble
from converse.models import Conversation
from converse.parts import public
from converse.subscriptions import Subscription, subscribe


class Assembled:
    """A conversation put together from frames, by the rules of docs/reference/websocket.md."""

    def __init__(self) -> None:
        self.offset = 0
        self.epoch = ""
        self.title = ""
        self.leaf = 0
        self.places: dict[int, str] = {}  # the messages by their place in the log
        self.links: dict[int, int] = {}  # what each follows, deleted ones among them
        self.parts: dict[str, list[dict[str, Any]]] = {}
        self.statuses: dict[str, str] = {}
        self.sequences: dict[str, int] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.snapshots = 0

    @property
    def texts(self) -> dict[str, str]:
        """The texts of messages, by uuid."""
        return {message: text_of(parts) for message, parts in self.parts.items()}

    @property
    def shown(self) -> list[str]:
        """The messages of the branch that is shown."""
        path, place = [], self.leaf
        while place:
            path.append(self.places.get(place))
            place = self.links.get(place, 0)
        return [message for message in reversed(path) if message]

    def apply(self, name: str, data: dict[str, Any]) -> None:
        """Take in one delivery; raise AssertionError for a gap, a double or a step back."""
        self.events.append((name, data))
        if name == "Snapshot":
            self.snapshots += 1
            self.epoch, self.offset, self.title = data["epoch"], data["offset"], data["conversation"]["title"]
            self.parts, self.statuses, self.sequences, self.places = {}, {}, {}, {}
            self.links = {gone["place"]: gone["follows"] for gone in data["gone"]}
            for message in data["messages"]:
                self._one("MessageCreated", message)
            self.leaf = data["conversation"]["leaf"]
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
        if name == "MessageCreated":
            assert message not in self.parts
            content = data.get("content")
            self.parts[message] = data.get("parts") or ([{"type": "text", "text": content}] if content else [])
            self.statuses[message], self.sequences[message] = data["status"], data["sequence"]
            self.places[data["offset"]], self.links[data["offset"]] = message, data["follows"]
            self.leaf = data["offset"]
        elif name.startswith("Conversation"):
            self.title = data["title"]
            if data["leaf"] in self.links or not data["leaf"]:  # else it is yet to come
                self.leaf = data["leaf"]
        elif name == "MessageDeleted":
            self.places.pop(data["place"], None)
            self.links[data["place"]] = data["follows"]
            for known in (self.parts, self.statuses, self.sequences):
                known.pop(message, None)
        elif message not in self.parts:
            pass  # deleted meanwhile, or older than the snapshot
        elif name == "StreamUpdate":
            assert data["sequence"] > self.sequences[message]
            self.sequences[message] = data["sequence"]
            self._append(self.parts[message], data)
        else:
            self.statuses[message] = data["status"]

    def _append(self, parts: list[dict[str, Any]], data: dict[str, Any]) -> None:
        grows = {"tool_call": "arguments", "tool_result": "output"}.get(data["kind"], "text")
        while len(parts) <= data["part"]:
            parts.append({})  # a replay tells of parts in the order in which they ended
        part = parts[data["part"]]
        part["type"] = data["kind"]
        part[grows] = part.get(grows, "") + data["chunk"]
        part.update({key: data[name] for key, name in (("id", "toolCallId"), ("name", "toolName")) if name in data})
        part.update(data.get("data") or {})


def text_of(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if part.get("type") == "text")


def parts_of(conversation: Conversation) -> dict[str, list[dict[str, Any]]]:
    """Give the parts as they are in the database, by uuid; empty ones are no parts."""
    found = {}
    for message in conversation.messages.filter(deleted_at=None):
        if message.is_open:
            assemble(message, "default")
        found[str(message.uuid)] = [public(part) for part in message.parts]
    return found


def shown_in(conversation: Conversation) -> list[str]:
    """Give the messages of the branch that is shown as they are in the database, as uuids."""
    shown = conversation.messages.filter(deleted_at=None).current().order_by("offset")
    return [str(uuid) for uuid in shown.values_list("uuid", flat=True)]


def statuses_of(conversation: Conversation) -> dict[str, str]:
    """Give the statuses as they are in the database, by uuid."""
    return {str(message.uuid): message.status for message in conversation.messages.filter(deleted_at=None)}


async def stored(conversation: Conversation) -> dict[str, str]:
    """Give the texts as they are in the database, by uuid."""
    return {str(message.uuid): await message.atext() async for message in conversation.messages.filter(deleted_at=None)}


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait for a condition to hold; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def follow(
    subscription: Subscription, assembled: Assembled, until: Callable[[Assembled], bool], seconds: float = 10
) -> None:
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
    head, epoch = conversation.last_offset, conversation.epoch
    if assembled.epoch == epoch and assembled.offset >= head:
        return
    after = assembled.offset if assembled.epoch else None
    subscription = subscribe(conversation, user, after=after, epoch=assembled.epoch or None)
    await follow(subscription, assembled, lambda reader: reader.epoch == epoch and reader.offset >= head)
