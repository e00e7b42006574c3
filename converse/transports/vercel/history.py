"""Stored messages as ``useChat`` has them: for the page's first view, and for what may be resumed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypedDict

from django.utils import timezone

from converse import approvals
from converse.choices import OPEN, ChunkKind, Role, Status
from converse.conf import settings
from converse.cursors import write_cursor
from converse.events import MessageCreated
from converse.log import database
from converse.models import Conversation, Message
from converse.transports.vercel.addresses import link_to
from converse.transports.vercel.assembling import assembled
from converse.transports.vercel.encoder import Encoder
from converse.transports.vercel.requests import sdk_of
from converse.twins import twin

RUNNING = (Status.PENDING, Status.STREAMING)
SHOWN = (Role.USER, Role.ASSISTANT, Role.SYSTEM)  # the roles that there are


class Initial(TypedDict):
    """What a page begins with: ``useChat({messages, resume})``."""

    messages: list[dict[str, Any]]
    resume: bool  # whether a reply is left out because it is being streamed
    cursor: str  # as of which this is


def initial(conversation: Conversation, *, sdk: int | None = None) -> Initial:
    """Give the messages that are shown, the newest ``CONVERSE_SNAPSHOT_LIMIT`` of them, oldest first, as UIMessages.

    A last reply that is being streamed is left out, for the stream gives all of it: ``resume`` says so.
    """
    conversation.refresh_from_db(fields=["last_offset", "epoch"])
    rows = _shown(conversation).filter(role__in=SHOWN).order_by("-offset")
    found = list(rows[: settings.CONVERSE_SNAPSHOT_LIMIT])[::-1]
    resume = bool(found) and found[-1].role == Role.ASSISTANT and found[-1].status in RUNNING
    told = found[:-1] if resume else found
    version = sdk_of(None if sdk is None else str(sdk))
    return {
        "messages": [ui_message(message, sdk=version) for message in told],
        "resume": resume,
        "cursor": write_cursor(conversation.last_offset, conversation.epoch),
    }


ainitial = twin(initial)


def ui_message(message: Message, *, sdk: int) -> dict[str, Any]:
    """Give a stored message as a UIMessage, as the client would have put it together from the stream."""
    uuid = str(message.conversation.uuid)
    so_far = _content(approvals.parts_of(message)) if message.is_open else {}
    state = message.event(MessageCreated, uuid, **so_far).wire()
    encoder = Encoder(str(message.uuid), sdk, link_to(uuid))
    chunks = encoder.take([("MessageCreated", state)])
    if not encoder.ended:
        chunks += encoder.rest() if encoder.waits else encoder.pause()
    told = assembled(chunks)
    if message.role != Role.ASSISTANT:
        told["parts"] = [part for part in told["parts"] if part["type"] != "step-start"]
    return {"id": str(message.uuid), "role": str(message.role), **told}


def _content(parts: list[dict[str, Any]]) -> dict[str, Any]:
    text = "".join(part["text"] for part in parts if part["type"] == ChunkKind.TEXT)
    return {"content": text, "parts": Message.public_parts(parts)}


def resumable(conversation: Conversation, after: tuple[int, str] | None) -> Message | None:
    """Give the reply that a client may be missing: the last one, if it is being streamed, or came to rest just now.

    What is just now: within ``CONVERSE_CHAT_REPLAY``, or for a client with a cursor since then.
    """
    message: Message | None = _shown(conversation).order_by("offset").last()
    if message is None or message.role != Role.ASSISTANT:
        return None
    if message.status in RUNNING:
        return message
    if after is not None and after[1] == conversation.epoch:
        rested = message.changed_offset if message.status in OPEN else message.closed_offset or 0
        return message if rested > after[0] else None
    since = timezone.now() - timedelta(seconds=settings.CONVERSE_CHAT_REPLAY)
    return message if (at := _rested_at(message)) is not None and at > since else None


def _rested_at(message: Message) -> Any:
    if message.finished_at:
        return message.finished_at
    return message.chunks.order_by("sequence").values_list("created_at", flat=True).last()


def _shown(conversation: Conversation) -> Any:
    rows = Message.objects.using(database()).filter(conversation=conversation)
    return rows.current().select_related("conversation", "reply_to")
