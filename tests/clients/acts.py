"""What a suite can have done inside of the server's process. Arguments and results are JSON."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.db import connection

from converse.choices import ParticipantRole
from converse.models import Conversation, Message
from tests.faults.acts import sign_in, stored

__all__ = ["sign_in", "stored"]


def conversation(user: int, title: str = "") -> str:
    """Start a conversation of a user."""
    return str(Conversation.objects.start(get_user_model().objects.get(pk=user), title=title).uuid)


def add(conversation: str, role: str, content: str) -> str:
    """Add a message that is not streamed."""
    return str(Conversation.objects.get(uuid=conversation).create_message(role, content).uuid)


def reply(conversation: str, content: str, **options: Any) -> dict[str, str]:
    """Ask for a reply, which is streamed in this process."""
    made = Conversation.objects.get(uuid=conversation).reply(content, **options)
    return {"message": str(made.reply_to.uuid), "reply": str(made.uuid)}


def message(message: str) -> dict[str, Any]:
    """Give what the database knows of a message."""
    found = Message.objects.get(uuid=message)
    told = {"status": str(found.status), "text": found.text, "parts": found.public_parts(found.parts)}
    return {**told, "client_id": found.external_id, "metadata": found.metadata}


def stop(message: str) -> bool:
    return Message.objects.get(uuid=message).stop()


def approve(message: str, call: str) -> None:
    Message.objects.get(uuid=message).approve(call)


def share(conversation: str, user: int, role: str = ParticipantRole.READ) -> None:
    Conversation.objects.get(uuid=conversation).share_with(get_user_model().objects.get(pk=user), role=role)


def unshare(conversation: str, user: int) -> None:
    found = Conversation.objects.get(uuid=conversation)
    found.unshare_with(get_user_model().objects.get(pk=user))


def delete(conversation: str) -> None:
    Conversation.objects.get(uuid=conversation).delete()


def vendor() -> str:
    return connection.vendor
