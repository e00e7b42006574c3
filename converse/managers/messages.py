"""Messages: by role, by state, by branch, and the way around those that go."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import connections, models, router, transaction
from django.db.models.functions import Now

from converse.choices import CLOSED, OPEN, Role, Status
from converse.managers.conversations import new_epoch
from converse.managers.rows import delete_each, is_among

if TYPE_CHECKING:
    from converse.models.messages import Message  # noqa: F401 - named in quotes below


def _before(links: Mapping[int, int], offset: int) -> int:
    """Give the first offset on a branch, seen from its end, that is not among some."""
    while offset in links:
        offset = links[offset]
    return offset


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

    def current(self) -> MessageQuerySet:
        """Keep what is on the branch that is shown."""
        return self.filter(current=True)

    def abandoned(self) -> MessageQuerySet:
        """Keep the open ones whose lease has run out: their writer is gone."""
        return self.open().filter(lease_expires_at__lt=Now())

    def trashed(self) -> MessageQuerySet:
        return self.filter(deleted_at__isnull=False)

    def delete(self) -> tuple[int, dict[str, int]]:
        """Hide them one by one, as each hides itself; ``purge()`` is for good."""
        return delete_each(self)

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def purge(self) -> tuple[int, dict[str, int]]:
        """Remove them with their chunks for good; what followed them follows what they followed.

        Readers who have seen them cannot be told in an event, so they begin afresh: the log gets a new epoch.
        """
        alias = self._db or router.db_for_write(self.model)  # type: ignore[attr-defined]
        concerned = set(self.using(alias).order_by().values_list("conversation_id", flat=True))
        with transaction.atomic(using=alias):
            self._bridge(alias, concerned)
            return super().delete()

    def _bridge(self, alias: str, concerned: Collection[int]) -> None:
        """Lead the branches around them. What they follow is known for sure only under the locks."""
        conversations: Any = self.model._meta.get_field("conversation").related_model
        heads = conversations.all_objects.using(alias).lock(concerned)
        going: dict[int, dict[int, int]] = {pk: {} for pk in heads}
        places = self.using(alias).order_by().values_list("conversation_id", "offset", "follows")
        for conversation_id, offset, follows in places:
            going[conversation_id][offset] = follows
        for pk, links in going.items():
            after = self.model.all_objects.using(alias).filter(conversation_id=pk, follows__in=links)
            moved = list(after.only("follows"))
            for message in moved:
                message.follows = _before(links, message.follows)
            self.model.all_objects.using(alias).bulk_update(moved, ["follows"])
            leaf = _before(links, heads[pk].leaf)
            conversations.all_objects.using(alias).filter(pk=pk).update(leaf_offset=leaf, epoch=new_epoch())

    def still_streaming(self, ids: Collection[int]) -> set[int]:
        """Say which of some messages are streaming."""
        connection = connections[self.db]
        table = connection.ops.quote_name(self.model._meta.db_table)
        condition, parameters = is_among(connection, ids)
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {table} WHERE {condition} AND status = %s",  # noqa: S608
                [*parameters, Status.STREAMING.value],
            )
            return {pk for (pk,) in cursor.fetchall()}

    def renew(self, seconds: float) -> int:
        """Renew the leases of open messages; the database's clock counts, not ours."""
        return self.open().update(lease_expires_at=Now() + timedelta(seconds=seconds))


class VisibleMessages(models.Manager.from_queryset(MessageQuerySet)):  # type: ignore[misc]
    """Messages that are not deleted, nor is their conversation."""

    def get_queryset(self) -> MessageQuerySet:
        visible = MessageQuerySet(self.model, using=self._db)
        return visible.filter(deleted_at__isnull=True, conversation__deleted_at__isnull=True)
