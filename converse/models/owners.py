from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from django.contrib.contenttypes.fields import GenericRelation
from django.core.exceptions import ValidationError
from django.db import models

from converse.managers import ConversationQuerySet
from converse.models.calls import ProviderCall
from converse.models.conversations import Conversation
from converse.twins import twin


class HasConversations(models.Model):
    """Gives a model conversations of its own: ``class Team(HasConversations, models.Model)``."""

    conversations = GenericRelation(
        Conversation, content_type_field="owner_type", object_id_field="owner_id", for_concrete_model=False
    )

    class Meta:
        abstract = True

    def start_conversation(
        self, title: str = "", metadata: Mapping[str, Any] | None = None, context: Mapping[str, Any] | None = None
    ) -> Conversation:
        """Start a conversation that belongs to this row."""
        return Conversation.objects.start(self, title=title, metadata=metadata, context=context)

    def continue_conversation(self, uuid: UUID | str) -> Conversation:
        """Give a conversation of this owner; raise DoesNotExist for a missing, deleted or foreign one alike."""
        try:
            return self.active_conversations().get(uuid=uuid)
        except ValidationError:  # not a uuid at all
            raise Conversation.DoesNotExist("Conversation matching query does not exist.") from None

    def find_conversation(self, uuid: UUID | str) -> Conversation | None:
        """Give a conversation of this owner, or None."""
        try:
            return self.continue_conversation(uuid)
        except Conversation.DoesNotExist:
            return None

    def active_conversations(self) -> ConversationQuerySet:
        """Give this owner's conversations that are not deleted, the latest first."""
        owned: ConversationQuerySet = Conversation.objects.for_owner(self)
        return owned.order_by("-last_activity_at")

    def usage(self, by: str | Iterable[str] = ()) -> Any:
        """Sum what the calls of providers in this owner's conversations took and cost; with ``by``, as rows.

        Those of conversations that are gone count as well. See ``CallQuerySet.usage()``.
        """
        return ProviderCall.objects.for_owner(self).usage(by)

    astart_conversation = twin(start_conversation)
    acontinue_conversation = twin(continue_conversation)
    afind_conversation = twin(find_conversation)
    ausage = twin(usage)
