from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from converse.admin import decisions, transcripts
from converse.admin.base import LogAdmin
from converse.admin.calls import CallInline
from converse.admin.filters import DeletedMessage
from converse.admin.parts import DOWNLOAD, parts_of, undecided
from converse.admin.shown import NOTHING, duration, moment, preformatted, pretty, status_badge, timeline_of, tokens_of
from converse.admin.versions import versions_of
from converse.choices import Role
from converse.downloads import download
from converse.models import Message

EXCERPT = 80  # characters of a message in the list
LONG = ("content", "parts", "metadata", "options", "plan", "structured", "usage", "error_detail")
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
    inlines = (CallInline,)
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
        (_("Content"), {"fields": ("shown", "pretty_structured")}),
        (_("Error"), {"fields": ("error_type", "error_message", "detail")}),
        (_("Provider"), {"fields": (("provider", "model", "finish_reason"), "pretty_options", "pretty_plan")}),
        (_("Tokens"), {"fields": (INPUT, ("output_tokens", "reasoning_tokens"), "pretty_usage")}),
        (_("Times"), {"fields": (("created_at", "started_at"), ("first_chunk_after", "took"), *ENDS)}),
        (_("Branch"), {"fields": (("offset", "follows"), ("current", "pinned"), "versions")}),
        (_("Log"), {"fields": (("changed_offset", "closed_offset", "last_sequence"), "pretty_metadata")}),
    )

    def has_change_permission(self, request: HttpRequest, obj: Message | None = None) -> bool:
        """Nobody types a message; who has the permission may stop and restore. See has_operate_permission()."""
        return False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return MessageChangeList

    def get_inlines(self, request: HttpRequest, obj: Message | None) -> Any:
        """Speak of calls only where a provider may have been asked."""
        return self.inlines if obj and obj.role == Role.ASSISTANT else ()

    def get_fieldsets(self, request: HttpRequest, obj: Message | None = None) -> Any:
        """Speak of an error only where there is one."""
        failed = obj is not None and obj.is_failed
        return [fieldset for fieldset in self.fieldsets if failed or "error_type" not in fieldset[1]["fields"]]

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        message = context["original"]
        may_decide = self.has_operate_permission(request, message)
        more = {
            "timeline": timeline_of(message),
            "undecided": undecided(self._parts(message)) if may_decide else [],
            "decide": decisions.address(self.admin_site, message),
        }
        return super().render_change_form(request, {**context, **more}, *args, **kwargs)

    def _parts(self, message: Any) -> list[dict[str, Any]]:
        """Give a message's parts, put together once for a page."""
        if not hasattr(message, "shown_parts"):
            message.shown_parts = parts_of(self.admin_site, [message])[message.pk]
        parts: list[dict[str, Any]] = message.shown_parts
        return parts

    # More pages.

    def get_urls(self) -> list[URLPattern]:
        decide, attachment = self.admin_site.admin_view(self.decide), self.admin_site.admin_view(self.attachment)
        return [
            path("<path:object_id>/decide/", decide, name=decisions.NAME),
            path("<path:object_id>/attachments/<uuid:uuid>/", attachment, name=DOWNLOAD),
            *super().get_urls(),
        ]

    def decide(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Approve or deny a call of a tool that the message waits with."""
        return decisions.view(self, request, object_id)

    def attachment(self, request: HttpRequest, object_id: str, uuid: UUID) -> HttpResponseBase:
        """Give a file of the message to be saved."""
        message = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, message):
            raise PermissionDenied
        found = message.attachments.filter(uuid=uuid).first() if message else None
        if found is None:
            raise Http404
        try:
            return download(request, found)
        except FileNotFoundError:
            raise Http404 from None

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
        return render_to_string("converse/admin/parts.html", {"parts": self._parts(message)})

    @admin.display(description=_("structured answer"))
    def pretty_structured(self, message: Message) -> str:
        return preformatted("" if message.structured is None else pretty(message.structured))

    @admin.display(description=_("versions"))
    def versions(self, message: Message) -> str:
        version = versions_of([message]).get(message.pk)
        return _("%(number)d of %(of)d") % version._asdict() if version else NOTHING

    @admin.display(description=_("asked to"))
    def pretty_plan(self, message: Message) -> str:
        return preformatted(pretty(message.plan or ""))

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
