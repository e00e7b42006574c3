"""Server-sent events: what a subscription brings as text that ``EventSource`` reads, with signs of life in between."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, cast

from django.http import StreamingHttpResponse

from converse.choices import CLOSED
from converse.conf import settings
from converse.cursors import write_cursor
from converse.events import Event
from converse.hubs import Delivery
from converse.subscriptions import Subscription, Withdrawn

logger = logging.getLogger(__name__)

LIFE = ":\n\n"  # a comment: readers drop it, proxies see that the connection lives
ENDINGS = ("MessageCompleted", "MessageFailed", "MessageCancelled", "MessageDeleted")

HEADERS = {
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx
    "Content-Encoding": "identity",  # GZipMiddleware leaves alone what is encoded already
}


class EventStream(StreamingHttpResponse):
    """Sends text as it comes, past everything that would gather it first."""

    def __init__(self, lines: AsyncGenerator[str, None], headers: Mapping[str, str] | None = None) -> None:
        told = {**HEADERS, **(headers or {})}
        super().__init__(lines, content_type="text/event-stream; charset=utf-8", headers=told)

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        # Who leaves while text is being sent cancels that, not what makes the text: it must hear of it at once, too.
        lines: AsyncGenerator[str, None] = self._iterator  # type: ignore[attr-defined]
        async with aclosing(lines):
            async for line in lines:
                yield self.make_bytes(line)


async def alive(subscription: Subscription) -> AsyncGenerator[Delivery | None, None]:
    """Hand on what a subscription brings; None each time that nothing came for ``CONVERSE_SSE_HEARTBEAT``."""
    coming: asyncio.Task[Delivery] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(subscription.__anext__())
            # Never a timeout around it: cancelled in its midst, a look at the reader's right would count as done.
            await asyncio.wait([coming], timeout=settings.CONVERSE_SSE_HEARTBEAT)
            if coming.done():
                done, coming = coming, None
                yield done.result()
            else:
                yield None
    finally:
        if coming:
            coming.cancel()
            await asyncio.wait([coming])


class Events:
    """The lines of one response: each delivery with the cursor that resumes after it.

    A response ends cleanly after ``CONVERSE_SSE_LIMIT`` bytes, for a server may keep in memory what a slow reader has
    not taken yet; the reader comes back with its cursor. Of a whole conversation, or of one ``message`` until its end.
    """

    def __init__(self, subscription: Subscription, epoch: str, message: str = "") -> None:
        self.subscription = subscription
        self.epoch = epoch
        self.message = message
        self.ended = False

    async def lines(self) -> AsyncGenerator[str, None]:
        sent = 0
        yield retry()
        try:
            async with self.subscription, aclosing(alive(self.subscription)) as deliveries:
                async for delivery in deliveries:
                    text = self._text(delivery) if delivery else LIFE
                    if text:
                        sent += len(text.encode())
                        yield text
                    if self.ended or sent > settings.CONVERSE_SSE_LIMIT:
                        return
        except Withdrawn:
            yield written("Withdrawn", json.dumps({"conversationId": self.subscription.uuid}))
        except Exception:  # it is logged and the response ended in order: the reader comes back with its cursor
            logger.exception("A stream of events failed.")

    def _text(self, delivery: Delivery) -> str:
        self.epoch = delivery.data.get("epoch", self.epoch)
        told = self._of_message(delivery) if self.message else delivery
        return told_as(told, self.epoch) if told else ""

    def _of_message(self, delivery: Delivery) -> Delivery | None:
        """Give what a delivery tells of the one message, and note its end."""
        if delivery.name == "Snapshot":
            self.ended = True  # the log was renumbered: with its old cursor the reader gets the message anew
            return None
        if delivery.name != "Replay":
            self.ended = ends(delivery.name, delivery.data, self.message)
            return delivery if delivery.data.get("messageId") == self.message else None
        events = [event for event in delivery.data["events"] if event["data"].get("messageId") == self.message]
        self.ended = any(ends(event["event"], event["data"], self.message) for event in events)
        return Delivery(delivery.name, {**delivery.data, "events": events}) if events else None


async def once(event: Event, epoch: str) -> AsyncGenerator[str, None]:
    """Tell one event and end."""
    yield retry()
    yield told_as(Delivery.of(event), epoch)


def ends(name: str, data: Mapping[str, Any], message: str) -> bool:
    """Say whether an event is a message's last."""
    return data.get("messageId") == message and (name in ENDINGS or data.get("status") in CLOSED)


def retry() -> str:
    """Say how long to wait before coming back."""
    return f"retry: {int(settings.CONVERSE_SSE_RETRY * 1000)}\n\n"


def told_as(delivery: Delivery, epoch: str) -> str:
    """Write a delivery as an event whose data are those of a listener."""
    offset = delivery.data.get("offset")
    head = len(json.dumps({"event": delivery.name}, separators=(",", ":"))) + len(',"data":') - 1
    data = delivery.text[head:-1]  # encoded once for all readers, as {"event":…,"data":…}
    return written(delivery.name, data, "" if offset is None else write_cursor(offset, epoch))


def written(name: str, data: str, cursor: str = "") -> str:
    named = f"id: {cursor}\n" if cursor else ""
    return f"{named}event: {name}\ndata: {data}\n\n"


def of_message(delivery: Delivery, message: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield what a delivery tells of a message, a snapshot's state as ``Snapshot``."""
    data = delivery.data
    if delivery.name == "Snapshot":
        yield from (("Snapshot", state) for state in data["messages"] if state["messageId"] == message)
    elif delivery.name == "Replay":
        told = (event for event in data["events"] if event["data"].get("messageId") == message)
        yield from ((event["event"], cast("Mapping[str, Any]", event["data"])) for event in told)
    elif data.get("messageId") == message:
        yield delivery.name, data
