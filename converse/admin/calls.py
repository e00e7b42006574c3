from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from converse.accounting import CallQuerySet
from converse.admin.shown import (
    NOTHING,
    badge,
    dollars,
    duration,
    moment,
    number,
    owner_name,
    preformatted,
    pretty,
    tokens_of,
)
from converse.models import Message, ProviderCall

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[ProviderCall]
    TabularInline = admin.TabularInline[ProviderCall, Message]
else:
    ModelAdmin = admin.ModelAdmin
    TabularInline = admin.TabularInline

LONG = ("usage", "error_detail")
INPUT = ("input_tokens", "cached_input_tokens", "cache_write_tokens")


class Columns:
    """What a call shows of itself, in its list and beside its message."""

    @admin.display(description=_("outcome"), ordering="outcome")
    def state(self, call: ProviderCall) -> SafeString:
        outcome = badge(call.outcome, call.get_outcome_display())
        return format_html("{} {}", outcome, call.get_error_type_display()) if call.error_type else outcome

    @admin.display(description=_("tokens"), ordering="output_tokens")
    def tokens(self, call: ProviderCall) -> str:
        return tokens_of(call)

    @admin.display(description=_("cost"), ordering="cost")
    def dollars(self, call: ProviderCall) -> str:
        return dollars(call.cost)

    @admin.display(description=_("began"), ordering="started_at")
    def began(self, call: ProviderCall) -> str:
        return moment(call.started_at)

    @admin.display(description=_("first delta after"))
    def first_delta_after(self, call: ProviderCall) -> str:
        return duration(call.started_at, call.first_delta_at)

    @admin.display(description=_("took"))
    def took(self, call: ProviderCall) -> str:
        return duration(call.started_at, call.finished_at)


class CallInline(Columns, TabularInline):
    """A message's calls, which nobody types."""

    model = ProviderCall
    extra = 0
    can_delete = False
    show_change_link = True
    ordering = ("number",)
    fields = readonly_fields = (
        *("number", "provider", "model", "state", "tokens", "dollars"),
        *("began", "first_delta_after", "took"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProviderCall]:
        return super().get_queryset(request).defer(*LONG)

    def has_add_permission(self, request: HttpRequest, obj: Message | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Message | None = None) -> bool:
        return False


class CallChangeList(ChangeList):
    """The list of calls, with what all that are listed come to, on other pages too."""

    usage: dict[str, Any]

    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[ProviderCall]:
        """Leave long texts in the database."""
        rows: QuerySet[ProviderCall] = super().get_queryset(*args, **kwargs)
        return rows.defer(*LONG)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        listed: CallQuerySet = self.queryset
        self.usage = listed.usage()

    def totals(self) -> list[tuple[Any, str]]:
        """Give what the list comes to, for ``calls.html``."""
        usage = self.usage
        unpriced = [(_("without a known cost"), number(usage["unpriced"]))] if usage["unpriced"] else []
        return [
            (_("calls"), number(usage["calls"])),
            (_("input tokens"), number(usage["input_tokens"])),
            (_("read from a cache"), number(usage["cached_input_tokens"])),
            (_("written to a cache"), number(usage["cache_write_tokens"])),
            (_("output tokens"), number(usage["output_tokens"])),
            (_("cost"), dollars(usage["cost"])),
            *unpriced,
        ]


@admin.register(ProviderCall)
class ProviderCallAdmin(Columns, ModelAdmin):
    """Accounts are read, never changed; ``converse_prune --calls`` removes old ones."""

    change_list_template = "converse/admin/calls.html"
    list_display = ("began", "provider", "model", "state", "tokens", "dollars", "took", "message_link")
    list_filter = (
        *("outcome", ("provider", admin.AllValuesFieldListFilter), ("model", admin.AllValuesFieldListFilter)),
        *("error_type", "started_at"),
    )
    search_fields = ("=request_id", "=owner_id")
    search_help_text = _("A request id, an owner's id, or the whole UUID of a message or conversation")
    ordering = ("-started_at",)
    list_per_page = 50
    show_full_result_count = False
    fieldsets = (
        (None, {"fields": ("message_link", "number", "owned_by")}),
        (_("Provider"), {"fields": (("provider", "model"), "request_id", ("state", "finish_reason"))}),
        (_("Error"), {"fields": ("error_type", "detail")}),
        (_("Tokens"), {"fields": (INPUT, ("output_tokens", "reasoning_tokens"), "dollars", "pretty_usage")}),
        (_("Times"), {"fields": (("started_at", "first_delta_after"), ("finished_at", "took"))}),
    )

    class Media:
        css: ClassVar = {"all": ["converse/admin/admin.css"]}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CallChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProviderCall]:
        return super().get_queryset(request).select_related("owner_type")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[ProviderCall], search_term: str
    ) -> tuple[QuerySet[ProviderCall], bool]:
        try:
            uuid = UUID(search_term.strip())
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        named = Q(message__uuid=uuid) | Q(conversation__uuid=uuid) | Q(owner_id=str(uuid))
        return queryset.filter(named), False

    # Permissions.

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: ProviderCall | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ProviderCall | None = None) -> bool:
        return False

    # Columns and fields.

    @admin.display(description=_("message"))
    def message_link(self, call: ProviderCall) -> str:
        if call.message_id is None:
            return NOTHING
        place = reverse("admin:converse_message_change", args=[call.message_id], current_app=self.admin_site.name)
        return format_html('<a href="{}">{}</a>', place, _("Message"))

    @admin.display(description=_("owner"))
    def owned_by(self, call: ProviderCall) -> str:
        return owner_name(call)

    @admin.display(description=_("detail"))
    def detail(self, call: ProviderCall) -> str:
        return preformatted(call.error_detail)

    @admin.display(description=_("usage"))
    def pretty_usage(self, call: ProviderCall) -> str:
        return preformatted(pretty(call.usage or ""))
