"""What the admin of conversations and that of messages have in common: stopping, hiding, bringing back, finding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class LogAdmin(ModelAdmin):
    """Rows come from code; here they are read, stopped, hidden and brought back."""

    actions = ("stop", "restore")
    delete_confirmation_template = "converse/admin/delete_confirmation.html"
    delete_selected_confirmation_template = "converse/admin/delete_selected_confirmation.html"
    list_per_page = 50
    show_full_result_count = False
    uuid_fields: ClassVar[Sequence[str]] = ()  # where a whole uuid is looked for

    class Media:
        css: ClassVar = {"all": ["converse/admin/admin.css"]}

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Give deleted rows too: a filter of the list hides them."""
        rows: QuerySet[Any] = self.model.all_objects.order_by(*self.get_ordering(request))
        return rows

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        try:
            uuid = UUID(search_term.strip())
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        return queryset.filter(Q(*((field, uuid) for field in self.uuid_fields), _connector=Q.OR)), False

    # Permissions.

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether the user may stop, restore and decide: whoever has the model's ``change`` permission."""
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.deleted_at is None)

    # Actions.

    @admin.action(description=_("Stop selected %(verbose_name_plural)s"), permissions=["operate"])
    def stop(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        stopped = 0
        for row in queryset:
            if count := int(row.stop()):
                stopped += count
                self.log_change(request, row, "Stopped.")
        text = ngettext("%d open message was stopped.", "%d open messages were stopped.", stopped)
        self.message_user(request, text % stopped, messages.SUCCESS if stopped else messages.INFO)

    @admin.action(description=_("Restore selected %(verbose_name_plural)s"), permissions=["operate"])
    def restore(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        restored = 0
        for row in queryset.filter(deleted_at__isnull=False):
            row.restore()
            self.log_change(request, row, "Restored.")
            restored += 1
        text = ngettext("%d row was restored.", "%d rows were restored.", restored)
        self.message_user(request, text % restored, messages.SUCCESS if restored else messages.INFO)

    def get_deleted_objects(
        self, objs: QuerySet[Any] | Sequence[Any], request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        """Name only what was chosen: it is hidden, and nothing goes with it."""
        named = [f"{capfirst(self.opts.verbose_name)}: {row}" for row in objs]
        return named, {str(self.opts.verbose_name_plural): len(named)}, set(), []
