"""The calls of providers, each a row from before its request goes out: what became of it, what it took and cost."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db import Error, IntegrityError, connections, models, transaction
from django.db.models import Max, Q, Sum
from django.utils import timezone

from converse import prices, records
from converse.choices import CLOSED, CallOutcome, ErrorType
from converse.conf import settings
from converse.deltas import Usage
from converse.exceptions import MessageClosed, ProviderError
from converse.log import database

if TYPE_CHECKING:
    from converse.accounting import CallQuerySet
    from converse.models import Conversation, Message, ProviderCall

logger = logging.getLogger(__name__)

BUCKETS = ("input", "cached_input", "cache_write", "output", "reasoning")
TOKENS = tuple(f"{name}_tokens" for name in BUCKETS)
LARGEST = 2**31 - 1  # that fits a column
DETAIL_LIMIT = 2000  # characters of an error
PRIVATE = re.compile(r"key|token|auth|secret|password|cookie", re.IGNORECASE)
TRIES = 20  # at a number that another process may take


def begin(of: Message | Conversation, provider: str, model: str = "") -> ProviderCall:
    """Store that a provider, an alias, is about to be asked, and give the row; it is committed when this returns.

    It is asked for a message, or for a conversation as a whole. Raise MessageClosed when the message is gone.
    """
    options = settings.CONVERSE_PROVIDERS.get(provider, {}).get("OPTIONS", {})
    facts = {
        "provider": provider,
        "model": model or str(options.get("model", "")),  # what it asks for by itself
        "started_at": timezone.now(),
    }
    left = TRIES
    while True:
        call = _new_aside(of, **facts) if isinstance(of, records.Conversation) else _new(of, **facts)
        left -= 1
        try:
            with transaction.atomic(using=database()):
                call.save(force_insert=True, using=database())
            return call
        except IntegrityError:  # somebody took the number
            if not left:
                raise


def _new_aside(conversation: Conversation, **fields: Any) -> ProviderCall:
    owned = {"owner_type_id": conversation.owner_type_id, "owner_id": conversation.owner_id}
    call: ProviderCall = records.ProviderCall(conversation_id=conversation.pk, number=1, **owned)
    _set(call, fields)
    return call


def _new(message: Message, **fields: Any) -> ProviderCall:
    """Make the next call of a message, with the owner of today; the row itself is not written."""
    rows = records.Message.all_objects.using(database()).filter(pk=message.pk).order_by()
    found = rows.values_list(
        "conversation_id", "conversation__owner_type_id", "conversation__owner_id", Max("calls__number")
    ).first()
    if found is None:
        raise MessageClosed("The message is gone.")
    conversation, owner_type, owner_id, last = found
    owned = {"conversation_id": conversation, "owner_type_id": owner_type, "owner_id": owner_id}
    call: ProviderCall = records.ProviderCall(message_id=message.pk, number=(last or 0) + 1, **owned)
    _set(call, fields)
    return call


def end(
    call: ProviderCall,
    outcome: CallOutcome,
    *,
    usage: Usage | None = None,
    finish_reason: str = "",
    model: str = "",
    request_id: str = "",
    first_delta_at: datetime | None = None,
    error: str | BaseException | None = None,
) -> None:
    """Store how a call ended, with its cost, and bring ``call`` up to date.

    Never raises: a reply that is finished must not fail for its account. What could not be stored is logged.
    """
    try:
        fields = {
            "outcome": outcome,
            "finish_reason": finish_reason,
            "model": model or call.model,
            "request_id": request_id or getattr(error, "request_id", ""),
            "first_delta_at": first_delta_at,
            "finished_at": timezone.now(),
            **_counted(call, usage or Usage(), model=model),
            **_blame(call.provider, error),
        }
        _update(call, _set(call, fields))
    except Exception:
        logger.exception(
            "Call %s of message %s, %s with %s, was not stored", call.number, call.message_id, outcome, usage
        )


def _update(call: ProviderCall, fields: Mapping[str, Any]) -> None:
    row = _calls().filter(pk=call.pk)
    try:
        row.update(**fields)
    except Error:
        connection = connections[database()]
        if connection.in_atomic_block:
            raise
        connection.close()  # it may have been broken for long, so another one is worth a try
        row.update(**fields)


def record(message: Message) -> None:
    """Store, as one call, what was reported of a message that was streamed by hand, in the closing transaction."""
    usage = Usage(**{name: getattr(message, f"{name}_tokens") for name in BUCKETS}, raw=message.usage)
    outcome = CallOutcome(message.status)
    call = _new(
        message,
        outcome=outcome,
        model=message.model,
        finish_reason=message.finish_reason,
        error_type=message.error_type,
        started_at=message.started_at or message.created_at,
        first_delta_at=message.first_chunk_at,
        finished_at=message.finished_at,
    )
    if call.number > 1:  # whoever streamed it kept the account
        return
    _set(call, _counted(call, usage))
    call.save(force_insert=True, using=database())


def _set(call: ProviderCall, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Set fields, cut to what their columns take; give them as they were set."""
    for name, value in fields.items():
        field = call._meta.get_field(name)
        if isinstance(field, models.CharField) and isinstance(value, str):
            value = value.replace("\x00", "")[: field.max_length]
        setattr(call, name, value)
    return {name: getattr(call, name) for name in fields}


def _counted(call: ProviderCall, usage: Usage, model: str = "") -> dict[str, Any]:
    """Give the columns of a usage, with its cost; a count that no column takes is not known."""
    return {
        **dict(zip(TOKENS, _counts(usage), strict=True)),
        "usage": json.loads(json.dumps(dict(usage.raw), default=str)),
        "cost": prices.cost(call.provider, model or call.model, usage, call.started_at, asked=call.model),
    }


def _counts(usage: Usage) -> Iterator[int | None]:
    for name in BUCKETS:
        count = getattr(usage, name)
        yield count if count is not None and 0 <= count <= LARGEST else None


def _blame(provider: str, error: str | BaseException | None) -> dict[str, str]:
    if error is None:
        return {"error_type": "", "error_detail": ""}
    kind = error.type if isinstance(error, ProviderError) else ErrorType.ERROR
    detail = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    for secret in sorted(_secrets(settings.CONVERSE_PROVIDERS.get(provider, {})), key=len, reverse=True):
        detail = detail.replace(secret, "[redacted]")
    return {"error_type": kind.value, "error_detail": detail.replace("\x00", "")[:DETAIL_LIMIT]}


def _secrets(config: Any, private: bool = False) -> Iterator[str]:
    """Give what nobody may read in a provider's OPTIONS."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _secrets(value, private or bool(PRIVATE.search(str(name))))
    elif private and isinstance(config, str) and config:
        yield config


def totals(message_id: int) -> dict[str, int | None]:
    """Sum a message's tokens over its calls, by column; null where no call knows."""
    sums: dict[str, int | None] = (
        _calls().filter(message_id=message_id).aggregate(**{name: Sum(name) for name in TOKENS})
    )
    return sums


def interrupt(message_id: int) -> None:
    """Say of a message's calls that run still that their process is gone."""
    _interrupt(_calls().filter(message_id=message_id))


def settle() -> int:
    """Say the same of those whose message was closed, or removed, so long ago that nobody can be at them."""
    long_ago = timezone.now() - timedelta(seconds=max(settings.CONVERSE_LEASE, 60))
    over = Q(message=None, started_at__lt=long_ago - timedelta(seconds=settings.CONVERSE_TOTAL_TIMEOUT))
    closed = Q(message__status__in=CLOSED, message__finished_at__lt=long_ago)
    left = list(_calls().filter(over | closed, outcome=CallOutcome.RUNNING).values_list("pk", flat=True)[:100])
    return _interrupt(_calls().filter(pk__in=left)) if left else 0


def _interrupt(calls: CallQuerySet) -> int:
    return calls.filter(outcome=CallOutcome.RUNNING).update(
        outcome=CallOutcome.INTERRUPTED, error_type=ErrorType.INTERRUPTED, finished_at=timezone.now()
    )


def _calls() -> CallQuerySet:
    calls: CallQuerySet = records.ProviderCall.objects.using(database())
    return calls
