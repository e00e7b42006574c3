"""What a client has done in a conversation: parse, authorise, call, answer. Each is run in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError
from django.utils.module_loading import import_string

from converse import approvals
from converse.approvals import Decision
from converse.choices import Action, ChunkKind
from converse.conf import settings
from converse.exceptions import InvalidMessage, MessageClosed
from converse.log import database
from converse.models import Conversation, Message
from converse.permissions import find, fresh, may
from converse.replies import KEYWORDS
from converse.transports.frames import Frame, Refused, text_of, texts_of

ID_LIMIT = 100  # characters of a client's own id, or of a call's
REASON_LIMIT = 1000  # characters


def send(user: Any, frame: Frame) -> Frame:
    conversation = conversation_of(user, frame, Action.WRITE)
    attachments = texts_of(frame, "attachments")
    content = text_of(frame, "content", required=not attachments, limit=settings.CONVERSE_MESSAGE_LIMIT)
    asked = {**_rule(user, conversation), **_provider_of(frame)}
    return _sent(conversation, conversation.reply(content, attachments=attachments, **_common(frame), **asked))


def edit(user: Any, frame: Frame) -> Frame:
    message = message_of(user, frame)
    content = text_of(frame, "content", limit=settings.CONVERSE_MESSAGE_LIMIT)
    files = {} if frame.get("attachments") is None else {"attachments": texts_of(frame, "attachments")}
    return _sent(message.conversation, message.edit(content, **files, **_common(frame), **_provider_of(frame)))


def retry(user: Any, frame: Frame) -> Frame:
    message = message_of(user, frame)
    try:
        return _sent(message.conversation, message.regenerate(**_common(frame), **_provider_of(frame)))
    except IntegrityError as exc:
        raise Refused("invalid", "is another message's already", "clientId") from exc


def switch(user: Any, frame: Frame) -> Frame:
    message = message_of(user, frame)
    message.switch()
    return {"type": "switched", "message": str(message.uuid), "leaf": message.conversation.leaf_offset}


def stop(user: Any, frame: Frame) -> Frame:
    message = message_of(user, frame)
    message.stop()
    return {"type": "stopped", "message": str(message.uuid), "status": str(message.status)}


def approve(user: Any, frame: Frame) -> Frame:
    return _decide(user, frame, Decision.APPROVED)


def deny(user: Any, frame: Frame) -> Frame:
    return _decide(user, frame, Decision.DENIED)


COMMANDS: dict[str, Callable[[Any, Frame], Frame]] = {
    "send": send,
    "edit": edit,
    "retry": retry,
    "switch": switch,
    "approve": approve,
    "deny": deny,
    "stop": stop,
}


def conversation_of(user: Any, frame: Frame, action: Action) -> Conversation:
    """Give the conversation that a frame names; raise DoesNotExist for one in which the user may not do this."""
    return find(fresh(user), text_of(frame, "conversation"), action)


def readable(user: Any, frame: Frame) -> tuple[Conversation, bool]:
    """Give the conversation that a frame names, and whether who may read it may write there."""
    now = fresh(user)
    conversation = find(now, text_of(frame, "conversation"), Action.READ)
    return conversation, may(now, Action.WRITE, conversation)


def message_of(user: Any, frame: Frame) -> Message:
    """Give the message that a frame names; raise DoesNotExist where the user may not write."""
    text = text_of(frame, "message")
    try:
        message: Message = Message.objects.using(database()).select_related("conversation").get(uuid=UUID(text))
    except ValueError:
        raise Message.DoesNotExist from None
    find(fresh(user), message.conversation.uuid, Action.WRITE)
    return message


def _common(frame: Frame) -> dict[str, Any]:
    """Give the keywords of any reply that is asked for."""
    external_id = text_of(frame, "clientId", required=False, limit=ID_LIMIT) or None
    return {"external_id": external_id, "policy": text_of(frame, "policy", required=False)}


def _provider_of(frame: Frame) -> dict[str, str]:
    alias = text_of(frame, "provider", required=False)
    if alias and alias not in (settings.CONVERSE_DEFAULT_PROVIDER, *settings.CONVERSE_CLIENT_PROVIDERS):
        raise Refused("invalid", "There is no such provider.", "provider")
    return {"provider": alias} if alias else {}


def _rule(user: Any, conversation: Conversation) -> dict[str, Any]:
    """Ask ``CONVERSE_CLIENT_REPLY`` how replies in this conversation are asked for: with which tools, in which form."""
    rule = settings.CONVERSE_CLIENT_REPLY
    asked = dict(import_string(rule)(fresh(user), conversation)) if rule else {}
    if unknown := sorted(set(asked).difference(KEYWORDS)):
        known = ", ".join(KEYWORDS)
        raise ImproperlyConfigured(f"CONVERSE_CLIENT_REPLY: {rule} gave {', '.join(unknown)}, but may give {known}.")
    return asked


def _sent(conversation: Conversation, reply: Message) -> Frame:
    turn = str(reply.reply_to.uuid) if reply.reply_to else ""
    return {"type": "sent", "conversation": str(conversation.uuid), "message": turn, "reply": str(reply.uuid)}


def _decide(user: Any, frame: Frame, decision: Decision) -> Frame:
    message = message_of(user, frame)
    call = text_of(frame, "call", limit=ID_LIMIT)
    reason = text_of(frame, "reason", required=False, limit=REASON_LIMIT)
    decide = message.approve if decision == Decision.APPROVED else message.deny
    try:
        decide(call, by=user, reason=reason)
    except (InvalidMessage, MessageClosed):
        if _decided(message, call) != decision:  # else it was sent twice
            raise
    return {"type": "decided", "message": str(message.uuid), "call": call, "decision": str(decision)}


def _decided(message: Message, call: str) -> str:
    """Say what was decided about a call, if anything."""
    message.refresh_from_db()
    parts = approvals.parts_of(message) if message.is_open else message.parts
    decisions = (part["text"] for part in parts if part["type"] == ChunkKind.APPROVAL and part.get("id") == call)
    return next(decisions, "")
