from __future__ import annotations

from typing import Any

from django.dispatch import receiver
from django.utils.text import Truncator

from converse.choices import Role
from converse.models import Message
from converse.signals import message_created


@receiver(message_created)
def title_by_first_question(sender: type[Message], message: Message, **kwargs: Any) -> None:
    """Call a conversation by what was asked in it first."""
    if message.role == Role.USER and not message.conversation.title:
        message.conversation.rename(Truncator(" ".join(message.text.split())).chars(60))
