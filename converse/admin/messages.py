from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from converse.admin import transcripts
from converse.admin.base import LogAdmin
from converse.admin.filters import DeletedMessage
from converse.admin.shown import NOTHING, duration, moment, parts_of, pretty, status_badge, timeline_of, tokens_of
from converse.models import Message

EXCERPT = 80  # characters of a message in the list
LONG = ("content", "parts", "metadata", "options", "usage", "error_detail")
INPUT = ("input_tokens", "cached_input_tokens", "cache_write_tokens")
ENDS = (("finished_at", "lease_expires_at"), "deleted_at")


class MessageChangeList(ChangeList):
    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet[Message]:
        """Leave long texts in the database."""
        rows: QuerySet[Message] = super().get_queryset(*args, **kwargs)
        left_out = (*LONG, "conversation__context", "conversation__metadata")
        return rows.annotate(excerpt=Left("content", EXCERPT)).defer(*left_out)


@admin.register(Message)
class MessageAdmin(LogAdmin):
    change_form_template = "converse/admin/message.html"
    uuid_fields = ("uuid", "conversation__uuid")
    search_fields = ("content", "=external_id")
    search_help_text = _("Words of the text, a client's own id, or the whole UUID of a message or conversation")
    list_display = ("excerpt", "role", "state", "title", "model", "tokens", "created")
    list_filter = ("status", "role", "error_type", "created_at", DeletedMessage)
    list_select_related = ("conversation",)
    ordering = ("-pk",)
    fieldsets = (
        (None, {"fields": ("uuid", "conversation_link", ("role", "state"), "reply_to", ("attempt", "external_id"))}),
        (_("Content"), {"fields": ("shown",)}),
        (_("Error"), {"fields": ("error_type", "error_message", "detail")}),
        (_("Provider"), {"fields": (("provider", "model", "finish_reason"), "pretty_options")}),
        (_("Tokens"), {"fields": (INPUT, ("output_tokens", "reasoning_tokens"), "pretty_usage")}),
        (_("Times"), {"fields": (("created_at", "started_at"), ("first_chunk_after", "took"), *ENDS)}),
        (_("Log"), {"fields": (("offset", "changed_offset"), ("closed_offset", "last_sequence"), "pretty_metadata")}),
    )

    def has_change_permission(self, request: HttpRequest, obj: Message | None = None) -> bool:
        """Nobody types a message; who has the permission may stop and restore. See has_operate_permission()."""
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return MessageChangeList

    def get_fieldsets(self, request: HttpRequest, obj: Message | None = None) -> Any:
        """Speak of an error only where there is one."""
        failed = obj is not None and obj.is_failed
        return [fieldset for fieldset in self.fieldsets if failed or "error_type" not in fieldset[1]["fields"]]

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        return super().render_change_form(
            request, {**context, "timeline": timeline_of(context["original"])}, *args, **kwargs
        )

    # Columns.

    @admin.display(description=_("message"))
    def excerpt(self, message: Any) -> SafeString:
        return format_html('<span class="converse-excerpt">{}</span>', message.excerpt or message.uuid)

    @admin.display(description=_("status"), ordering="status")
    def state(self, message: Message) -> SafeString:
        return status_badge(message)

    @admin.display(description=_("conversation"))
    def title(self, message: Message) -> str:
        return str(message.conversation)

    @admin.display(description=_("tokens"), ordering="output_tokens")
    def tokens(self, message: Message) -> str:
        return tokens_of(message)

    @admin.display(description=_("created"), ordering="created_at")
    def created(self, message: Message) -> str:
        return moment(message.created_at)

    @admin.display(description=_("took"))
    def took(self, message: Message) -> str:
        return duration(message.started_at, message.finished_at)

    # Fields.

    @admin.display(description=_("conversation"))
    def conversation_link(self, message: Message) -> SafeString:
        place = transcripts.address(self.admin_site, message.conversation, at=message.offset)
        return format_html('<a href="{}#message-{}">{}</a>', place, message.uuid, message.conversation)

    @admin.display(description=_("text"))
    def shown(self, message: Message) -> str:
        return render_to_string("converse/admin/parts.html", {"parts": parts_of(message)})

    @admin.display(description=_("first chunk after"))
    def first_chunk_after(self, message: Message) -> str:
        return duration(message.started_at, message.first_chunk_at)

    @admin.display(description=_("detail"))
    def detail(self, message: Message) -> str:
        return preformatted(message.error_detail)

    @admin.display(description=_("options"))
    def pretty_options(self, message: Message) -> str:
        return preformatted(pretty(message.options or ""))

    @admin.display(description=_("usage"))
    def pretty_usage(self, message: Message) -> str:
        return preformatted(pretty(message.usage or ""))

    @admin.display(description=_("metadata"))
    def pretty_metadata(self, message: Message) -> str:
        return preformatted(pretty(message.metadata or ""))


def preformatted(text: str) -> str:
    return format_html('<pre class="converse-text">{}</pre>', text) if text else NOTHING
