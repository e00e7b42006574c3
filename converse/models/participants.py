from __future__ import annotations

from typing import ClassVar

from django.conf import settings as django_settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from converse.choices import ParticipantRole
from converse.models.conversations import Conversation


class ConversationParticipant(models.Model):
    """A user whom a conversation is shared with."""

    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="participants", db_index=False, verbose_name=_("conversation")
    )
    user = models.ForeignKey(django_settings.AUTH_USER_MODEL, models.CASCADE, related_name="+", verbose_name=_("user"))
    role = models.CharField(_("role"), max_length=10, choices=ParticipantRole, default=ParticipantRole.WRITE)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    class Meta:
        verbose_name = _("participant")
        verbose_name_plural = _("participants")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "user"], name="converse_participant_unique_user"),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.get_role_display()})"
