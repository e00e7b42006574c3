from __future__ import annotations

from typing import ClassVar
from uuid import uuid4

from django.core.files.storage import Storage
from django.db import models
from django.utils.translation import gettext_lazy as _

from converse import files
from converse.models.conversations import Conversation
from converse.models.messages import Message


def storage() -> Storage:
    """Give the storage of ``CONVERSE_ATTACHMENT_STORAGE``."""
    return files.AttachmentStorage()


def place(attachment: MessageAttachment, name: str) -> str:
    """Name the file by chance: what a person called it stays in the database."""
    return files.place()


class MessageAttachment(models.Model):
    """A file that belongs to a message; until it is sent with one, to its conversation only."""

    uuid = models.UUIDField(_("UUID"), default=uuid4, unique=True, editable=False)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="attachments", verbose_name=_("conversation")
    )
    message = models.ForeignKey(
        Message, models.CASCADE, null=True, blank=True, related_name="attachments", verbose_name=_("message")
    )
    file = models.FileField(_("file"), storage=storage, upload_to=place, max_length=255)
    name = models.CharField(_("name"), max_length=255)
    mime_type = models.CharField(_("MIME type"), max_length=100)
    size = models.PositiveBigIntegerField(_("size"), help_text=_("In bytes."))
    checksum = models.CharField(_("checksum"), max_length=64, help_text=_("SHA-256, in hexadecimal."))
    metadata = models.JSONField(_("metadata"), default=dict, blank=True)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)

    class Meta:
        verbose_name = _("attachment")
        verbose_name_plural = _("attachments")
        ordering: ClassVar = ["pk"]
        indexes: ClassVar = [models.Index(fields=["file"], name="converse_attachment_file")]

    def __str__(self) -> str:
        return self.name

    @property
    def kind(self) -> str:
        """What it is to people: ``image``, ``audio``, ``video``, or ``document`` for everything else."""
        return files.kind_of(self.mime_type)
