"""Conversations: whose, how recent, and the heads of their logs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID, uuid4

from django.contrib.contenttypes.models import ContentType
from django.db import connections, models
from django.db.models import Q
from django.utils import timezone

from converse.managers.rows import delete_each, is_among

if TYPE_CHECKING:
    from converse.models.conversations import Conversation  # noqa: F401 - named in quotes below


class Head(NamedTuple):
    """A locked conversation: its public id, the last offset of its log, its epoch, and what a new message follows."""

    uuid: str
    offset: int
    epoch: str
    leaf: int


def _text_of(uuid: UUID | str) -> str:
    """Write a uuid as everybody does, whatever the database gives for it."""
    return str(uuid if isinstance(uuid, UUID) else UUID(uuid))


def new_epoch() -> str:
    """Name an epoch of a log: cursors of another one are worth nothing."""
    return uuid4().hex[:8]


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def for_owner(self, owner: models.Model) -> ConversationQuerySet:
        """Keep what belongs to an owner, a row of any model; nothing belongs to somebody anonymous."""
        if owner.pk is None:
            return self.none()
        content_type = ContentType.objects.db_manager(self.db).get_for_model(owner, for_concrete_model=False)
        return self.filter(owner_type=content_type, owner_id=str(owner.pk))

    def for_user(self, user: models.Model) -> ConversationQuerySet:
        """Keep what a user owns or takes part in; for somebody anonymous that is nothing."""
        if user.pk is None:
            return self.none()
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
        return delete_each(self)

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def purge(self) -> tuple[int, dict[str, int]]:
        """Remove them with all they hold for good."""
        return super().delete()

    def lock(self, ids: Collection[int]) -> dict[int, Head]:
        """Lock conversation rows until the end of the transaction, always in the order of their keys."""
        connection = connections[self.db]
        table = connection.ops.quote_name(self.model._meta.db_table)
        condition, parameters = is_among(connection, ids)
        with connection.cursor() as cursor:
            if connection.features.has_select_for_update:
                how = "FOR UPDATE"
            else:
                # SQLite locks the database at a transaction's first write, so that is what this is.
                how = ""
                cursor.execute(f"UPDATE {table} SET last_offset = last_offset WHERE {condition}", parameters)  # noqa: S608
            cursor.execute(
                f"SELECT id, uuid, last_offset, epoch, leaf_offset FROM {table} WHERE {condition} ORDER BY id {how}",  # noqa: S608
                parameters,
            )
            return {pk: Head(_text_of(uuid), *rest) for pk, uuid, *rest in cursor.fetchall()}

    def advance(self, heads: Mapping[int, int]) -> None:
        """Move the heads of locked conversations, in one statement.

        Not the time of their last activity: it is in indexes, which PostgreSQL would write anew with every flush.
        """
        connection = connections[self.db]
        table = connection.ops.quote_name(self.model._meta.db_table)
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(
                    f"UPDATE {table} SET last_offset = new.head "  # noqa: S608
                    "FROM unnest(%s::bigint[], %s::bigint[]) AS new (id, head) "
                    f"WHERE {table}.id = new.id",
                    [list(heads), list(heads.values())],
                )
                return
            cases = " ".join(["WHEN %s THEN %s"] * len(heads))
            keys = ", ".join(["%s"] * len(heads))
            cursor.execute(
                f"UPDATE {table} SET last_offset = CASE id {cases} END WHERE id IN ({keys})",  # noqa: S608
                [*(value for pair in heads.items() for value in pair), *heads],
            )


class VisibleConversations(models.Manager.from_queryset(ConversationQuerySet)):  # type: ignore[misc]
    """Conversations that are not deleted."""

    def get_queryset(self) -> ConversationQuerySet:
        return ConversationQuerySet(self.model, using=self._db).filter(deleted_at__isnull=True)
