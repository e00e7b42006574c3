"""Our own websocket: one socket, many conversations. Every frame is described in docs/reference/websocket.md."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from time import monotonic
from typing import Any
from urllib.parse import urlparse
from uuid import UUID, uuid4

from channels.db import database_sync_to_async
from channels.security.websocket import OriginValidator
from django.conf import settings as django_settings

from converse.broadcasting import publish
from converse.choices import Action
from converse.conf import settings
from converse.events import Typing
from converse.log import database
from converse.models import Conversation, Message
from converse.permissions import find, fresh
from converse.presence import describe
from converse.subscriptions import Subscription, Withdrawn, subscribe
from converse.transports.frames import Budget, Flood, Refused, explain, id_of, number_of, parse, text_of

logger = logging.getLogger(__name__)

Frame = dict[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TYPING_INTERVAL = 2.0  # seconds between two passed on
CHEAP = 10  # acknowledgements and pings may come this many times as often as other frames
WITHDRAWN = "There is no such conversation any more."
UNAUTHENTICATED, FOREIGN_ORIGIN, TOO_SLOW, TOO_MANY = 4401, 4403, 4408, 4429
NOT_TEXT, TOO_LARGE, FAILED = 1003, 1009, 1011


class Slow(Exception):
    """A window stood full for ``CONVERSE_ACK_TIMEOUT``."""


class Feed:
    """A subscription being sent: at most a window of bytes ahead of the reader's acknowledgements."""

    def __init__(self, socket: Socket, subscription: Subscription) -> None:
        self.socket = socket
        self.subscription = subscription
        self.task: asyncio.Task[None] | None = None
        self._sent: deque[tuple[int, int]] = deque()  # offset, bytes
        self._unread = 0
        self._room = asyncio.Event()

    def start(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    async def end(self) -> None:
        await _end([self])

    def acknowledge(self, offset: int) -> None:
        """Learn that the reader has taken everything up to an offset."""
        while self._sent and self._sent[0][0] <= offset:
            self._unread -= self._sent.popleft()[1]
        if self._unread <= settings.CONVERSE_WINDOW:
            self._room.set()

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
            withdrawn = {"type": "unsubscribed", "conversation": uuid, "code": "not_found", "reason": WITHDRAWN}
            await self.socket.send(withdrawn)
        except Slow:
            await self.socket.close(TOO_SLOW)
        except Exception:
            logger.exception("A subscription failed.")
            await self.socket.close(FAILED)

    async def _count(self, offset: int, size: int) -> None:
        self._sent.append((offset, size))
        self._unread += size
        if self._unread > settings.CONVERSE_WINDOW:
            self._room.clear()
            try:
                async with asyncio.timeout(settings.CONVERSE_ACK_TIMEOUT):
                    await self._room.wait()
            except TimeoutError:
                raise Slow from None


async def _end(feeds: Iterable[Feed]) -> None:
    """Cancel feeds, all of them before waiting for any: whoever waits may be cancelled."""
    tasks = [feed.task for feed in feeds if feed.task]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


class Socket:
    """One accepted websocket of a signed-in user."""

    def __init__(self, user: Any, receive: Receive, send: Send) -> None:
        self.user = user
        self.name = uuid4().hex
        self.feeds: dict[str, Feed] = {}
        self._receive = receive
        self._send = send
        self._sending = asyncio.Lock()
        self._closed = False
        # Who comes back may follow everything again at once.
        self._budget = Budget(settings.CONVERSE_FRAME_RATE, besides=settings.CONVERSE_SUBSCRIPTION_LIMIT)
        self._cheap = Budget(settings.CONVERSE_FRAME_RATE * CHEAP)
        self._typed = -TYPING_INTERVAL

    async def run(self) -> None:
        """Answer the client's commands until the socket ends."""
        try:
            while not self._closed:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    self._closed = True
                else:
                    await self._handle(message.get("text"))
        except Flood:
            await self.close(TOO_MANY)
        finally:
            await _end(self.feeds.values())

    async def send(self, frame: Frame) -> None:
        await self.send_text(json.dumps(frame, separators=(",", ":")))

    async def send_text(self, text: str) -> None:
        await self._pass_on({"type": "websocket.send", "text": text})

    async def close(self, code: int) -> None:
        await self._pass_on({"type": "websocket.close", "code": code}, last=True)

    async def _pass_on(self, message: dict[str, Any], *, last: bool = False) -> None:
        async with self._sending:
            if self._closed:
                return
            self._closed = last
            try:
                await self._send(message)
            except OSError:  # so a server says that the reader is gone; receive() is about to tell, too
                self._closed = True

    async def _handle(self, text: str | None) -> None:
        if text is None or len(text.encode(errors="surrogatepass")) > settings.CONVERSE_FRAME_LIMIT:
            await self.close(NOT_TEXT if text is None else TOO_LARGE)
            return
        frame: Frame = {}
        try:
            try:
                frame = parse(text)
            finally:  # what is no JSON costs, too
                (self._cheap if frame.get("type") in ("ack", "ping") else self._budget).spend()
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
        conversation = await self._find(frame, Action.READ)
        uuid = str(conversation.uuid)
        after = number_of(frame, "after")
        epoch = text_of(frame, "epoch", required=False)
        if uuid not in self.feeds and len(self.feeds) >= settings.CONVERSE_SUBSCRIPTION_LIMIT:
            raise Refused("too_many_subscriptions", f"may follow {settings.CONVERSE_SUBSCRIPTION_LIMIT} conversations")
        if former := self.feeds.pop(uuid, None):
            await former.end()
        member = describe(self.user) if frame.get("presence") is True else None
        subscription = subscribe(conversation, self.user, after=after, epoch=epoch, name=self.name, member=member)
        self.feeds[uuid] = Feed(self, subscription)
        head = {"epoch": conversation.epoch, "head": conversation.last_offset}
        return {"type": "subscribed", "conversation": uuid, **head}

    async def unsubscribe(self, frame: Frame) -> Frame:
        uuid = _uuid_of(frame)
        if feed := self.feeds.pop(uuid, None):
            await feed.end()
        return {"type": "unsubscribed", "conversation": uuid}

    async def message(self, frame: Frame) -> Frame:
        conversation = await self._find(frame, Action.WRITE)
        message, reply = await database_sync_to_async(_reply)(
            conversation,
            text_of(frame, "content", limit=settings.CONVERSE_MESSAGE_LIMIT),
            external_id=text_of(frame, "clientId", required=False, limit=100) or None,
            provider=_provider_of(frame),
            policy=text_of(frame, "policy", required=False),
        )
        return {"type": "sent", "conversation": str(conversation.uuid), "message": message, "reply": reply}

    async def stop(self, frame: Frame) -> Frame:
        message = await database_sync_to_async(_stop)(self.user, text_of(frame, "message"))
        return {"type": "stopped", "message": str(message.uuid), "status": str(message.status)}

    async def typing(self, frame: Frame) -> None:
        conversation = await self._find(frame, Action.WRITE)
        if monotonic() - self._typed >= TYPING_INTERVAL:
            self._typed = monotonic()
            told = Typing(conversation_id=str(conversation.uuid), user=describe(self.user))
            publish(conversation.epoch, [told], origin=self.name)

    async def acknowledge(self, frame: Frame) -> None:
        offset = number_of(frame, "offset")
        if offset is None:
            raise Refused("invalid", "is missing", "offset")
        if feed := self.feeds.get(_uuid_of(frame)):
            feed.acknowledge(offset)

    async def ping(self, frame: Frame) -> Frame:
        return {"type": "pong"}

    async def _find(self, frame: Frame, action: Action) -> Conversation:
        found: Conversation = await database_sync_to_async(_find)(self.user, text_of(frame, "conversation"), action)
        return found


COMMANDS: dict[str, Callable[[Socket, Frame], Awaitable[Frame | None]]] = {
    "subscribe": Socket.subscribe,
    "unsubscribe": Socket.unsubscribe,
    "send": Socket.message,
    "stop": Socket.stop,
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


def _find(user: Any, uuid: str, action: Action) -> Conversation:
    return find(fresh(user), uuid, action)


def _provider_of(frame: Frame) -> str:
    alias = text_of(frame, "provider", required=False)
    if alias and alias not in (settings.CONVERSE_DEFAULT_PROVIDER, *settings.CONVERSE_CLIENT_PROVIDERS):
        raise Refused("invalid", "There is no such provider.", "provider")
    return alias


def _reply(conversation: Conversation, content: str, **kwargs: Any) -> tuple[str, str]:
    reply = conversation.reply(content, **kwargs)
    return str(reply.reply_to.uuid) if reply.reply_to else "", str(reply.uuid)


def _stop(user: Any, uuid: str) -> Message:
    try:
        message: Message = Message.objects.using(database()).select_related("conversation").get(uuid=UUID(uuid))
    except ValueError:
        raise Message.DoesNotExist from None
    _find(user, str(message.conversation.uuid), Action.WRITE)
    message.stop()
    return message


def origin_allowed(scope: Scope) -> bool:
    """Say whether a browser's page may open this socket: one of ours, or one that the settings name."""
    local = ["localhost", "127.0.0.1", "[::1]"] if django_settings.DEBUG else []
    allowed = [*(django_settings.ALLOWED_HOSTS or local), *settings.CONVERSE_ALLOWED_ORIGINS]
    origin = dict(scope.get("headers", [])).get(b"origin", b"").decode("latin-1")
    try:
        return bool(OriginValidator(websocket, allowed).valid_origin(urlparse(origin) if origin else None))
    except ValueError:  # "http://[", or a port that is none
        return False


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    """Serve one websocket: the ASGI application that ``converse.routing`` mounts."""
    await receive()
    await send({"type": "websocket.accept"})
    user = scope.get("user")
    if not origin_allowed(scope):
        await send({"type": "websocket.close", "code": FOREIGN_ORIGIN})
    elif user is None or not user.is_authenticated:
        await send({"type": "websocket.close", "code": UNAUTHENTICATED})
    else:
        await Socket(user, receive, send).run()
