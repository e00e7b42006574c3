from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Aggregate, Count, F, OuterRef, QuerySet, Subquery, Sum, prefetch_related_objects
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from converse.accounting import ExactSum
from converse.admin import transcripts
from converse.admin.base import LogAdmin
from converse.admin.filters import Deleted, OpenMessages, OwnerType
from converse.admin.shown import badge, dollars, moment, number, owner_name, tokens
from converse.choices import OPEN
from converse.drafts import jsonable
from converse.exceptions import InvalidMessage
from converse.models import Conversation, ConversationParticipant, Message, ProviderCall

if TYPE_CHECKING:
    TabularInline = admin.TabularInline[ConversationParticipant, Conversation]
    ConversationModelForm = forms.ModelForm[Conversation]
else:
    TabularInline = admin.TabularInline
    ConversationModelForm = forms.ModelForm


def of_messages(aggregate: Aggregate, **where: Any) -> Subquery:
    """Annotate a conversation with what its visible messages come to."""
    rows = Message.all_objects.filter(conversation=OuterRef("pk"), deleted_at__isnull=True, **where).order_by()
    return Subquery(rows.values("conversation").annotate(result=aggregate).values("result"))


class ConversationChangeList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        """Fetch the owners of the page together, apart from those of models that are gone."""
        super().get_results(request)
        owned = [row for row in self.result_list if row.owner_type and row.owner_type.model_class()]
        prefetch_related_objects(owned, "owner")


class ConversationForm(ConversationModelForm):
    def clean_context(self) -> dict[str, Any]:
        return self._clean_json("context")

    def clean_metadata(self) -> dict[str, Any]:
        return self._clean_json("metadata")

    def _clean_json(self, field: str) -> dict[str, Any]:
        try:
            return jsonable(self.cleaned_data[field], field)
        except InvalidMessage as exc:
            raise forms.ValidationError(exc.reason) from exc


class ParticipantInline(TabularInline):
    model = ConversationParticipant
    extra = 0
    fields = ("user", "role", "created_at")
    readonly_fields = ("created_at",)
    raw_id_fields = ("user",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ConversationParticipant]:
        return super().get_queryset(request).select_related("user")


@admin.register(Conversation)
class ConversationAdmin(LogAdmin):
    form = ConversationForm
    inlines = (ParticipantInline,)
    change_form_template = "converse/admin/conversation.html"
    uuid_fields = ("uuid", "owner_id")
    search_fields = ("title", "=owner_id")
    search_help_text = _("A title, a whole UUID, or an owner's id")
    list_display = ("name", "transcript", "owner_name", "message_count", "tokens", "cost", "last_activity")
    list_filter = ("last_activity_at", "created_at", OpenMessages, OwnerType, Deleted)
    list_select_related = ("owner_type",)
    fieldsets = (
        (None, {"fields": ("title", "uuid", "owner_name")}),
        (_("What replies are told, and what you keep"), {"fields": ("context", "metadata")}),
        (_("Figures"), {"fields": ("message_count", "tokens", "cost")}),
        (_("Times"), {"fields": ("created_at", "updated_at", "last_activity_at", "deleted_at")}),
        (_("Log"), {"fields": ("last_offset", "epoch"), "classes": ("collapse",)}),
    )
    readonly_fields = (
        *("uuid", "owner_name", "message_count", "tokens", "cost", "last_offset", "epoch"),
        *("created_at", "updated_at", "last_activity_at", "deleted_at"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Conversation]:
        calls = ProviderCall.objects.filter(conversation=OuterRef("pk")).order_by().values("conversation")
        cached = Coalesce("cached_input_tokens", 0) + Coalesce("cache_write_tokens", 0)
        rows: QuerySet[Conversation] = super().get_queryset(request)
        return rows.annotate(
            message_count=Coalesce(of_messages(Count("pk")), 0),
            open_count=Coalesce(of_messages(Count("pk"), status__in=OPEN), 0),
            tokens_in=of_messages(Sum(F("input_tokens") + cached)),
            tokens_out=of_messages(Sum("output_tokens")),
            spent=Subquery(calls.annotate(result=ExactSum("cost")).values("result")),
        )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ConversationChangeList

    def save_model(self, request: HttpRequest, obj: Conversation, form: Any, change: bool) -> None:
        """Write only what was typed, for the head moves meanwhile; the title in the way that tells readers."""
        title = obj.title
        if kept := [name for name in ("context", "metadata") if name in form.changed_data]:
            obj.save(update_fields=[*kept, "updated_at"])
        if "title" in form.changed_data:
            obj.rename(title)

    def get_list_display(self, request: HttpRequest) -> Any:
        readable = transcripts.may_read(self, request)
        return [name for name in self.list_display if readable or name != "transcript"]

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        context = {**context, "may_read": transcripts.may_read(self, request, context["original"])}
        return super().render_change_form(request, context, *args, **kwargs)

    # Columns.

    @admin.display(description=_("conversation"), ordering="title")
    def name(self, conversation: Conversation) -> SafeString:
        deleted = badge("deleted", _("deleted")) if conversation.deleted_at else ""
        return format_html("{} {}", conversation, deleted)

    @admin.display(description=_("owner"))
    def owner_name(self, conversation: Conversation) -> str:
        return owner_name(conversation)

    @admin.display(description=_("messages"), ordering="message_count")
    def message_count(self, conversation: Any) -> SafeString:
        address = reverse("admin:converse_message_changelist", current_app=self.admin_site.name)
        count = number(conversation.message_count)
        still = badge("streaming", _("%d open") % conversation.open_count) if conversation.open_count else ""
        return format_html('<a href="{}?conversation__id__exact={}">{}</a> {}', address, conversation.pk, count, still)

    @admin.display(description=_("tokens"), ordering="tokens_out")
    def tokens(self, conversation: Any) -> str:
        return tokens(conversation.tokens_in, conversation.tokens_out)

    @admin.display(description=_("cost"), ordering="spent")
    def cost(self, conversation: Any) -> SafeString:
        address = reverse("admin:converse_providercall_changelist", current_app=self.admin_site.name)
        cost = dollars(conversation.spent)
        return format_html('<a href="{}?conversation__id__exact={}">{}</a>', address, conversation.pk, cost)

    @admin.display(description=_("last activity"), ordering="last_activity_at")
    def last_activity(self, conversation: Conversation) -> str:
        return moment(conversation.last_activity_at)

    @admin.display(description=_("transcript"))
    def transcript(self, conversation: Conversation) -> SafeString:
        return format_html('<a href="{}">{}</a>', transcripts.address(self.admin_site, conversation), _("Read"))

    # The transcript.

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.transcript_view)
        return [path("<path:object_id>/transcript/", view, name=transcripts.NAME), *super().get_urls()]

    def transcript_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show a conversation as people read it."""
        return transcripts.view(self, request, object_id)
