from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from converse.choices import ChunkKind
from converse.managers import ChunkQuerySet
from converse.models.conversations import Conversation
from converse.models.messages import Message


class MessageChunk(models.Model):
    """A stored fragment of a message, never changed. One row may pack several deltas."""

    pk = models.CompositePrimaryKey("message_id", "sequence")
    message = models.ForeignKey(
        Message, models.CASCADE, related_name="chunks", db_index=False, verbose_name=_("message")
    )
    sequence = models.PositiveIntegerField(_("sequence"))
    # The message's conversation once more, so that the log can be read by offset; the message's own key vouches for it.
    conversation = models.ForeignKey(
        Conversation,
        models.DO_NOTHING,
        related_name="+",
        db_index=False,
        db_constraint=False,
        verbose_name=_("conversation"),
    )
    offset = models.PositiveBigIntegerField(_("offset"))
    kind = models.CharField(_("kind"), max_length=20, choices=ChunkKind, default=ChunkKind.TEXT)
    part = models.PositiveIntegerField(_("part"), default=0)
    content = models.TextField(_("content"), blank=True)
    metadata = models.JSONField(_("metadata"), null=True, blank=True)
    created_at = models.DateTimeField(_("created at"))

    objects = ChunkQuerySet.as_manager()

    class Meta:
        verbose_name = _("message chunk")
        verbose_name_plural = _("message chunks")
        ordering: ClassVar = ["message_id", "sequence"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "offset"], name="converse_chunk_unique_offset"),
        ]

    def __str__(self) -> str:
        return f"{self.sequence}: {self.content[:50]}"
