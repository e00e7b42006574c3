"""One websocket of a pusher-js client: the ASGI application, and what it answers to each frame."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist, ValidationError

from converse.choices import Action
from converse.conf import settings
from converse.models import Conversation
from converse.permissions import find, fresh
from converse.presence import describe
from converse.transports.flow import end
from converse.transports.frames import Allowance, Budget, Flood, Frame, Refused, parse
from converse.transports.origins import allowed
from converse.transports.pusher import protocol
from converse.transports.pusher.channels import MISSING, ConversationRoom, Room, refusal
from converse.transports.pusher.drains import drain
from converse.transports.pusher.lines import Line
from converse.transports.pusher.names import Channel, channel
from converse.transports.pusher.protocol import error, frame
from converse.transports.pusher.users import UserRoom
from converse.transports.pusher.whispers import PREFIX, say

logger = logging.getLogger(__name__)

UNSIGNED = "The signature is not one for this socket and channel."


class Denied(Exception):
    """A subscription that is refused: the client's callback for errors hears of it."""

    def __init__(self, reason: str = MISSING, status: int = 403, kind: str = "AuthError") -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.kind = kind


class Socket:
    """One accepted websocket. Nobody is known yet: who may follow what is proved by signatures of the auth endpoint."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.socket_id = protocol.new_socket_id()
        self.rooms: dict[str, Room] = {}
        self.user_id = ""  # of who signed in
        self._allowance = Allowance()
        self._whispers = Budget(protocol.WHISPER_RATE)

    async def run(self) -> None:
        """Answer the client's frames until the socket ends."""
        opened = {"socket_id": self.socket_id, "activity_timeout": protocol.ACTIVITY_TIMEOUT}
        try:
            await self.line.send(frame("pusher:connection_established", opened))
            while not self.line.closed:
                message = await self.line.read()
                if not self.line.closed:
                    await self._handle(message.get("text"))
        except Flood:
            await self.line.close(protocol.OVERLOADED)
        finally:
            await end([room.task for room in self.rooms.values()])

    async def _handle(self, text: str | None) -> None:
        told: Frame = {}
        try:
            try:
                told = _read(text)
            finally:  # what makes no sense costs, too
                self._allowance.spend(cheap=told.get("event") in ("pusher:ping", "pusher:pong"))
            await self._answer(told)
        except Refused as exc:
            code = protocol.CLIENT_EVENT if exc.frame["code"] == "client_event" else None
            await self.line.send(error(code, exc.frame["reason"]))
        except Flood:
            raise
        except Exception:
            logger.exception("A frame could not be answered.")
            await self.line.send(error(None, protocol.FAILURE))

    async def _answer(self, told: Frame) -> None:
        event = told.get("event")
        if not isinstance(event, str):
            raise Refused("bad_frame", "A frame must have an event, which is a text.")
        if event.startswith(PREFIX):
            await self._whisper(event, told)
        elif answer := EVENTS.get(event):
            await answer(self, _data_of(told))
        else:
            raise Refused("unknown_type", f"must be one of {', '.join(EVENTS)}, or begin with {PREFIX}", "event")

    async def ping(self, data: Frame) -> None:
        await self.line.send(frame("pusher:pong", {}))

    async def pong(self, data: Frame) -> None:
        self.line.answered()

    async def subscribe(self, data: Frame) -> None:
        name = data.get("channel")
        if isinstance(name, str) and (room := self.rooms.get(name)):
            await room.succeed()
            return
        try:
            if len(self.rooms) >= settings.CONVERSE_SUBSCRIPTION_LIMIT:
                limit = settings.CONVERSE_SUBSCRIPTION_LIMIT
                raise Denied(f"A socket may follow {limit} channels.", 429, "LimitReached")
            room = await self._room(channel(name), data)
        except Denied as exc:
            given = name if isinstance(name, str) and len(name) <= protocol.EVENT_LIMIT else ""
            await self.line.send(refusal(given, exc.reason, exc.status, exc.kind))
            return
        except Exception:  # the client waits for this very channel's answer
            logger.exception("A channel could not be followed.")
            await self.line.send(refusal(str(name)[: protocol.EVENT_LIMIT], protocol.FAILURE, 500, "ServerError"))
            return
        self.rooms[room.channel.given] = room
        room.start()

    async def _room(self, wanted: Channel | None, data: Frame) -> Room:
        """Make the room for a channel; raise Denied unless this client may follow it."""
        if wanted is None:
            raise Denied
        if wanted.signs_in:
            if not self.user_id or wanted.user != self.user_id:
                raise Denied
            return UserRoom(self, wanted, await database_sync_to_async(_user)(self.user_id))
        facts = self._signed_facts(wanted, data)
        user_id = str(facts.get("user_id", ""))
        if wanted.user:
            if wanted.user != user_id:
                raise Denied
            return UserRoom(self, wanted, await database_sync_to_async(_user)(user_id))
        user, conversation = await database_sync_to_async(_found)(user_id, wanted.conversation)
        member = await database_sync_to_async(describe)(user) if wanted.presence else None
        return ConversationRoom(self, wanted, conversation, user, member=member, resume=str(facts.get("after", "")))

    def _signed_facts(self, wanted: Channel, data: Frame) -> Frame:
        """Give what the auth endpoint has signed: who follows, and from where on."""
        channel_data = data.get("channel_data")
        if not isinstance(channel_data, str | None):
            raise Denied(UNSIGNED, 401)
        text = protocol.channel_text(self.socket_id, wanted.given, channel_data)
        if not protocol.signed(data.get("auth"), text):
            raise Denied(UNSIGNED, 401)
        try:
            facts = parse(channel_data or "{}")
        except Refused:
            raise Denied(UNSIGNED, 401) from None
        if not facts.get("user_id"):
            raise Denied("The channel_data must name the user: without one a right could not be withdrawn.", 401)
        return facts

    async def unsubscribe(self, data: Frame) -> None:
        name = data.get("channel")
        if isinstance(name, str) and (room := self.rooms.pop(name, None)):
            await end([room.task])

    async def sign_in(self, data: Frame) -> None:
        user_data = data.get("user_data")
        if not isinstance(user_data, str) or not protocol.signed(
            data.get("auth"), protocol.user_text(self.socket_id, user_data)
        ):
            await self.line.send(error(protocol.REFUSED, "The signature is not one for this socket and user."))
            await self.line.close(protocol.REFUSED)
            return
        self.user_id = str(parse(user_data).get("id", ""))
        await self.line.send(frame("pusher:signin_success", {"user_data": user_data}))

    async def _whisper(self, event: str, told: Frame) -> None:
        """Pass on what a client says to the others in a channel."""
        name = told.get("channel")
        room = self.rooms.get(name) if isinstance(name, str) else None
        if not isinstance(room, ConversationRoom):
            await self.line.send(
                error(protocol.REFUSED, "Client events take a conversation's channel that is followed.")
            )
            return
        if len(event) > protocol.EVENT_LIMIT:
            raise Refused("client_event", f"A client event's name may have {protocol.EVENT_LIMIT} characters.")
        if not protocol.is_text(event):  # half a character would end the stream of whoever it is passed on to
            raise Refused("client_event", "A client event's name must be text that can be written down.")
        try:
            self._whispers.spend()
        except Flood:
            raise Refused("client_event", f"May say {protocol.WHISPER_RATE:g} things a second.") from None
        user = room.subscription.user
        if not await database_sync_to_async(_may_write)(user, room.channel.conversation):
            raise Refused("client_event", "Who may only read may not say anything.")
        await say(room.channel, event, _text_of(told.get("data")), user_id=str(user.pk), but=self.socket_id)


EVENTS: dict[str, Callable[[Socket, Frame], Awaitable[None]]] = {
    "pusher:subscribe": Socket.subscribe,
    "pusher:unsubscribe": Socket.unsubscribe,
    "pusher:signin": Socket.sign_in,
    "pusher:ping": Socket.ping,
    "pusher:pong": Socket.pong,
}


def _read(text: str | None) -> Frame:
    """Read a frame; raise Refused for one that is none."""
    if text is None:
        raise Refused("bad_frame", "A frame must be text.")
    if len(text.encode(errors="surrogatepass")) > protocol.FRAME_LIMIT:
        raise Refused("client_event", f"A frame may have {protocol.FRAME_LIMIT} bytes.")
    return parse(text)


def _data_of(told: Frame) -> Frame:
    """Give a frame's data, an object or the text of one."""
    data = told.get("data")
    if isinstance(data, str):
        return parse(data)
    return data if isinstance(data, dict) else {}


def _text_of(data: Any) -> str:
    """Give what a client says as the text that others are sent; raise Refused for what they could not read."""
    try:
        text = data if isinstance(data, str) else json.dumps(data, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError):
        raise Refused("client_event", "The data of a client event must be JSON.") from None
    return text


def _user(user_id: str) -> Any:
    """Give an active user by id; raise Denied where there is none."""
    try:
        user = get_user_model()._meta.base_manager.get(pk=user_id)
    except (ObjectDoesNotExist, ValidationError, ValueError):
        raise Denied from None
    if not user.is_active:
        raise Denied
    return user


def _found(user_id: str, uuid: str) -> tuple[Any, Conversation]:
    user = _user(user_id)
    try:
        return user, find(user, uuid, Action.READ)
    except Conversation.DoesNotExist:
        raise Denied from None


def _may_write(user: Any, uuid: str) -> bool:
    try:
        find(fresh(user), uuid, Action.WRITE)
    except ObjectDoesNotExist:
        return False
    return True


def refused(scope: Any) -> tuple[int, str] | None:
    """Say by which code, and why, a client is not served; None for one that is."""
    if scope["url_route"]["kwargs"]["key"] != settings.CONVERSE_ECHO_KEY:
        return protocol.UNKNOWN_KEY, "There is no app of this key."
    version = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("protocol", [""])[0]
    if not version:
        return protocol.NO_VERSION, "Say which protocol you speak: ?protocol=7"
    if version not in protocol.VERSIONS:
        return protocol.WRONG_VERSION, f"Versions {', '.join(protocol.VERSIONS)} are spoken here."
    origin = dict(scope.get("headers", [])).get(b"origin")
    # A browser always says where its page is from; what is no browser has no cookies that could be abused.
    if origin is not None and not allowed(origin.decode("latin-1")):
        return protocol.REFUSED, "Pages of this origin are not served."
    if drain().draining:
        return protocol.OVERLOADED, "This server is about to end."
    return None


async def pusher(scope: Any, receive: Any, send: Any) -> None:
    """Serve one websocket: the ASGI application that ``converse.routing`` mounts."""
    await receive()
    await send({"type": "websocket.accept"})  # also who is refused: else they would try again for ever
    line = Line(receive, send)
    if why := refused(scope):
        code, reason = why
        await line.send(error(code, reason))
        await line.close(code)
        return
    lines = drain().lines
    lines.add(line)
    try:
        await Socket(line).run()
    finally:
        lines.discard(line)
