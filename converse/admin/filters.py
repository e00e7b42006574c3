from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.contrib.contenttypes.models import ContentType
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from converse.choices import Status
from converse.models import Conversation, Message


class Deleted(admin.SimpleListFilter):
    """Hides deleted rows unless asked for them."""

    title = _("deleted")
    parameter_name = "deleted"
    visible = Q(deleted_at__isnull=True)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes")), ("all", _("All"))]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        no, *others = super().choices(changelist)
        yield {**no, "display": _("No")}
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "yes":
                return queryset.exclude(self.visible)
            case "all":
                return queryset
        return queryset.filter(self.visible)


class DeletedMessage(Deleted):
    """Counts the messages of a deleted conversation among the deleted."""

    visible = Q(deleted_at__isnull=True, conversation__deleted_at__isnull=True)


class OpenMessages(admin.SimpleListFilter):
    """Tells conversations in which something is being written from the others."""

    title = _("open messages")
    parameter_name = "open"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes")), ("waiting", _("Waiting for approval")), ("no", _("No"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        messages = Message.all_objects.open().filter(conversation=OuterRef("pk"), deleted_at__isnull=True)
        is_open = Exists(messages)
        match self.value():
            case "waiting":
                return queryset.filter(Exists(messages.filter(status=Status.WAITING)))
            case "yes":
                return queryset.filter(is_open)
            case "no":
                return queryset.exclude(is_open)
        return queryset


class OwnerType(admin.SimpleListFilter):
    """Offers the models that own a conversation; an index answers which."""

    title = _("owner type")
    parameter_name = "owner_type"
    nobody = "none"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        owning = ContentType.objects.filter(Exists(Conversation.all_objects.filter(owner_type=OuterRef("pk"))))
        return [*((str(owner.pk), owner.name) for owner in owning.order_by("pk")), (self.nobody, _("nobody"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if value is None:
            return queryset
        if value == self.nobody:
            return queryset.filter(owner_type__isnull=True)
        # Only what was offered is looked for: anything else in the address finds nothing.
        return queryset.filter(owner_type__in=[value] if value in dict(self.lookup_choices) else [])
