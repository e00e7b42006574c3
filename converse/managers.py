"""Querysets that read as English, and the statements of the log that the ORM has no words for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from json import dumps
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from django.contrib.contenttypes.models import ContentType
from django.db import connections, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Q, Sum
from django.db.models.functions import Now
from django.utils import timezone

from converse.choices import CLOSED, OPEN, Role, Status

if TYPE_CHECKING:
    from converse.models.conversations import Conversation  # noqa: F401 - named in quotes below
    from converse.models.messages import Message, MessageChunk  # noqa: F401


class Head(NamedTuple):
    """A locked conversation: its public id, the last offset of its log and its epoch."""

    uuid: str
    offset: int
    epoch: str


class NewChunk(NamedTuple):
    """A chunk row about to be inserted; the fields are the columns."""

    message_id: int
    sequence: int
    conversation_id: int
    offset: int
    kind: str
    part: int
    content: str
    metadata: Mapping[str, Any] | None
    created_at: datetime


def _is_among(connection: BaseDatabaseWrapper, ids: Collection[int]) -> tuple[str, list[Any]]:
    """Give a condition on the key, and its parameters: one array where the database has any."""
    if connection.vendor == "postgresql":
        return "id = ANY(%s::bigint[])", [list(ids)]
    return f"id IN ({', '.join(['%s'] * len(ids)) or 'NULL'})", list(ids)


def _text_of(uuid: UUID | str) -> str:
    """Write a uuid as everybody does, whatever the database gives for it."""
    return str(uuid if isinstance(uuid, UUID) else UUID(uuid))


def _delete_each(rows: models.QuerySet[Any]) -> tuple[int, dict[str, int]]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row.delete()[1])
    return counts.total(), dict(counts)


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def for_owner(self, owner: models.Model) -> ConversationQuerySet:
        """Keep what belongs to an owner, a row of any model."""
        content_type = ContentType.objects.db_manager(self.db).get_for_model(owner, for_concrete_model=False)
        return self.filter(owner_type=content_type, owner_id=str(owner.pk))

    def for_user(self, user: models.Model) -> ConversationQuerySet:
        """Keep what a user owns or takes part in."""
        content_type = ContentType.objects.db_manager(self.db).get_for_model(user, for_concrete_model=False)
        owned = Q(owner_type=content_type, owner_id=str(user.pk))
        return self.filter(owned | Q(participants__user=user)).distinct()

    def trashed(self) -> ConversationQuerySet:
        return self.filter(deleted_at__isnull=False)

    def recent(self, days: int = 7) -> ConversationQuerySet:
        """Keep what had any activity in the last days."""
        return self.filter(last_activity_at__gte=timezone.now() - timedelta(days=days))

    def has_messages(self) -> ConversationQuerySet:
        return self.filter(messages__deleted_at__isnull=True, messages__isnull=False).distinct()

    def delete(self) -> tuple[int, dict[str, int]]:
        """Hide them one by one, as each hides itself; ``purge()`` is for good."""
        return _delete_each(self)

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def purge(self) -> tuple[int, dict[str, int]]:
        """Remove them with all they hold for good."""
        return super().delete()

    def lock(self, ids: Collection[int]) -> dict[int, Head]:
        """Lock conversation rows until the end of the transaction, always in the order of their keys."""
        connection = connections[self.db]
        table = connection.ops.quote_name(self.model._meta.db_table)
        condition, parameters = _is_among(connection, ids)
        with connection.cursor() as cursor:
            if connection.features.has_select_for_update:
                how = "FOR UPDATE"
            else:
                # SQLite locks the database at a transaction's first write, so that is what this is.
                how = ""
                cursor.execute(f"UPDATE {table} SET last_offset = last_offset WHERE {condition}", parameters)  # noqa: S608
            cursor.execute(
                f"SELECT id, uuid, last_offset, epoch FROM {table} WHERE {condition} ORDER BY id {how}",  # noqa: S608
                parameters,
            )
            return {pk: Head(_text_of(uuid), offset, epoch) for pk, uuid, offset, epoch in cursor.fetchall()}

    def advance(self, heads: Mapping[int, int], at: datetime | None = None) -> None:
        """Move the heads of locked conversations, in one statement; with a time, that of their last activity too.

        Chunks come without: a time is in indexes, all of which PostgreSQL would write anew with every flush.
        """
        connection = connections[self.db]
        activity = [connection.ops.adapt_datetimefield_value(at)] if at else []
        moved = ", last_activity_at = %s" if at else ""
        table = connection.ops.quote_name(self.model._meta.db_table)
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(
                    f"UPDATE {table} SET last_offset = new.head{moved} "  # noqa: S608
                    "FROM unnest(%s::bigint[], %s::bigint[]) AS new (id, head) "
                    f"WHERE {table}.id = new.id",
                    [*activity, list(heads), list(heads.values())],
                )
                return
            cases = " ".join(["WHEN %s THEN %s"] * len(heads))
            keys = ", ".join(["%s"] * len(heads))
            cursor.execute(
                f"UPDATE {table} SET last_offset = CASE id {cases} END{moved} WHERE id IN ({keys})",  # noqa: S608
                [*(value for pair in heads.items() for value in pair), *activity, *heads],
            )


class MessageQuerySet(models.QuerySet["Message"]):
    def by_role(self, role: str) -> MessageQuerySet:
        return self.filter(role=role)

    def user(self) -> MessageQuerySet:
        return self.by_role(Role.USER)

    def assistant(self) -> MessageQuerySet:
        return self.by_role(Role.ASSISTANT)

    def system(self) -> MessageQuerySet:
        return self.by_role(Role.SYSTEM)

    def tool_calls(self) -> MessageQuerySet:
        return self.by_role(Role.TOOL_CALL)

    def tool_results(self) -> MessageQuerySet:
        return self.by_role(Role.TOOL_RESULT)

    def open(self) -> MessageQuerySet:
        """Keep what may still grow."""
        return self.filter(status__in=OPEN)

    def pending(self) -> MessageQuerySet:
        return self.filter(status=Status.PENDING)

    def streaming(self) -> MessageQuerySet:
        return self.filter(status=Status.STREAMING)

    def completed(self) -> MessageQuerySet:
        return self.filter(status=Status.COMPLETED)

    def failed(self) -> MessageQuerySet:
        return self.filter(status=Status.FAILED)

    def cancelled(self) -> MessageQuerySet:
        return self.filter(status=Status.CANCELLED)

    def finished(self) -> MessageQuerySet:
        return self.filter(status__in=CLOSED)

    def abandoned(self) -> MessageQuerySet:
        """Keep the open ones whose lease has run out: their writer is gone."""
        return self.open().filter(lease_expires_at__lt=Now())

    def trashed(self) -> MessageQuerySet:
        return self.filter(deleted_at__isnull=False)

    def delete(self) -> tuple[int, dict[str, int]]:
        """Hide them one by one, as each hides itself; ``purge()`` is for good."""
        return _delete_each(self)

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def purge(self) -> tuple[int, dict[str, int]]:
        """Remove them with their chunks for good."""
        return super().delete()

    def still_streaming(self, ids: Collection[int]) -> set[int]:
        """Say which of some messages are streaming."""
        connection = connections[self.db]
        table = connection.ops.quote_name(self.model._meta.db_table)
        condition, parameters = _is_among(connection, ids)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {table} WHERE {condition} AND status = %s",  # noqa: S608
                [*parameters, Status.STREAMING.value],
            )
            return {pk for (pk,) in cursor.fetchall()}

    def renew(self, seconds: float) -> int:
        """Renew the leases of open messages; the database's clock counts, not ours."""
        return self.open().update(lease_expires_at=Now() + timedelta(seconds=seconds))

    def usage(self, by: str | None = None) -> Any:
        """Sum the tokens, over all or, as rows, by a field such as ``model``."""
        sums = {name: Sum(name) for name in ("input_tokens", "output_tokens", "reasoning_tokens")}
        return self.order_by().values(by).annotate(**sums).order_by(by) if by else self.order_by().aggregate(**sums)


class ChunkQuerySet(models.QuerySet["MessageChunk"]):
    def text(self) -> str:
        """Join the answer's text, in order."""
        return "".join(self.filter(kind="text").order_by("sequence").values_list("content", flat=True))

    def insert(self, rows: Sequence[NewChunk]) -> None:
        """Insert chunk rows in one statement.

        Plain SQL: building rows through the ORM holds the interpreter long enough to make producers late (measured:
        p99 of 12-32 ms against 1.3 ms at 100-200 streams).
        """
        connection = connections[self.db]
        meta = self.model._meta
        columns = ", ".join(connection.ops.quote_name(field) for field in NewChunk._fields)
        table = connection.ops.quote_name(meta.db_table)
        adapted = [
            (
                *row[:7],
                None if row.metadata is None else dumps(row.metadata),
                connection.ops.adapt_datetimefield_value(row.created_at),
            )
            for row in rows
        ]
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                types = ("bigint", "integer", "bigint", "bigint", "varchar", "integer", "text", "jsonb", "timestamptz")
                # As one text of JSON, for psycopg is slow to write arrays (measured: a quarter of a flush).
                values = ", ".join(f"(chunk ->> {place})::{kind}" for place, kind in enumerate(types))
                cursor.execute(
                    f"INSERT INTO {table} ({columns}) SELECT {values} FROM jsonb_array_elements(%s::jsonb) AS chunk",  # noqa: S608
                    [dumps(adapted, ensure_ascii=False, default=str)],
                )
            else:
                values = ", ".join(["%s"] * len(NewChunk._fields))
                cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({values})", adapted)  # noqa: S608


class VisibleConversations(models.Manager.from_queryset(ConversationQuerySet)):  # type: ignore[misc]
    """Conversations that are not deleted."""

    def get_queryset(self) -> ConversationQuerySet:
        return ConversationQuerySet(self.model, using=self._db).filter(deleted_at__isnull=True)


class VisibleMessages(models.Manager.from_queryset(MessageQuerySet)):  # type: ignore[misc]
    """Messages that are not deleted, nor is their conversation."""

    def get_queryset(self) -> MessageQuerySet:
        visible = MessageQuerySet(self.model, using=self._db)
        return visible.filter(deleted_at__isnull=True, conversation__deleted_at__isnull=True)
