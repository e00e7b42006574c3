from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_delete
from django.utils.translation import gettext_lazy as _


class ConverseConfig(AppConfig):
    name = "converse"
    verbose_name = _("Conversations")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from converse import checks, messages, records, replies, signals  # noqa: F401 - the models must be there first

        post_delete.connect(
            messages.after_unshare, sender=records.ConversationParticipant, dispatch_uid="converse.after_unshare"
        )
        for closed in (signals.message_completed, signals.message_failed, signals.message_cancelled):
            closed.connect(replies.after_close, dispatch_uid="converse.after_close")
