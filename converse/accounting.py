"""Calls of providers as accounts: whose, since when, and what they come to by model, day, owner …"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Count, Q, Sum
from django.db.models.functions import TruncDate
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone

from converse.exceptions import InvalidMessage

if TYPE_CHECKING:
    from converse.models.calls import ProviderCall  # noqa: F401 - named in quotes below
    from converse.models.conversations import Conversation

# What calls can be summed by, and the columns that say so.
GROUPS = {
    "conversation": ["conversation"],
    "day": ["day"],
    "model": ["model"],
    "outcome": ["outcome"],
    "owner": ["owner_type", "owner_id"],
    "provider": ["provider"],
}


class ExactSum(Sum):
    """A sum of dollars that is exact on SQLite too, which adds decimals up as floats: it gets whole billionths."""

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        whole = "SUM(CAST(ROUND(%(expressions)s * 1000000000) AS INTEGER))"
        return self.as_sql(compiler, connection, template=f"CAST({whole} / 1000000000.0 AS NUMERIC)", **context)


class Day(TruncDate):
    """The day of a time, in the current time zone."""

    def convert_value(self, value: Any, expression: Any, connection: BaseDatabaseWrapper) -> Any:
        if value is None:  # MariaDB knows only the time zones that were loaded into it, and says nothing
            raise ValueError("The database gave no day. Are time zone definitions for your database installed?")
        return value


class CallQuerySet(models.QuerySet["ProviderCall"]):
    def for_owner(self, owner: models.Model) -> CallQuerySet:
        """Keep what was called in an owner's conversations, of which some may be gone."""
        content_type = ContentType.objects.db_manager(self.db).get_for_model(owner, for_concrete_model=False)
        return self.filter(owner_type=content_type, owner_id=str(owner.pk))

    def for_conversation(self, conversation: Conversation) -> CallQuerySet:
        return self.filter(conversation=conversation)

    def since(self, start: date) -> CallQuerySet:
        """Keep what began on a day, in the current time zone, or at a time, or later; raise InvalidMessage for else."""
        return self.filter(started_at__gte=_moment(_checked(start, "start")))

    def until(self, end: date) -> CallQuerySet:
        """Keep what began on a day, in the current time zone, or earlier; or before a time. See since()."""
        _checked(end, "end")
        return self.filter(started_at__lt=_moment(end if isinstance(end, datetime) else end + timedelta(days=1)))

    def usage(self, by: str | Iterable[str] = ()) -> Any:
        """Sum calls, tokens and cost: over all, as a dict, or as rows by one or several of ``GROUPS``.

        Tokens and cost are null where no call knows; ``unpriced`` says how many calls have no cost that is known.
        Raise InvalidMessage for something that calls cannot be summed by.
        """
        names = [by] if isinstance(by, str) else list(by)
        if unknown := [name for name in names if name not in GROUPS]:
            raise InvalidMessage(f"{unknown[0]!r} is not one of {', '.join(GROUPS)}", field="by")
        columns = [column for name in names for column in GROUPS[name]]
        calls = self.order_by()
        if not names:
            return calls.aggregate(**_sums())
        if "day" in names:
            calls = calls.annotate(day=Day("started_at"))
        return calls.values(*columns).annotate(**_sums()).order_by(*columns)

    async def ausage(self, by: str | Iterable[str] = ()) -> Any:
        """See usage()."""
        return await sync_to_async(self.usage)(by)


def _sums() -> dict[str, models.Aggregate]:
    # The last ones take the names of columns, which what comes after them would mean.
    names = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
    return {
        "calls": Count("pk"),
        "unpriced": Count("pk", filter=Q(cost=None)),
        **{name: Sum(name) for name in names},
        "cost": ExactSum("cost"),
    }


def _checked(day: date, field: str) -> date:
    if not isinstance(day, date):
        raise InvalidMessage(f"must be a date or a datetime, such as date(2026, 11, 1), not {day!r}", field=field)
    return day


def _moment(start: date) -> datetime:
    """Give a time as Django stores it; that of a day is its beginning."""
    moment = start if isinstance(start, datetime) else datetime.combine(start, time.min)
    return timezone.make_aware(moment) if settings.USE_TZ and timezone.is_naive(moment) else moment
