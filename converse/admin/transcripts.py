"""A conversation as people read it: the page that the admin shows beside its forms."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.admin import AdminSite
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from converse.admin.base import LogAdmin
from converse.admin.parts import parts_of, undecided
from converse.admin.shown import facts_of, number, owner_name, pretty, status_badge, tokens
from converse.admin.versions import Version, versions_of
from converse.models import Conversation, Message

NAME = "converse_conversation_transcript"
TURNS = 100  # messages on a page


def address(site: AdminSite, conversation: Conversation, **query: Any) -> str:
    place = reverse(f"admin:{NAME}", args=[conversation.pk], current_app=site.name)
    return f"{place}?{urlencode(query)}" if query else place


def may_read(admin: LogAdmin, request: HttpRequest, conversation: Conversation | None = None) -> bool:
    """Say whether the user may see the conversation and the messages in it."""
    user: Any = request.user
    messages = user.has_perm("converse.view_message") or user.has_perm("converse.change_message")
    return messages and admin.has_view_permission(request, conversation)


def view(admin: LogAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    conversation: Any = admin.get_object(request, unquote(object_id))
    if not may_read(admin, request, conversation):
        raise PermissionDenied
    if conversation is None:
        raise Http404
    may_operate = admin.has_operate_permission(request, conversation)
    if request.method == "POST":
        if not may_operate:
            raise PermissionDenied
        action = admin.restore if "restore" in request.POST else admin.stop
        action(request, admin.get_queryset(request).filter(pk=conversation.pk))
        return HttpResponseRedirect(request.get_full_path())
    request.current_app = admin.admin_site.name
    context = {
        **admin.admin_site.each_context(request),
        "title": _("Transcript"),
        "subtitle": None,
        "media": admin.media,
        "opts": admin.opts,
        "original": conversation,
        "has_view_permission": True,
        "may_operate": may_operate,
        "owner": owner_name(conversation),
        "messages_in_it": number(conversation.message_count),
        "tokens": tokens(conversation.tokens_in, conversation.tokens_out),
        "page": (page := _page(request, conversation)),
        "turns": _turns(admin.admin_site, request, list(page)),
    }
    return TemplateResponse(request, "converse/admin/transcript.html", context)


def _page(request: HttpRequest, conversation: Conversation) -> Page[Message]:
    """Give the page asked for, the one with a message ``at`` an offset, or the last."""
    messages = Message.all_objects.filter(conversation=conversation).order_by("offset")
    pages = Paginator(messages, TURNS)
    wanted: Any = request.GET.get("p", pages.num_pages)
    if (at := request.GET.get("at", "")).isdecimal():
        wanted = messages.filter(offset__lt=int(at)).count() // TURNS + 1
    return pages.get_page(wanted)


def _turns(site: AdminSite, request: HttpRequest, messages: list[Message]) -> list[dict[str, Any]]:
    parts, versions = parts_of(site, messages), versions_of(messages)
    decider: Any = site.get_model_admin(Message)
    return [
        {
            **_turn(message, parts[message.pk], versions.get(message.pk)),
            "may_decide": decider.has_operate_permission(request, message),
        }
        for message in messages
    ]


def _turn(message: Message, parts: list[dict[str, Any]], version: Version | None) -> dict[str, Any]:
    return {
        "message": message,
        "parts": parts,
        "undecided": undecided(parts),
        "structured": "" if message.structured is None else pretty(message.structured),
        "badges": "" if message.is_completed and not message.deleted_at else status_badge(message),
        "version": version,
        "facts": facts_of(message),
    }
