from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_delete
from django.utils.translation import gettext_lazy as _


class ConverseConfig(AppConfig):
    name = "converse"
    verbose_name = _("Conversations")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # The models must be there first.
        from converse import attachments, checks, messages, records, replies, signals, titles  # noqa: F401

        post_delete.connect(
            messages.after_unshare, sender=records.ConversationParticipant, dispatch_uid="converse.after_unshare"
        )
        post_delete.connect(
            attachments.after_delete, sender=records.MessageAttachment, dispatch_uid="converse.after_delete"
        )
        for closed in (signals.message_completed, signals.message_failed, signals.message_cancelled):
            closed.connect(replies.after_close, dispatch_uid="converse.after_close")
        signals.message_completed.connect(titles.after_completion, dispatch_uid="converse.after_completion")
