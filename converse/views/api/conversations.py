"""Conversations: list, start, rename, delete, bring back."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpResponse, JsonResponse
from django.utils.module_loading import import_string

from converse.choices import Action
from converse.conf import settings
from converse.exceptions import InvalidMessage
from converse.listing import conversations, trashed
from converse.log import database
from converse.messages import TITLE_LIMIT
from converse.models import Conversation
from converse.permissions import find
from converse.transports.frames import Frame, Refused, text_of
from converse.views.api.described import Asked, Flag, Whole, Words, nothing, operation


def public(conversation: Conversation) -> dict[str, Any]:
    """Give a conversation as whoever may read it sees it."""
    deleted_at = conversation.deleted_at
    return {
        "conversationId": str(conversation.uuid),
        "title": conversation.title,
        "leaf": conversation.leaf_offset,
        "head": conversation.last_offset,
        "epoch": conversation.epoch,
        "createdAt": conversation.created_at.isoformat(),
        "lastActivityAt": conversation.last_activity_at.isoformat(),
        "deletedAt": deleted_at.isoformat() if deleted_at else None,
    }


@operation(
    query=(
        Whole(name="limit", text="How many at most.", least=1, most=100, default=30),
        Words(name="cursor", text="The `next` of the page before.", limit=100),
        Words(name="search", text="What the title contains.", limit=TITLE_LIMIT),
        Flag(name="deleted", text="Those that were deleted and may be brought back."),
    ),
    gives={200: "ConversationPage"},
    problems=(400, 401),
    signed_in=True,
)
def list_conversations(asked: Asked) -> HttpResponse:
    """List your conversations and those shared with you, the latest activity first."""
    try:
        page, following = conversations(asked.user, **asked.query)
    except InvalidMessage as exc:
        raise Refused("invalid", exc.reason, exc.field) from exc
    return JsonResponse({"conversations": [public(row) for row in page], "next": following})


@operation(
    takes="NewConversation",
    gives={201: "Conversation"},
    problems=(400, 401, 403, 413, 415),
    signed_in=True,
)
def start_conversation(asked: Asked) -> HttpResponse:
    """Start a conversation of your own."""
    title = _title(asked.body, required=False)
    rule = settings.CONVERSE_CLIENT_CONVERSATION
    given = dict(import_string(rule)(asked.user)) if rule else {}
    conversation = Conversation.objects.start(**{"owner": asked.user, "title": title, **given})
    location = f"{asked.request.path}{conversation.uuid}/"
    return JsonResponse(_anew(conversation), status=201, headers={"Location": location})


@operation(gives={200: "Conversation"}, problems=(400, 404))
def get_conversation(asked: Asked, uuid: UUID) -> HttpResponse:
    """Give a conversation."""
    return JsonResponse(public(find(asked.user, uuid, Action.READ)))


@operation(takes="Title", gives={200: "Conversation"}, problems=(400, 403, 404, 413, 415))
def rename_conversation(asked: Asked, uuid: UUID) -> HttpResponse:
    """Give a conversation another title; it takes the right to write."""
    title = _title(asked.body)
    conversation = find(asked.user, uuid, Action.WRITE)
    conversation.rename(title)
    return JsonResponse(_anew(conversation))


@operation(gives={204: ""}, problems=(400, 403, 404, 413, 415))
def delete_conversation(asked: Asked, uuid: UUID) -> HttpResponse:
    """Hide a conversation from everybody; it takes the right to manage it, and can be brought back."""
    find(asked.user, uuid, Action.MANAGE).delete()
    return nothing()


@operation(gives={200: "Conversation"}, problems=(400, 403, 404, 413, 415))
def restore_conversation(asked: Asked, uuid: UUID) -> HttpResponse:
    """Bring a deleted conversation back; it takes the right to manage it."""
    conversation = trashed(asked.user, uuid)
    conversation.restore()
    return JsonResponse(_anew(conversation))


def _anew(conversation: Conversation) -> dict[str, Any]:
    """Give a conversation as it is stored now that it was written to."""
    conversation.refresh_from_db(using=database())
    return public(conversation)


def _title(body: Frame, *, required: bool = True) -> str:
    return text_of(body, "title", required=required, limit=TITLE_LIMIT)
