"""Who a conversation is shared with."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.http import HttpResponse, JsonResponse
from django.utils.module_loading import import_string

from converse.choices import Action, ParticipantRole
from converse.conf import settings
from converse.log import database
from converse.models import ConversationParticipant
from converse.permissions import find
from converse.presence import describe
from converse.transports.frames import Refused, text_of
from converse.views.api.described import Asked, nothing, operation

USER_LIMIT = 255  # characters of what a user is called


def public(participant: ConversationParticipant) -> dict[str, Any]:
    return {
        "user": describe(participant.user),
        "role": str(participant.role),
        "createdAt": participant.created_at.isoformat(),
    }


@operation(gives={200: "Participants"}, problems=(400, 404))
def list_participants(asked: Asked, uuid: UUID) -> HttpResponse:
    """List those whom a conversation is shared with, the first one first."""
    conversation = find(asked.user, uuid, Action.READ)
    found = conversation.participants.using(database()).select_related("user").order_by("pk")
    return JsonResponse({"participants": [public(participant) for participant in found]})


@operation(
    takes="NewParticipant",
    gives={200: "Participant", 201: "Participant"},
    problems=(400, 403, 404, 413, 415),
)
def share_conversation(asked: Asked, uuid: UUID) -> HttpResponse:
    """Let a user in, or change what they may do; it takes the right to manage."""
    name = text_of(asked.body, "user", limit=USER_LIMIT)
    role = text_of(asked.body, "role", required=False)
    if role and role not in ParticipantRole.values:
        raise Refused("invalid", f"is not one of {', '.join(ParticipantRole.values)}", "role")
    conversation = find(asked.user, uuid, Action.MANAGE)
    user = _user(asked.user, name)
    if user is None:
        raise Refused("invalid", "there is no such user", "user")
    if user == conversation.owner:
        raise Refused("invalid", "owns the conversation", "user")
    known = conversation.participants.filter(user=user).first()
    participant = conversation.share_with(user, role or (known.role if known else ParticipantRole.WRITE))
    location = f"{asked.request.path}{user.pk}/"
    return JsonResponse(public(participant), status=200 if known else 201, headers={"Location": location})


@operation(gives={204: ""}, problems=(400, 403, 404, 413, 415))
def unshare_conversation(asked: Asked, uuid: UUID, user: str) -> HttpResponse:
    """Take a user's right away; it takes the right to manage, unless it is your own."""
    own = user == str(asked.user.pk)
    conversation = find(asked.user, uuid, Action.READ if own else Action.MANAGE)
    found = [row for row in conversation.participants.select_related("user") if str(row.user_id) == user]
    if not found:
        raise ConversationParticipant.DoesNotExist
    conversation.unshare_with(found[0].user)
    return nothing()


def _user(asking: Any, name: str) -> Any:
    """Find whom a client names, as ``CONVERSE_CLIENT_USER`` says; None where there is nobody."""
    if settings.CONVERSE_CLIENT_USER:
        return import_string(settings.CONVERSE_CLIENT_USER)(asking, name)
    users: Any = get_user_model()
    try:
        user = users._default_manager.get_by_natural_key(name)  # noqa: SLF001 - as Django does
    except users.DoesNotExist:
        return None
    return user if user.is_active else None
