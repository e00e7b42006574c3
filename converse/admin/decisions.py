"""Approving and denying calls of tools in the admin, which a reply waits with."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.admin import AdminSite
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.urls import reverse
from django.utils.translation import gettext as _

from converse.admin import transcripts
from converse.admin.base import LogAdmin
from converse.exceptions import InvalidMessage, MessageClosed
from converse.models import Message

NAME = "converse_message_decide"
REASON_LIMIT = 1000  # characters


def address(site: AdminSite, message: Message) -> str:
    return reverse(f"admin:{NAME}", args=[message.pk], current_app=site.name)


def view(admin: LogAdmin, request: HttpRequest, object_id: str) -> HttpResponse:
    message: Any = admin.get_object(request, unquote(object_id))
    if not (admin.has_view_permission(request, message) and admin.has_operate_permission(request, message)):
        raise PermissionDenied
    if message is None:
        raise Http404
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    decision = request.POST.get("decision")
    if decision not in ("approve", "deny"):
        return HttpResponseBadRequest()
    _decide(admin, request, message, decision)
    if "transcript" in request.POST:
        place = transcripts.address(admin.admin_site, message.conversation, at=message.offset)
        return HttpResponseRedirect(f"{place}#message-{message.uuid}")
    change = reverse("admin:converse_message_change", args=[message.pk], current_app=admin.admin_site.name)
    return HttpResponseRedirect(change)


def _decide(admin: LogAdmin, request: HttpRequest, message: Message, decision: str) -> None:
    call, reason = request.POST.get("call", ""), request.POST.get("reason", "").strip()[:REASON_LIMIT]
    decide = message.approve if decision == "approve" else message.deny
    try:
        decide(call, by=request.user, reason=reason)
    except (InvalidMessage, MessageClosed) as exc:
        admin.message_user(request, _("Nothing was decided: %s") % exc, messages.ERROR)
        return
    done = _("Approved %s.") if decision == "approve" else _("Denied %s.")
    admin.log_change(request, message, done % call)
    admin.message_user(request, done % call, messages.SUCCESS)
