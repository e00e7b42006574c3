"""Events to a conversation's group in the channel layer: the doorbell, which may fail without harm."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

from channels.layers import BaseChannelLayer, get_channel_layer

from converse import loops
from converse.conf import settings
from converse.events import Event, StreamUpdate
from converse.loops import PerLoop

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000  # groups' batches waiting for the layer; the oldest are dropped, and read from the table instead
IN_FLIGHT = 64  # groups sent to at a time
PATIENCE = 5.0  # seconds for the layer to take what is in flight
PAUSE = 0.5  # seconds of silence after the layer failed
ESCAPED = 6  # bytes that one character may take in JSON


def group_name(conversation_id: str) -> str:
    """Name the group of a conversation, by its uuid."""
    return f"conversation.{conversation_id}"


# Channels makes a layer when it is first asked for. Of two threads that ask at once each would get one of its own, and
# what one sends the other would never hear.
_asking = threading.Lock()


def layer() -> BaseChannelLayer | None:
    """Give the channel layer of ``CONVERSE_CHANNEL_LAYER``; without one readers poll."""
    with _asking:
        found: BaseChannelLayer | None = get_channel_layer(settings.CONVERSE_CHANNEL_LAYER)
    return found


def publish(epoch: str, events: Iterable[Event], origin: str = "") -> None:
    """Ring for committed events of one conversation, from any thread. Never raises, never waits.

    Each event is one message of the group, of the event's ``layer_type``: ``{"type": "stream.update", "event":
    "StreamUpdate", "epoch": …, "data": {…}}``. An event over ``CONVERSE_EVENT_LIMIT`` goes as a pointer, its data only
    ``conversationId`` and ``offset``, and has its readers look into the table. ``origin`` names a reader to leave out.
    """
    limit = settings.CONVERSE_EVENT_LIMIT
    left_out = {"origin": origin} if origin else {}
    _send_soon([[{**_message(epoch, event, limit), **left_out} for event in events]])


def publish_all(logs: Iterable[tuple[str, Iterable[Event]]]) -> None:
    """Ring for several conversations at once, each given as its epoch and its events. See publish()."""
    limit = settings.CONVERSE_EVENT_LIMIT
    _send_soon([[_message(epoch, event, limit) for event in events] for epoch, events in logs])


def whisper(message: Mapping[str, Any]) -> None:
    """Send the other processes' hubs a message of their own, about ``data["conversationId"]``."""
    _send_soon([[dict(message)]])


def _send_soon(batches: list[list[dict[str, Any]]]) -> None:
    try:
        loops.home().call_soon_threadsafe(_enqueue, batches)
    except RuntimeError:  # the loop was closed in this very moment; the head sweeper heals it
        logger.info("Events were not published: the event loop is gone.")


def _message(epoch: str, event: Event, limit: int) -> dict[str, Any]:
    data = event.wire()
    message: dict[str, Any] = {"type": event.layer_type, "event": event.name, "epoch": epoch, "data": data}
    # Chunks are many and have nothing long but their text: only a long one is measured.
    doubtful = not isinstance(event, StreamUpdate) or len(event.chunk) * ESCAPED > limit
    if doubtful and "offset" in data and len(json.dumps(data)) > limit:
        message["data"] = {"conversationId": data["conversationId"], "offset": data["offset"]}
        message["pointer"] = True
    return message


class _Publisher:
    """Sends what is enqueued in one event loop: groups side by side, the messages of one group in order."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[float, list[dict[str, Any]]]] = deque(maxlen=QUEUE_LIMIT)
        self.task: asyncio.Task[None] | None = None
        self.lag = 0.0  # seconds that what was sent last had waited

    def enqueue(self, batches: list[list[dict[str, Any]]]) -> None:
        now = monotonic()
        self.waiting += [(now, messages) for messages in batches if messages]
        if self.task is None or self.task.done():
            self.task = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        while self.waiting:
            groups: dict[str, list[dict[str, Any]]] = {}
            for _ in range(min(IN_FLIGHT, len(self.waiting))):
                since, messages = self.waiting.popleft()
                groups.setdefault(group_name(messages[0]["data"]["conversationId"]), []).extend(messages)
            try:
                found = layer()
                if found is None:
                    continue
                async with asyncio.timeout(PATIENCE):
                    await asyncio.gather(*(_send(found, group, messages) for group, messages in groups.items()))
                self.lag = monotonic() - since
            except Exception as exc:  # whatever a layer raises, the log is written: readers find it in the table
                logger.warning("Events of %d conversations were not published: %r", len(groups), exc)
                await asyncio.sleep(PAUSE)
                self.waiting.clear()
                self.lag = 0.0


async def _send(found: BaseChannelLayer, group: str, messages: Iterable[dict[str, Any]]) -> None:
    for message in messages:
        try:
            await found.group_send(group, message)
        except (TypeError, ValueError, OverflowError) as exc:  # this message's own fault: its neighbours go on
            logger.warning("A message to %s could not be published: %r", group, exc)


_publisher = PerLoop(_Publisher)


def lag() -> float:
    """Give how many seconds events waited lately until the layer had them; 0 where none wait."""
    publisher = _publisher.of(loops.home())
    return publisher.lag if publisher and publisher.waiting else 0.0


def _enqueue(batches: list[list[dict[str, Any]]]) -> None:
    _publisher().enqueue(batches)
