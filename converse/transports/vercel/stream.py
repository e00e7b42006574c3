"""A reply on its way to ``useChat``: what a subscription brings of it, encoded, until it ends or waits for a person."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing

from converse import records
from converse.choices import Status
from converse.hubs import Delivery, hub
from converse.log import database
from converse.subscriptions import Subscription, Withdrawn
from converse.transports import sse
from converse.transports.vercel.encoder import Encoder
from converse.transports.vercel.values import Chunk

logger = logging.getLogger(__name__)

HEADERS: Mapping[str, str] = {"x-vercel-ai-ui-message-stream": "v1"}
DONE = "data: [DONE]\n\n"

WITHDRAWN = "There is no such conversation any more."
CHANGED = "The conversation has changed. Please load the page again."
BROKEN = "The server had a failure. Please load the page again."


async def lines(subscription: Subscription, encoder: Encoder) -> AsyncGenerator[str, None]:
    """Yield the lines of one response. Whoever stops reading leaves the subscription; the reply goes on."""
    try:
        async with subscription, aclosing(sse.alive(subscription)) as deliveries:
            async for delivery in deliveries:
                if delivery is None:
                    yield sse.LIFE
                    continue
                if text := written(_chunks(encoder, delivery)):
                    yield text
                if not encoder.ended and encoder.waits and await _rests(encoder.message, subscription.offset):
                    yield written(encoder.rest())
                if encoder.ended:
                    break
    except Withdrawn:
        yield written(encoder.fail(WITHDRAWN))
    except Exception:  # it is logged, and told: a stream that just ends is a reply that is complete
        logger.exception("A reply could not be streamed.")
        yield written(encoder.fail(BROKEN))
    yield DONE


def _chunks(encoder: Encoder, delivery: Delivery) -> list[Chunk]:
    told = list(sse.of_message(delivery, encoder.message))
    if delivery.name == "Snapshot" and not told:
        return encoder.fail(CHANGED)
    return encoder.take(told)


def written(chunks: Iterable[Chunk]) -> str:
    return "".join(f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n" for chunk in chunks)


async def _rests(message: str, offset: int) -> bool:
    """Say whether a reply waits for a person, and all that it said before was handed on."""
    return await hub().query(_waits, message, offset)


def _waits(message: str, offset: int) -> bool:
    rows = records.Message.objects.using(database()).filter(uuid=message, status=Status.WAITING)
    return bool(rows.filter(changed_offset__lte=offset).exists())
