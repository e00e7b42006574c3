"""Our own websocket: one socket, many conversations. Every frame is described in docs/reference/websocket.md."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

from channels.db import database_sync_to_async

from converse.broadcasting import publish
from converse.choices import Action
from converse.conf import settings
from converse.events import Typing
from converse.presence import Member, describe
from converse.subscriptions import subscribe
from converse.transports import commands
from converse.transports.commands import conversation_of, readable
from converse.transports.feeds import Feed, end_all
from converse.transports.flow import Wire
from converse.transports.frames import (
    Allowance,
    Flood,
    Frame,
    Refused,
    explain,
    id_of,
    number_of,
    parse,
    pieces,
    text_of,
)
from converse.transports.origins import allowed

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]

TYPING_INTERVAL = 2.0  # seconds between two passed on
UNAUTHENTICATED, FOREIGN_ORIGIN, TOO_MANY = 4401, 4403, 4429
NOT_TEXT, TOO_LARGE = 4415, 4413


class Socket:
    """One accepted websocket of a signed-in user."""

    def __init__(self, user: Any, wire: Wire) -> None:
        self.user = user
        self.name = uuid4().hex
        self.feeds: dict[str, Feed] = {}
        self._wire = wire
        self._allowance = Allowance()
        self._typed = -TYPING_INTERVAL

    async def run(self) -> None:
        """Answer the client's commands until the socket ends."""
        try:
            while not self._wire.closed:
                message = await self._wire.read()
                if message["type"] != "websocket.disconnect":
                    await self._handle(message.get("text"))
        except Flood:
            await self.close(TOO_MANY)
        finally:
            await end_all(self.feeds.values())

    async def send(self, frame: Frame) -> None:
        await self.send_text(json.dumps(frame, separators=(",", ":")))

    async def send_text(self, text: str) -> None:
        await self._wire.send(*pieces(text))

    async def close(self, code: int) -> None:
        await self._wire.close(code)

    async def _handle(self, text: str | None) -> None:
        if text is None or len(text.encode(errors="surrogatepass")) > settings.CONVERSE_FRAME_LIMIT:
            await self.close(NOT_TEXT if text is None else TOO_LARGE)
            return
        frame: Frame = {}
        try:
            try:
                frame = parse(text)
            finally:  # what is no JSON costs, too
                self._allowance.spend(cheap=frame.get("type") in ("ack", "ping"))
            answer = await self._command(frame)
        except Flood:
            raise
        except Exception as exc:
            answer = self._excuse(exc)
        if answer is not None:
            await self.send({**answer, **id_of(frame)})
        for feed in self.feeds.values():  # a new one begins after its answer
            feed.start()

    def _excuse(self, exc: Exception) -> Frame:
        refused = explain(exc)
        if refused is None:
            logger.error("A command failed.", exc_info=exc)
            refused = Refused("server_error", "The server had a failure.")
        return refused.frame

    async def _command(self, frame: Frame) -> Frame | None:
        kind = frame.get("type")
        command = COMMANDS.get(kind) if isinstance(kind, str) else None
        if command is None:
            raise Refused("unknown_type", f"must be one of {', '.join(COMMANDS)}", "type")
        return await command(self, frame)

    async def subscribe(self, frame: Frame) -> Frame:
        conversation, may_write = await database_sync_to_async(readable)(self.user, frame)
        uuid = str(conversation.uuid)
        after = number_of(frame, "after")
        epoch = text_of(frame, "epoch", required=False)
        if uuid not in self.feeds and len(self.feeds) >= settings.CONVERSE_SUBSCRIPTION_LIMIT:
            raise Refused("too_many_subscriptions", f"may follow {settings.CONVERSE_SUBSCRIPTION_LIMIT} conversations")
        if former := self.feeds.pop(uuid, None):
            await former.end()
        member = await self._described() if frame.get("presence") is True else None
        subscription = subscribe(conversation, self.user, after=after, epoch=epoch, name=self.name, member=member)
        self.feeds[uuid] = Feed(self, subscription)
        head = {"epoch": conversation.epoch, "head": conversation.last_offset}
        return {"type": "subscribed", "conversation": uuid, **head, "mayWrite": may_write}

    async def unsubscribe(self, frame: Frame) -> Frame:
        uuid = _uuid_of(frame)
        if feed := self.feeds.pop(uuid, None):
            await feed.end()
        return {"type": "unsubscribed", "conversation": uuid}

    async def typing(self, frame: Frame) -> None:
        conversation = await database_sync_to_async(conversation_of)(self.user, frame, Action.WRITE)
        if monotonic() - self._typed >= TYPING_INTERVAL:
            self._typed = monotonic()
            told = Typing(conversation_id=str(conversation.uuid), user=await self._described())
            publish(conversation.epoch, [told], origin=self.name)

    async def acknowledge(self, frame: Frame) -> None:
        offset = number_of(frame, "offset")
        if offset is None:
            raise Refused("invalid", "is missing", "offset")
        if feed := self.feeds.get(_uuid_of(frame)):
            feed.acknowledge(offset)

    async def ping(self, frame: Frame) -> Frame:
        return {"type": "pong"}

    async def _described(self) -> Member:
        member: Member = await database_sync_to_async(describe)(self.user)  # a name may have to be looked up
        return member


def _writing(command: Callable[[Any, Frame], Frame]) -> Callable[[Socket, Frame], Awaitable[Frame | None]]:
    async def run(socket: Socket, frame: Frame) -> Frame:
        return await database_sync_to_async(command)(socket.user, frame)

    return run


COMMANDS: dict[str, Callable[[Socket, Frame], Awaitable[Frame | None]]] = {
    "subscribe": Socket.subscribe,
    "unsubscribe": Socket.unsubscribe,
    **{name: _writing(command) for name, command in commands.COMMANDS.items()},
    "typing": Socket.typing,
    "ack": Socket.acknowledge,
    "ping": Socket.ping,
}


def _uuid_of(frame: Frame) -> str:
    """Give the conversation that a frame names as we write it, in whatever way it is written there."""
    text = text_of(frame, "conversation")
    try:
        return str(UUID(text))
    except ValueError:
        return text


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    """Serve one websocket: the ASGI application that ``converse.routing`` mounts."""
    await receive()
    await send({"type": "websocket.accept"})
    user = scope.get("user")
    if not allowed(dict(scope.get("headers", [])).get(b"origin", b"").decode("latin-1")):
        await send({"type": "websocket.close", "code": FOREIGN_ORIGIN})
    elif user is None or not user.is_authenticated:
        await send({"type": "websocket.close", "code": UNAUTHENTICATED})
    else:
        await Socket(user, Wire(receive, send)).run()
