"""One channel of one socket: a subscription, told in these clients' words."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from converse.cursors import read_cursor, write_cursor
from converse.events import frame as framed
from converse.hubs import Delivery, hub
from converse.models import Conversation
from converse.presence import Member
from converse.subscriptions import Withdrawn, subscribe
from converse.transports.flow import Slow
from converse.transports.pusher.lines import Line
from converse.transports.pusher.names import Channel
from converse.transports.pusher.protocol import OVERLOADED, TOO_SLOW, frame
from converse.transports.pusher.runs import steps
from converse.transports.pusher.tellings import Telling, live, snapshot, tellings, written

logger = logging.getLogger(__name__)

MISSING = "There is no such channel, or you may not follow it."


class Host(Protocol):
    """The socket that a room belongs to."""

    socket_id: str
    line: Line
    rooms: dict[str, Room]


class Room(ABC):
    """One channel of a socket: its work beside the socket's, and what happens when that ends by itself."""

    _task: asyncio.Task[None]

    def __init__(self, socket: Host, channel: Channel) -> None:
        self.socket = socket
        self.channel = channel
        self._succeeded = False

    def start(self) -> None:
        self.task = asyncio.create_task(self._run())

    @abstractmethod
    async def follow(self) -> None:
        """Tell what happens, on and on."""

    async def succeed(self) -> None:
        """Say once more that the channel is followed, without a cursor: what it has come to may be on its way still."""
        if self._succeeded:
            await self._succeed({})

    async def _succeed(self, told: dict[str, Any]) -> None:
        self._succeeded = True
        await self.socket.line.send(frame("pusher_internal:subscription_succeeded", told, self.channel.given))

    async def _run(self) -> None:
        try:
            await self.follow()
        except Withdrawn:
            self.socket.rooms.pop(self.channel.given, None)
            await self.socket.line.send(refusal(self.channel.given, MISSING, 403))
        except Slow:
            await self.socket.line.close(TOO_SLOW)
        except Exception:
            logger.exception("A channel failed.")
            await self.socket.line.close(OVERLOADED)


class ConversationRoom(Room):
    """Follows a conversation: with a cursor from there on, without one from now on."""

    def __init__(
        self,
        socket: Host,
        channel: Channel,
        conversation: Conversation,
        user: Any,
        *,
        member: Member | None,
        resume: str,
    ) -> None:
        super().__init__(socket, channel)
        found = read_cursor(resume)
        after, epoch = found or (None if channel.cache else conversation.last_offset, conversation.epoch)
        self.member = member
        self.subscription = subscribe(
            conversation, user, after=after, epoch=epoch, name=socket.socket_id, member=self.member
        )
        self._epoch = epoch
        # Where to go on from. Never a place that was not told yet: not the head while a replay is to come.
        self._seq = "" if after is None else write_cursor(after, epoch)
        self._here: dict[str, Mapping[str, str]] = {}

    async def follow(self) -> None:
        async with self.subscription as deliveries:
            roster = hub().rosters.get(self.subscription.uuid)
            self._here = {member["id"]: member for member in roster.users()} if roster and self.member else {}
            await self._succeed({"seq": self._seq} if self._seq else {})
            async for delivery in deliveries:
                for text in await self._texts(delivery):
                    await self.socket.line.tell(text)

    async def _succeed(self, told: dict[str, Any]) -> None:
        if self.member:
            told["presence"] = {"count": len(self._here), "ids": list(self._here), "hash": self._here}
        await super()._succeed(told)

    async def _texts(self, delivery: Delivery) -> list[str]:
        """Give the frames that tell a delivery."""
        match delivery.name:
            case "Here" | "Joining" | "Leaving":
                return list(self._presence(delivery))
            case "Whispered":
                return list(self._whispered(delivery.data))
        return [written(telling, self.channel.given) for telling in await self._tellings(delivery)]

    async def _tellings(self, delivery: Delivery) -> list[Telling]:
        offset = delivery.data.get("offset")
        self._epoch = delivery.data.get("epoch", self._epoch)
        if offset is None:
            return live(delivery, self._epoch)
        former, self._seq = self._seq, write_cursor(offset, self._epoch)
        match delivery.name:
            case "Snapshot":
                return snapshot(delivery.data, self._seq)
            case "Replay":
                return await self._unpacked(delivery.data, former)
        return live(delivery, self._epoch)

    async def _unpacked(self, data: Mapping[str, Any], former: str) -> list[Telling]:
        """Give what a replay packs one after the other, each with a cursor before which nothing is missing."""
        if len(data["events"]) < 2:
            only = [tellings(event["event"], event["data"], self._seq) for event in data["events"]]
            return [telling for told in only for telling in told]
        after, _ = read_cursor(former) or (0, "")
        found = await hub().query(steps, self.subscription.conversation_id, after, data["offset"], self._epoch)
        told: list[Telling] = []
        for number, (offset, event) in enumerate(found, 1):
            seq = self._seq if number == len(found) else write_cursor(offset, self._epoch)
            told += tellings(event.name, framed(event)["data"], seq)
        return told

    def _presence(self, delivery: Delivery) -> Iterator[str]:
        """Tell who came and went, unless the list that was given with the success had it already."""
        user = delivery.data.get("user")
        if user is None or (delivery.name == "Joining") == (user["id"] in self._here):
            return
        if delivery.name == "Joining":
            self._here[user["id"]] = user
            told = {"user_id": user["id"], "user_info": user}
            yield frame("pusher_internal:member_added", told, self.channel.given)
        else:
            del self._here[user["id"]]
            yield frame("pusher_internal:member_removed", {"user_id": user["id"]}, self.channel.given)

    def _whispered(self, data: Mapping[str, Any]) -> Iterator[str]:
        if data["channel"] == self.channel.canonical:
            named = {"user_id": data["userId"]} if self.member and data.get("userId") else {}
            yield frame(data["event"], data["data"], self.channel.given, **named)


def refusal(channel: str, reason: str, status: int, kind: str = "AuthError") -> str:
    """Write the frame that Echo's ``error()`` hears of."""
    return frame("pusher:subscription_error", {"type": kind, "error": reason, "status": status}, channel)
