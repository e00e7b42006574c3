from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.db import models
from django.utils.translation import gettext_lazy as _

from converse import messages as service
from converse import replies
from converse.choices import OPEN, ChunkKind, ErrorType, Role, Status
from converse.conf import settings
from converse.events import MessageCreated, MessageEvent, camel
from converse.managers import ChunkQuerySet, MessageQuerySet, VisibleMessages
from converse.models.conversations import Conversation
from converse.streaming import Stream
from converse.twins import twin

E = TypeVar("E", bound=MessageEvent)


class Message(models.Model):
    """One turn of a conversation: written at once, or open and growing chunk by chunk until it is closed."""

    uuid = models.UUIDField(_("UUID"), default=uuid4, unique=True, editable=False)
    conversation = models.ForeignKey(
        Conversation, models.CASCADE, related_name="messages", db_index=False, verbose_name=_("conversation")
    )
    role = models.CharField(_("role"), max_length=20, choices=Role)
    status = models.CharField(_("status"), max_length=20, choices=Status, default=Status.COMPLETED)
    content = models.TextField(
        _("content"), blank=True, default="", help_text=_("Written once, when the message closes.")
    )
    parts = models.JSONField(_("parts"), default=list, blank=True)
    metadata = models.JSONField(
        _("metadata"),
        default=dict,
        blank=True,
        help_text=_("Private: only the keys of CONVERSE_PUBLIC_METADATA leave the server."),
    )
    external_id = models.CharField(  # noqa: DJ001 - unique where there is one
        _("external id"), max_length=100, null=True, blank=True, help_text=_("The client's own id for it.")
    )
    reply_to = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="replies", verbose_name=_("reply to")
    )
    attempt = models.PositiveIntegerField(_("attempt"), default=1)

    offset = models.PositiveBigIntegerField(_("offset"), help_text=_("Where in the conversation's log it was created."))
    changed_offset = models.PositiveBigIntegerField(
        _("changed offset"), help_text=_("Its last change other than a chunk.")
    )
    closed_offset = models.PositiveBigIntegerField(_("closed offset"), null=True, blank=True)
    last_sequence = models.PositiveIntegerField(
        _("last sequence"), default=0, help_text=_("Of its last chunk; set when it closes.")
    )

    provider = models.CharField(_("provider"), max_length=100, blank=True, default="")
    model = models.CharField(_("model"), max_length=200, blank=True, default="")
    options = models.JSONField(
        _("options"), default=dict, blank=True, help_text=_("Of the provider's call, in its own words.")
    )
    finish_reason = models.CharField(_("finish reason"), max_length=50, blank=True, default="")
    input_tokens = models.PositiveIntegerField(
        _("input tokens"), null=True, blank=True, help_text=_("Without those read from or written to a cache.")
    )
    cached_input_tokens = models.PositiveIntegerField(_("cached input tokens"), null=True, blank=True)
    cache_write_tokens = models.PositiveIntegerField(_("cache write tokens"), null=True, blank=True)
    output_tokens = models.PositiveIntegerField(_("output tokens"), null=True, blank=True)
    reasoning_tokens = models.PositiveIntegerField(_("reasoning tokens"), null=True, blank=True)
    usage = models.JSONField(_("usage"), default=dict, blank=True, help_text=_("As the provider wrote it."))
    error_type = models.CharField(_("error type"), max_length=50, choices=ErrorType, blank=True, default="")
    error_message = models.CharField(
        _("error message"), max_length=500, blank=True, default="", help_text=_("What people may see.")
    )
    error_detail = models.TextField(
        _("error detail"), blank=True, default="", help_text=_("For logs and the admin only.")
    )

    lease_expires_at = models.DateTimeField(_("lease expires at"), null=True, blank=True)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    first_chunk_at = models.DateTimeField(_("first chunk at"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    deleted_at = models.DateTimeField(_("deleted at"), null=True, blank=True)

    objects = VisibleMessages()
    all_objects = MessageQuerySet.as_manager()

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        base_manager_name = "all_objects"
        ordering: ClassVar = ["offset"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["conversation", "external_id"], name="converse_message_unique_external_id"),
            models.UniqueConstraint(fields=["conversation", "offset"], name="converse_message_unique_offset"),
        ]
        indexes: ClassVar = [
            models.Index(fields=["conversation", "changed_offset"], name="converse_message_changed"),
            models.Index(fields=["status", "lease_expires_at"], name="converse_message_lease"),
        ]

    def __str__(self) -> str:
        return f"{self.get_role_display()} {self.uuid}"

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def is_streaming(self) -> bool:
        return self.status == Status.STREAMING

    @property
    def is_completed(self) -> bool:
        return self.status == Status.COMPLETED

    @property
    def is_failed(self) -> bool:
        return self.status == Status.FAILED

    @property
    def is_cancelled(self) -> bool:
        return self.status == Status.CANCELLED

    @property
    def text(self) -> str:
        """Its content; while it is open, its chunks so far, read anew each time."""
        return self.chunks.text() if self.is_open else self.content

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls of tools among its parts, each with ``id``, ``name`` and JSON ``arguments``."""
        return [part for part in self.parts if part["type"] == ChunkKind.TOOL_CALL]

    @property
    def reasoning(self) -> str:
        """The reasoning among its parts."""
        return "".join(part["text"] for part in self.parts if part["type"] == ChunkKind.REASONING)

    @property
    def refusal(self) -> str:
        """The refusal among its parts."""
        return "".join(part["text"] for part in self.parts if part["type"] == ChunkKind.REFUSAL)

    @cached_property
    def stream(self) -> Stream:
        """This message as being written by this process."""
        return Stream(self)

    def append_chunk(self, content: str, metadata: Mapping[str, Any] | None = None) -> MessageChunk | None:
        """Append text to the open message and give its chunk; committed on return. Empty text adds nothing.

        Raise MessageClosed, AnotherWriter or InvalidMessage.
        """
        return self.stream.append_chunk(content, metadata)

    def complete_streaming(self, metadata: Mapping[str, Any] | None = None) -> Message:
        """Close the message without error. Raise MessageClosed when it is closed already."""
        return self.stream.complete(metadata)

    def fail_streaming(self, error: str | BaseException, metadata: Mapping[str, Any] | None = None) -> Message:
        """Close the message with an error, for logs and the admin; what came of it is kept.

        Raise MessageClosed when it is closed already.
        """
        return self.stream.fail(error, metadata)

    def stop(self) -> bool:
        """Cancel the message, from any process; say whether it was open still. Its writer stops within a second."""
        return replies.stop(self)

    def retry(self) -> Message:
        """Ask the provider again: start a sibling of this reply, its next attempt. This one stays as it is."""
        return replies.retry(self)

    def delete(self, using: Any = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Hide the message; an open one is stopped first. ``restore()`` brings it back."""
        return service.delete(self)

    def restore(self) -> None:
        """Bring a deleted message back."""
        service.restore(self)

    def purge(self) -> tuple[int, dict[str, int]]:
        """Remove the message and its chunks for good."""
        return super().delete()

    def update_metadata(self, **metadata: Any) -> None:
        """Merge keys into the metadata, under the conversation's lock, so that no concurrent merge is lost."""
        service.update_metadata(self, metadata)

    aappend_chunk = twin(append_chunk)
    acomplete_streaming = twin(complete_streaming)
    afail_streaming = twin(fail_streaming)
    astop = twin(stop)
    aretry = twin(retry)

    async def adelete(self, using: Any = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """See delete()."""
        return await sync_to_async(self.delete)()

    arestore = twin(restore)
    apurge = twin(purge)
    aupdate_metadata = twin(update_metadata)

    async def atext(self) -> str:
        """See text."""
        return await sync_to_async(self.chunks.text)() if self.is_open else self.content

    @staticmethod
    def public_parts(parts: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Give parts for the wire, where they say more than the content does, without what only the provider needs."""
        if all(part["type"] == ChunkKind.TEXT for part in parts):
            return None
        return [{key: part[key] for key in PUBLIC_PART if key in part} for part in parts]

    def event(self, event: type[E], conversation_uuid: str, **changes: Any) -> E:
        """Give this message's state as an event; ``content`` only where ``changes`` or a new closed message has it."""
        if event is MessageCreated and not self.is_open:
            changes = {"content": self.content, "parts": self.public_parts(self.parts), **changes}
        if self.status == Status.FAILED:
            changes.setdefault("error", {"type": self.error_type, "message": self.error_message})
        public = settings.CONVERSE_PUBLIC_METADATA
        state: dict[str, Any] = {
            "conversation_id": conversation_uuid,
            "message_id": str(self.uuid),
            "offset": self.changed_offset,
            "role": str(self.role),
            "status": str(self.status),
            "sequence": self.last_sequence,
            "reply_to": str(self.reply_to.uuid) if self.reply_to else None,
            "attempt": self.attempt,
            "client_id": self.external_id,
            "created_at": _iso(self.created_at),
            "finished_at": _iso(self.finished_at),
            "provider": self.provider,
            "model": self.model,
            "finish_reason": str(self.finish_reason),
            "usage": {camel(name): getattr(self, name) for name in TOKENS},
            "metadata": {key: value for key, value in self.metadata.items() if key in public},
        }
        return event(**{**state, **changes})


PUBLIC_PART = ("type", "text", "id", "name", "arguments")
TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


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
