"""Records as people read them: badges, figures and times."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils.formats import date_format, number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import is_aware, localtime
from django.utils.translation import gettext as _

from converse.models import Conversation, Message, ProviderCall

NOTHING = "-"
TIMELINE = 200  # chunks shown from the beginning, and as many from the end


def badge(kind: str, text: Any) -> SafeString:
    return format_html('<span class="converse-badge converse-badge-{}">{}</span>', kind, text)


def status_badge(message: Message) -> SafeString:
    """Badge a message's status; that a deleted one was completed goes without saying."""
    state = badge(message.status, message.get_status_display())
    if not message.deleted_at:
        return state
    deleted = badge("deleted", _("deleted"))
    return deleted if message.is_completed else format_html("{} {}", state, deleted)


def preformatted(text: str) -> str:
    return format_html('<pre class="converse-text">{}</pre>', text) if text else NOTHING


def moment(time: datetime) -> str:
    return date_format(localtime(time) if is_aware(time) else time, "SHORT_DATETIME_FORMAT")


def number(value: int | None) -> str:
    return NOTHING if value is None else number_format(value, use_l10n=True, force_grouping=True)


def dollars(value: Decimal | None) -> str:
    """Give a cost; one that is not known is not 0."""
    return NOTHING if value is None else f"${number_format(value, decimal_pos=6, use_l10n=True, force_grouping=True)}"


def tokens(going_in: int | None, coming_out: int | None) -> str:
    """Give tokens in and out; what nobody has counted is not 0."""
    if going_in is None and coming_out is None:
        return NOTHING
    return _("%(in)s in, %(out)s out") % {"in": number(going_in), "out": number(coming_out)}


def tokens_of(message: Message | ProviderCall) -> str:
    """Give a message's tokens; those read from and written to a cache went in as well."""
    counted = (message.input_tokens, message.cached_input_tokens, message.cache_write_tokens)
    known = [count for count in counted if count is not None]
    return tokens(sum(known) if known else None, message.output_tokens)


def duration(since: datetime | None, until: datetime | None) -> str:
    if since is None or until is None:
        return NOTHING
    ms = (until - since) / timedelta(milliseconds=1)
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def owner_name(conversation: Conversation | ProviderCall) -> str:
    """Name the owner, also where its row, or even its model, is gone."""
    kind = conversation.owner_type
    if kind is None:
        return NOTHING
    owner = conversation.owner if kind.model_class() else None
    return (
        f"{owner} ({kind.name})"
        if owner
        else _("%(kind)s %(id)s, gone") % {"kind": kind.name, "id": conversation.owner_id}
    )


def pretty(value: Any) -> str:
    """Give JSON, or text that may be JSON, indented."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return str(value)
    return json.dumps(found, indent=2, ensure_ascii=False)


def facts_of(message: Message) -> list[tuple[str, str]]:
    """Give what is worth knowing about a message, by its name, without what it has not."""
    since = message.started_at or message.created_at
    model = " / ".join(name for name in (message.provider, message.model) if name)
    streamed = message.first_chunk_at is not None
    facts = [
        (_("model"), model or NOTHING),
        (_("tokens"), tokens_of(message)),
        (_("first chunk after"), duration(since, message.first_chunk_at)),
        (_("took"), duration(since, message.finished_at) if streamed or model else NOTHING),
        (_("finish reason"), message.finish_reason or NOTHING),
        (_("attempt"), str(message.attempt) if message.attempt > 1 else NOTHING),
    ]
    return [(name, value) for name, value in facts if value != NOTHING]


def timeline_of(message: Message) -> dict[str, Any]:
    """Give a message's first and last chunks, each with its milliseconds since the start, for ``message.html``."""
    chunks = message.chunks.order_by("sequence")
    first = list(chunks[:TIMELINE])
    rest = chunks.filter(sequence__gt=first[-1].sequence).order_by("-sequence") if len(first) == TIMELINE else None
    last = [] if rest is None else list(rest[:TIMELINE])[::-1]
    since = message.started_at or message.created_at
    rows = [
        [(chunk, round((chunk.created_at - since) / timedelta(milliseconds=1), 1)) for chunk in part]
        for part in (first, last)
    ]
    return {"first": rows[0], "last": rows[1], "left_out": last[0].sequence - first[-1].sequence - 1 if last else 0}
