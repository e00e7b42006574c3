from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from converse import attachments, branches, permissions, replies
from converse import messages as service
from converse.choices import ParticipantRole, Role
from converse.drafts import Content, Draft
from converse.events import ConversationEvent
from converse.handlers import Handlers
from converse.managers import ConversationQuerySet, VisibleConversations, new_epoch
from converse.opening import start
from converse.prompts import prompt_of
from converse.providers.base import Prompt
from converse.streaming import Stream
from converse.twins import twin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from converse.models.attachments import MessageAttachment
    from converse.models.messages import Message
    from converse.models.participants import ConversationParticipant


E = TypeVar("E", bound=ConversationEvent)


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

        ``context`` may hold a ``system_prompt``, text or a template that is rendered at once, and a ``window``. Raise
        InvalidMessage for an owner that is no stored row, a title too long, or data that is not JSON.
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
    leaf_offset = models.PositiveBigIntegerField(
        _("leaf offset"), default=0, help_text=_("Of the message that the next one follows.")
    )
    forked_from = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="forks", verbose_name=_("forked from")
    )
    forked_at = models.PositiveBigIntegerField(
        _("forked at"), null=True, blank=True, help_text=_("The offset of the last message taken over.")
    )
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

    def event(self, event: type[E], *, offset: int) -> E:
        """Give this conversation's state as an event."""
        return event(conversation_id=str(self.uuid), offset=offset, title=self.title, leaf=self.leaf_offset)

    # Adding messages. add_* gives the conversation, to go on; create_* gives the message.

    def create_message(
        self,
        role: str,
        content: Content = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        external_id: str | None = None,
        attachments: Sequence[Any] = (),
    ) -> Message:
        """Add a message and give it back. Content is text or a template; raise InvalidMessage for anything else.

        An attachment is a file, a MessageAttachment of this conversation, or the uuid of one.

        With an ``external_id`` that the conversation knows already, nothing is added and the known message comes back.
        """
        return service.add(self, [Draft(content, metadata or {}, external_id, role, attachments)])[0]

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

        Each is text (a user's), a dict with ``role`` or ``type``, ``content`` and ``attachments``, or a value object of
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

    def attach(self, file: Any, name: str = "", mime_type: str = "") -> MessageAttachment:
        """Store a file, to be sent with a message: ``reply("What is this?", attachments=[attachment])``.

        A Django file, bytes, or anything opened for reading bytes. Its content decides its type. Raise InvalidMessage
        for one that is empty, too large, or of no type in ``CONVERSE_ATTACHMENT_TYPES``.
        """
        return attachments.attach(self, file, name, mime_type)

    aattach = twin(attach)

    # Reading messages.

    @property
    def last_message(self) -> Message | None:
        return service.visible(self).order_by("-offset").first()

    def recent_messages(self, count: int) -> list[Message]:
        """Give the last messages, oldest first, in one query."""
        return list(service.visible(self).order_by("-offset")[:count])[::-1]

    def window(self, count: int) -> list[Message]:
        """Give the last messages and, before them, all system ones."""
        return service.window(self, count)

    def prompt(self, alias: str = "") -> Prompt:
        """Give what a provider would be sent if it were asked now, for those who call one themselves.

        ``alias`` says which one: what the same one signed goes back to it, and its context window counts. Raise
        UnknownProvider where there is none of it.
        """
        return prompt_of(self, alias=alias)

    def clear(self, *, keep_system: bool = True) -> int:
        """Hide all messages but those of the system; open ones are stopped first. Say how many there were."""
        return service.clear(self, keep_system=keep_system)

    arecent_messages = twin(recent_messages)
    awindow = twin(window)
    aprompt = twin(prompt)
    aclear = twin(clear)

    async def alast_message(self) -> Message | None:
        """See last_message."""
        return await service.visible(self).order_by("-offset").afirst()

    # Accounting.

    def usage(self, by: str | Iterable[str] = ()) -> Any:
        """Sum what its calls of providers took and cost; with ``by``, as rows. See ``CallQuerySet.usage()``."""
        return self.calls.usage(by)

    ausage = twin(usage)

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
    def stream_reply(
        self, metadata: Mapping[str, Any] | None = None, *, handlers: Any = (), **callbacks: Any
    ) -> Iterator[Stream]:
        """Stream an assistant message: left normally it is completed, by an exception failed, its text kept.

        ``handlers``, by their names, see what is appended. Callbacks are ``on_token``, ``on_complete``, ``on_error`` or
        ``on_cancel``. A handler that stops the reply ends the body.
        """
        watching = Handlers(handlers).listen(**callbacks)
        message = self.start_streaming_assistant(metadata)
        message.stream.handlers = watching
        with message.stream as stream:
            yield stream

    @asynccontextmanager
    async def astream_reply(
        self, metadata: Mapping[str, Any] | None = None, *, handlers: Any = (), **callbacks: Any
    ) -> AsyncIterator[Stream]:
        """Stream an assistant message; left by cancellation it is cancelled. See stream_reply().

        When the message is closed by somebody else, as by a stop, the body is cancelled and MessageClosed raised.
        """
        watching = Handlers(handlers).listen(**callbacks)
        message = await self.astart_streaming_assistant(metadata)
        message.stream.handlers = watching
        async with message.stream as stream:
            yield stream

    # Replies of a provider.

    def reply(self, content: Content = None, **kwargs: Any) -> Message:
        """Add the user's turn, start a provider's reply to it, and give the reply at once, pending.

        Keywords: ``provider`` (alias), ``model``, ``options`` of the call in the provider's words, ``metadata`` of the
        reply, ``external_id`` of the user's turn (asked twice, the same reply comes back; under one that said something
        else it is refused) and its ``attachments``, ``policy``; ``tools``, functions or their dotted paths,
        ``tool_choice`` and ``max_steps``. Raise ConversationBusy, UnknownProvider or InvalidMessage; then nothing is
        stored.
        """
        return replies.reply(self, content, **kwargs)

    async def areply(self, content: Content = None, **kwargs: Any) -> Message:
        """See reply()."""
        return await replies.areply(self, content, **kwargs)

    def ask(self, content: Content = None, **kwargs: Any) -> Message:
        """Reply and wait for the end; give the message, closed or ``waiting`` for a person. See reply()."""
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

    def fork(self, at: Message | None = None, *, title: str = "", owner: models.Model | None = None) -> Conversation:
        """Start a conversation with copies of this one's messages up to one of them, or of all that is shown.

        Title and owner are this one's unless given. Raise InvalidMessage for a message that is elsewhere, deleted or
        open.
        """
        return branches.fork(self, at, title=title, owner=owner)

    arename = twin(rename)
    afork = twin(fork)

    async def adelete(self, using: Any = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """See delete()."""
        return await sync_to_async(self.delete)()

    arestore = twin(restore)
    apurge = twin(purge)

    # Sharing.

    def share_with(self, user: Any, role: str = ParticipantRole.WRITE) -> ConversationParticipant:
        """Let a user in, or change what they may do: ``read``, ``write`` or ``owner``.

        Raise InvalidMessage for another role, and for what is no user that is stored.
        """
        return permissions.share(self, user, role)

    def unshare_with(self, user: Any) -> bool:
        """Take a user's right away; standing subscriptions of theirs end. Say whether they had any."""
        return self.participants.filter(user=user).delete()[0] > 0

    ashare_with = twin(share_with)
    aunshare_with = twin(unshare_with)
