"""The one question: may this user do this here? And who is let in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.utils.module_loading import import_string

from converse import records
from converse.choices import Action, ParticipantRole
from converse.conf import settings
from converse.exceptions import InvalidMessage
from converse.log import database

if TYPE_CHECKING:
    from converse.models import Conversation, ConversationParticipant

RIGHTS = {
    ParticipantRole.OWNER: (Action.READ, Action.WRITE, Action.MANAGE),
    ParticipantRole.WRITE: (Action.READ, Action.WRITE),
    ParticipantRole.READ: (Action.READ,),
}


def may(user: Any, action: Action, conversation: Conversation) -> bool:
    """Ask the rule that ``CONVERSE_AUTHORIZE`` names: ``rule(user, action, conversation) -> bool``."""
    return bool(import_string(settings.CONVERSE_AUTHORIZE)(user, action, conversation))


def fresh(user: Any) -> Any:
    """Give a user as they are now: who signed in long ago may have lost rights since. Raise DoesNotExist when gone."""
    return user._meta.base_manager.get(pk=user.pk) if isinstance(user, Model) else user


def owner_or_participant(user: Any, action: Action, conversation: Conversation) -> bool:
    """Let in an active user who owns the conversation, or takes part in it with that right."""
    if user is None or not user.is_authenticated or not user.is_active:
        return False
    if conversation.owner_id == str(user.pk):
        content_type = ContentType.objects.get_for_model(user, for_concrete_model=False)
        if conversation.owner_type_id == content_type.pk:
            return True
    participants = records.ConversationParticipant.objects.using(database())
    roles = participants.filter(conversation=conversation, user_id=user.pk).values_list("role", flat=True)
    return any(action in RIGHTS[ParticipantRole(role)] for role in roles)


def find(user: Any, uuid: UUID | str, action: Action) -> Conversation:
    """Give the conversation if the user may do this in it; else raise DoesNotExist, as if there were none."""
    missing = records.Conversation.DoesNotExist("There is no such conversation.")
    try:
        key = UUID(str(uuid))
    except ValueError:
        raise missing from None
    conversation: Conversation | None = records.Conversation.objects.using(database()).filter(uuid=key).first()
    if conversation is None or not may(user, action, conversation):
        raise missing
    return conversation


def share(conversation: Conversation, user: Any, role: str) -> ConversationParticipant:
    """Let a user in, or change what they may do."""
    if not isinstance(user, get_user_model()) or user.pk is None:
        raise InvalidMessage(f"must be a user who is stored, not {user!r}", field="user")
    try:
        given = ParticipantRole(role)
    except ValueError as exc:
        raise InvalidMessage(str(exc), field="role") from None
    participant, _ = conversation.participants.update_or_create(user=user, defaults={"role": given})
    return participant
