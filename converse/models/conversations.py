from __future__ import annotations

from collections.abc import Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from converse import messages as service
from converse import replies
from converse.choices import ParticipantRole, Role
from converse.drafts import Content, Draft
from converse.managers import ConversationQuerySet, VisibleConversations
from converse.streaming import Stream, start
from converse.twins import twin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from converse.models.messages import Message


def new_epoch() -> str:
    return uuid4().hex[:8]


class ConversationManager(VisibleConversations):
    def start(
        self,
        owner: models.Model | None = None,
        *,
        title: str = "",
        metadata: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """Start a conversation of an owner, a row of any model, or of nobody.

        ``context`` may hold a ``system_prompt``. Raise InvalidMessage for a title too long or data that is not JSON.
        """
        return service.start(owner, title=title, metadata=metadata, context=context)

    async def astart(self, owner: models.Model | None = None, **kwargs: Any) -> Conversation:
        """See start()."""
        return await sync_to_async(self.start)(owner, **kwargs)


class Conversation(models.Model):
    """Ordered messages of an owner: a durable log that any number of readers follow."""

    uuid = models.UUIDField(_("UUID"), default=uuid4, unique=True, editable=False)
    owner_type = models.ForeignKey(
        ContentType,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
        verbose_name=_("owner type"),
    )
    owner_id = models.CharField(_("owner id"), max_length=64, null=True, blank=True)  # noqa: DJ001
    owner = GenericForeignKey("owner_type", "owner_id", for_concrete_model=False)
    title = models.CharField(_("title"), max_length=255, blank=True, default="")
    metadata = models.JSONField(_("metadata"), default=dict, blank=True)
    context = models.JSONField(
        _("context"), default=dict, blank=True, help_text=_("What every reply is told, such as a system_prompt.")
    )
    last_offset = models.PositiveBigIntegerField(_("last offset"), default=0, help_text=_("The head of its log."))
    changed_offset = models.PositiveBigIntegerField(_("changed offset"), default=0, help_text=_("Its own last change."))
    epoch = models.CharField(_("epoch"), max_length=8, default=new_epoch, editable=False)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)
    last_activity_at = models.DateTimeField(_("last activity at"), default=timezone.now)
    deleted_at = models.DateTimeField(_("deleted at"), null=True, blank=True)

    objects = ConversationManager()
    all_objects = ConversationQuerySet.as_manager()

    class Meta:
        verbose_name = _("conversation")
        verbose_name_plural = _("conversations")
        base_manager_name = "all_objects"
        ordering: ClassVar = ["-last_activity_at"]
        indexes: ClassVar = [
            models.Index(fields=["owner_type", "owner_id", "-last_activity_at"], name="converse_conversation_owner"),
            models.Index(fields=["-last_activity_at"], name="converse_conversation_latest"),
        ]

    def __str__(self) -> str:
        return self.title or str(self.uuid)

    # Adding messages. add_* gives the conversation, to go on; create_* gives the message.

    def create_message(
        self,
        role: str,
        content: Content = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        external_id: str | None = None,
    ) -> Message:
        """Add a message and give it back. Content is text or a template; raise InvalidMessage for anything else.

        With an ``external_id`` that the conversation knows already, nothing is added and the known message comes back.
        """
        return service.add(self, [Draft(content, metadata or {}, external_id, role)])[0]

    def create_user_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Message:
        return self.create_message(Role.USER, content, metadata)

    def create_assistant_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Message:
        return self.create_message(Role.ASSISTANT, content, metadata)

    def create_system_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Message:
        return self.create_message(Role.SYSTEM, content, metadata)

    def create_tool_call_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Message:
        return self.create_message(Role.TOOL_CALL, content, metadata)

    def create_tool_result_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Message:
        return self.create_message(Role.TOOL_RESULT, content, metadata)

    def add_message(self, role: str, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Self:
        """Add a message and give the conversation. See create_message()."""
        self.create_message(role, content, metadata)
        return self

    def add_user_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Self:
        return self.add_message(Role.USER, content, metadata)

    def add_assistant_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Self:
        return self.add_message(Role.ASSISTANT, content, metadata)

    def add_system_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Self:
        return self.add_message(Role.SYSTEM, content, metadata)

    def add_tool_call_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Self:
        return self.add_message(Role.TOOL_CALL, content, metadata)

    def add_tool_result_message(self, content: Content = None, metadata: Mapping[str, Any] | None = None) -> Self:
        return self.add_message(Role.TOOL_RESULT, content, metadata)

    def add_messages(self, *items: Any) -> list[Message]:
        """Add messages in one insert and give them in order; pass them one by one or as one list.

        Each is text (a user's), a dict with ``role`` or ``type`` and ``content``, or a value object of
        ``converse.drafts``. All are checked before any is written; raise InvalidMessage, naming the bad one.
        """
        return service.add(self, items[0] if len(items) == 1 and isinstance(items[0], list | tuple) else items)

    acreate_message = twin(create_message)
    acreate_user_message = twin(create_user_message)
    acreate_assistant_message = twin(create_assistant_message)
    acreate_system_message = twin(create_system_message)
    acreate_tool_call_message = twin(create_tool_call_message)
    acreate_tool_result_message = twin(create_tool_result_message)
    aadd_message = twin(add_message)
    aadd_user_message = twin(add_user_message)
    aadd_assistant_message = twin(add_assistant_message)
    aadd_system_message = twin(add_system_message)
    aadd_tool_call_message = twin(add_tool_call_message)
    aadd_tool_result_message = twin(add_tool_result_message)
    aadd_messages = twin(add_messages)

    # Reading messages.

    @property
    def last_message(self) -> Message | None:
        return service.visible(self).order_by("-offset").first()

    def recent_messages(self, count: int) -> list[Message]:
        """Give the last messages, oldest first, in one query."""
        return list(service.visible(self).order_by("-offset")[:count])[::-1]

    def window(self, count: int) -> list[Message]:
        """Give the last messages and, before them, all system ones: what a provider is to see."""
        return service.window(self, count)

    arecent_messages = twin(recent_messages)
    awindow = twin(window)

    async def alast_message(self) -> Message | None:
        """See last_message."""
        return await service.visible(self).order_by("-offset").afirst()

    # Streaming.

    def start_streaming(self, role: str, metadata: Mapping[str, Any] | None = None) -> Message:
        """Add an empty message that grows by ``append_chunk``; it is committed when this returns.

        Left alone for ``CONVERSE_STALE_AFTER`` seconds it is closed as failed.
        """
        return start(self, role, metadata)

    def start_streaming_assistant(self, metadata: Mapping[str, Any] | None = None) -> Message:
        return self.start_streaming(Role.ASSISTANT, metadata)

    def start_streaming_user(self, metadata: Mapping[str, Any] | None = None) -> Message:
        return self.start_streaming(Role.USER, metadata)

    astart_streaming = twin(start_streaming)
    astart_streaming_assistant = twin(start_streaming_assistant)
    astart_streaming_user = twin(start_streaming_user)

    @contextmanager
    def stream_reply(self, metadata: Mapping[str, Any] | None = None) -> Iterator[Stream]:
        """Stream an assistant message: left normally it is completed, by an exception failed, its text kept."""
        with self.start_streaming_assistant(metadata).stream as stream:
            yield stream

    @asynccontextmanager
    async def astream_reply(self, metadata: Mapping[str, Any] | None = None) -> AsyncIterator[Stream]:
        """Stream an assistant message; left by cancellation it is cancelled. See stream_reply().

        When the message is closed by somebody else, as by a stop, the body is cancelled and MessageClosed raised.
        """
        message = await self.astart_streaming_assistant(metadata)
        async with message.stream as stream:
            yield stream

    # Replies of a provider.

    def reply(self, content: Content = None, **kwargs: Any) -> Message:
        """Add the user's turn, start a provider's reply to it, and give the reply at once, pending.

        Keywords: ``provider`` (alias), ``model``, ``options`` of the call in the provider's words, ``metadata`` of the
        reply, ``external_id`` of the user's turn (asked twice, the same reply comes back), ``policy``. Raise
        ConversationBusy, UnknownProvider or InvalidMessage; then nothing is stored.
        """
        return replies.reply(self, content, **kwargs)

    async def areply(self, content: Content = None, **kwargs: Any) -> Message:
        """See reply()."""
        return await replies.areply(self, content, **kwargs)

    def ask(self, content: Content = None, **kwargs: Any) -> Message:
        """Reply and wait for the end; give the closed message. See reply()."""
        return replies.ask(self, content, **kwargs)

    async def aask(self, content: Content = None, **kwargs: Any) -> Message:
        """See ask()."""
        return await replies.aask(self, content, **kwargs)

    def stop(self) -> int:
        """Stop every open message; say how many there were."""
        return replies.stop_all(self)

    astop = twin(stop)

    # The conversation itself.

    def rename(self, title: str) -> None:
        """Change the title, and tell readers."""
        service.rename(self, title)

    def delete(self, using: Any = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Hide the conversation and its messages; open ones are stopped. ``restore()`` brings back what was visible."""
        return service.delete_conversation(self)

    def restore(self) -> None:
        """Bring a deleted conversation back."""
        service.restore_conversation(self)

    def purge(self) -> tuple[int, dict[str, int]]:
        """Remove the conversation with all it holds for good."""
        return super().delete()

    arename = twin(rename)

    async def adelete(self, using: Any = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """See delete()."""
        return await sync_to_async(self.delete)()

    arestore = twin(restore)
    apurge = twin(purge)

    # Sharing.

    def share_with(self, user: Any, role: str = ParticipantRole.WRITE) -> ConversationParticipant:
        """Let a user in, or change what they may do: ``read``, ``write`` or ``owner``."""
        participant, _created = self.participants.update_or_create(user=user, defaults={"role": ParticipantRole(role)})
        return participant

    def unshare_with(self, user: Any) -> bool:
        """Take a user's right away; standing subscriptions of theirs end. Say whether they had any."""
        return self.participants.filter(user=user).delete()[0] > 0

    ashare_with = twin(share_with)
    aunshare_with = twin(unshare_with)


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
