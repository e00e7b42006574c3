"""Our own websocket: one socket, many conversations. Every frame is described in docs/reference/websocket.md."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from time import monotonic
from typing import Any
from urllib.parse import urlparse
from uuid import UUID, uuid4

from channels.db import database_sync_to_async
from channels.security.websocket import OriginValidator
from django.conf import settings as django_settings
from django.core.exceptions import ObjectDoesNotExist

from converse import records
from converse.broadcasting import publish
from converse.choices import Action
from converse.conf import settings
from converse.events import Typing
from converse.exceptions import ConversationBusy, InvalidMessage, UnknownProvider
from converse.models import Conversation, Message
from converse.permissions import find
from converse.presence import describe
from converse.subscriptions import Subscription, Withdrawn, subscribe

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TYPING_INTERVAL = 2.0  # seconds between two passed on
CHEAP = 10  # acknowledgements and pings may come this many times as often as other frames
WITHDRAWN = "There is no such conversation any more."
UNAUTHENTICATED, FOREIGN_ORIGIN, TOO_SLOW, TOO_MANY, TOO_LARGE = 4401, 4403, 4408, 4429, 1009


class Refused(Exception):  # noqa: N818 - a command's answer, not a fault
    """A command that is not carried out; becomes an error frame."""

    def __init__(self, code: str, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.frame = {"type": "error", "code": code, "reason": reason, **({"field": field} if field else {})}


class Flood(Exception):  # noqa: N818 - ends the socket
    """More frames than ``CONVERSE_FRAME_RATE`` allows."""


class Budget:
    """A bucket of tokens: so many frames a second, and a second's worth at once."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.tokens = rate
        self.at = monotonic()

    def spend(self) -> None:
        now = monotonic()
        self.tokens = min(self.rate, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            raise Flood
        self.tokens -= 1


class Feed:
    """A subscription being sent: at most a window of bytes ahead of the reader's acknowledgements."""

    def __init__(self, socket: Socket, subscription: Subscription) -> None:
        self.socket = socket
        self.subscription = subscription
        self.task: asyncio.Task[None] | None = None
        self._sent: deque[tuple[int, int]] = deque()  # offset, bytes
        self._unread = 0
        self._room = asyncio.Event()
        self._room.set()

    def acknowledge(self, offset: int) -> None:
        while self._sent and self._sent[0][0] <= offset:
            self._unread -= self._sent.popleft()[1]
        if self._unread <= settings.CONVERSE_WINDOW:
            self._room.set()

    def start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with self.subscription:
                async for delivery in self.subscription:
                    await self.socket.send_text(delivery.text)
                    if delivery.data.get("offset") is not None:
                        await self._count(delivery.data["offset"], len(delivery.text))
        except Withdrawn:
            uuid = self.subscription.uuid
            self.socket.feeds.pop(uuid, None)
            await self.socket.send(
                {"type": "unsubscribed", "conversation": uuid, "code": "not_found", "reason": WITHDRAWN}
            )
        except TimeoutError:
            await self.socket.close(TOO_SLOW)
        except Exception:
            logger.exception("A subscription failed")
            await self.socket.close(1011)

    async def _count(self, offset: int, size: int) -> None:
        self._sent.append((offset, size))
        self._unread += size
        if self._unread > settings.CONVERSE_WINDOW:
            self._room.clear()
            async with asyncio.timeout(settings.CONVERSE_ACK_TIMEOUT):
                await self._room.wait()

    async def end(self) -> None:
        if self.task:
            self.task.cancel()
            await asyncio.wait([self.task])


class Socket:
    """One accepted websocket."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.user = scope.get("user")
        self.id = uuid4().hex
        self.feeds: dict[str, Feed] = {}
        self._receive = receive
        self._send = send
        self._sending = asyncio.Lock()
        self._closed = False
        self._budget = Budget(settings.CONVERSE_FRAME_RATE)
        self._cheap = Budget(settings.CONVERSE_FRAME_RATE * CHEAP)
        self._typed: dict[str, float] = {}

    async def run(self) -> None:
        try:
            while not self._closed:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    self._closed = True
                    return
                await self._handle(message)
        except Flood:
            await self.close(TOO_MANY)
        finally:
            for feed in list(self.feeds.values()):
                await feed.end()

    async def send(self, frame: dict[str, Any]) -> None:
        await self.send_text(json.dumps(frame, separators=(",", ":")))

    async def send_text(self, text: str) -> None:
        async with self._sending:
            if not self._closed:
                await self._send({"type": "websocket.send", "text": text})

    async def close(self, code: int) -> None:
        async with self._sending:
            if not self._closed:
                self._closed = True
                await self._send({"type": "websocket.close", "code": code})

    async def _handle(self, message: MutableMapping[str, Any]) -> None:
        text = message.get("text")
        if text is None or len(text) > settings.CONVERSE_FRAME_LIMIT:
            await self.close(TOO_LARGE if text else 1003)
            return
        frame: Any = None
        try:
            frame = _parse(text)
            answer = await self._command(frame)
        except Refused as exc:
            answer = exc.frame
        except ObjectDoesNotExist:
            answer = Refused("not_found", "There is no such conversation or message.").frame
        except ConversationBusy as exc:
            answer = Refused("busy", str(exc), "conversation").frame
        except UnknownProvider as exc:
            answer = Refused("invalid", str(exc), "provider").frame
        except InvalidMessage as exc:
            answer = Refused("invalid", exc.reason, exc.field).frame
        except Flood:
            raise
        except Exception:
            logger.exception("A command failed")
            answer = Refused("server_error", "The server had a failure.").frame
        if answer is not None:
            known = frame.get("id") if isinstance(frame, dict) else None
            await self.send({**answer, **({} if known is None else {"id": known})})
        for feed in self.feeds.values():  # a new one begins after its answer
            feed.start()

    async def _command(self, frame: dict[str, Any]) -> dict[str, Any] | None:
        kind = frame.get("type")
        (self._cheap if kind in ("ack", "ping") else self._budget).spend()
        command = COMMANDS.get(kind) if isinstance(kind, str) else None
        if command is None:
            raise Refused("unknown_type", f"type must be one of {', '.join(COMMANDS)}", "type")
        return await command(self, frame)

    async def subscribe(self, frame: dict[str, Any]) -> dict[str, Any]:
        conversation = await self._find(frame, Action.READ)
        uuid = str(conversation.uuid)
        after = _number(frame, "after")
        if uuid not in self.feeds and len(self.feeds) >= settings.CONVERSE_SUBSCRIPTION_LIMIT:
            raise Refused(
                "too_many_subscriptions", f"A socket may follow {settings.CONVERSE_SUBSCRIPTION_LIMIT} conversations."
            )
        if former := self.feeds.pop(uuid, None):
            await former.end()
        subscription = subscribe(
            conversation,
            self.user,
            after=after,
            epoch=_text(frame, "epoch", required=False) or None,
            name=self.id,
            member=describe(self.user) if frame.get("presence") is True else None,
        )
        self.feeds[uuid] = Feed(self, subscription)
        return {
            "type": "subscribed",
            "conversation": uuid,
            "epoch": conversation.epoch,
            "head": conversation.last_offset,
        }

    async def unsubscribe(self, frame: dict[str, Any]) -> dict[str, Any]:
        uuid = _text(frame, "conversation")
        if feed := self.feeds.pop(uuid, None):
            await feed.end()
        return {"type": "unsubscribed", "conversation": uuid}

    async def message(self, frame: dict[str, Any]) -> dict[str, Any]:
        conversation = await self._find(frame, Action.WRITE)
        content = _text(frame, "content")
        if len(content) > settings.CONVERSE_MESSAGE_LIMIT:
            raise Refused("invalid", f"may have {settings.CONVERSE_MESSAGE_LIMIT} characters", "content")
        reply = await database_sync_to_async(conversation.reply)(
            content,
            external_id=_text(frame, "clientId", required=False, limit=100) or None,
            provider=_text(frame, "provider", required=False),
            policy=_text(frame, "policy", required=False),
        )
        return {
            "type": "sent",
            "conversation": str(conversation.uuid),
            "message": str(reply.reply_to.uuid),
            "reply": str(reply.uuid),
        }

    async def stop(self, frame: dict[str, Any]) -> dict[str, Any]:
        message = await database_sync_to_async(_stop)(self.user, _text(frame, "message"))
        return {"type": "stopped", "message": str(message.uuid), "status": str(message.status)}

    async def typing(self, frame: dict[str, Any]) -> None:
        conversation = await self._find(frame, Action.WRITE)
        uuid = str(conversation.uuid)
        if monotonic() - self._typed.get(uuid, -TYPING_INTERVAL) >= TYPING_INTERVAL:
            self._typed[uuid] = monotonic()
            publish(conversation.epoch, [Typing(conversation_id=uuid, user=describe(self.user))], origin=self.id)

    async def acknowledge(self, frame: dict[str, Any]) -> None:
        feed = self.feeds.get(_text(frame, "conversation"))
        if feed:
            feed.acknowledge(_number(frame, "offset") or 0)

    async def ping(self, frame: dict[str, Any]) -> dict[str, Any]:
        return {"type": "pong"}

    async def _find(self, frame: dict[str, Any], action: Action) -> Conversation:
        return await database_sync_to_async(find)(self.user, _text(frame, "conversation"), action)


def _stop(user: Any, uuid: str) -> Message:
    try:
        message = records.Message.objects.get(uuid=UUID(uuid))
    except ValueError:
        raise records.Message.DoesNotExist from None
    find(user, message.conversation.uuid, Action.WRITE)
    message.stop()
    return message


COMMANDS: dict[str, Callable[[Socket, dict[str, Any]], Awaitable[dict[str, Any] | None]]] = {
    "subscribe": Socket.subscribe,
    "unsubscribe": Socket.unsubscribe,
    "send": Socket.message,
    "stop": Socket.stop,
    "typing": Socket.typing,
    "ack": Socket.acknowledge,
    "ping": Socket.ping,
}


def _parse(text: str) -> dict[str, Any]:
    try:
        frame = json.loads(text)
    except ValueError:
        raise Refused("bad_frame", "A frame must be JSON.") from None
    if not isinstance(frame, dict):
        raise Refused("bad_frame", "A frame must be a JSON object.")
    return frame


def _text(frame: dict[str, Any], field: str, *, required: bool = True, limit: int | None = None) -> str:
    value = frame.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise Refused("invalid", "must be a string", field)
    if limit and len(value) > limit:
        raise Refused("invalid", f"may have {limit} characters", field)
    return value


def _number(frame: dict[str, Any], field: str) -> int | None:
    value = frame.get(field)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise Refused("invalid", "must be a whole number, 0 or more", field)
    return value


def origin_allowed(scope: Scope) -> bool:
    """Say whether a browser's page may open this socket: one of ours, or one that the settings name."""
    hosts = list(django_settings.ALLOWED_HOSTS) or (
        ["localhost", "127.0.0.1", "[::1]"] if django_settings.DEBUG else []
    )
    validator = OriginValidator(None, [*hosts, *settings.CONVERSE_ALLOWED_ORIGINS])
    origin = dict(scope.get("headers", [])).get(b"origin", b"").decode("latin-1")
    return bool(validator.valid_origin(urlparse(origin) if origin else None))


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one websocket: the ASGI application that ``converse.routing`` mounts."""
    await receive()
    await send({"type": "websocket.accept"})
    user = scope.get("user")
    if not origin_allowed(scope):
        await send({"type": "websocket.close", "code": FOREIGN_ORIGIN})
    elif user is None or not user.is_authenticated:
        await send({"type": "websocket.close", "code": UNAUTHENTICATED})
    else:
        await Socket(scope, receive, send).run()
