"""The model classes, for the services below them.

The models carry verbs (``conversation.reply()``) that call the services, so they sit above them; the services find the
classes by name in Django's app registry, as Django's own relations do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps

if TYPE_CHECKING:
    from converse.models import (
        Conversation as Conversation,
    )
    from converse.models import (
        ConversationParticipant as ConversationParticipant,
    )
    from converse.models import (
        Message as Message,
    )
    from converse.models import (
        MessageAttachment as MessageAttachment,
    )
    from converse.models import (
        MessageChunk as MessageChunk,
    )
    from converse.models import (
        ProviderCall as ProviderCall,
    )


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # asked for by importers and debuggers
        raise AttributeError(name)
    return apps.get_model("converse", name)
