from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from uuid import uuid4

from asgiref.sync import sync_to_async
from django.db import models
from django.utils.translation import gettext_lazy as _

from converse import approvals, branches, outputs, replies
from converse import messages as service
from converse.approvals import Decision
from converse.choices import OPEN, ChunkKind, ErrorType, Role, Status
from converse.conf import settings
from converse.drafts import Content
from converse.events import MessageCreated, MessageEvent, camel
from converse.log import database
from converse.managers import MessageQuerySet, VisibleMessages
from converse.models.conversations import Conversation
from converse.parts import public
from converse.streaming import Stream
from converse.twins import twin

if TYPE_CHECKING:
    from converse.models.chunks import MessageChunk

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
    pinned = models.BooleanField(
        _("pinned"), default=False, help_text=_("In every prompt, however small the context window.")
    )
    current = models.BooleanField(_("current"), default=True, help_text=_("On the branch that is shown."))

    offset = models.PositiveBigIntegerField(_("offset"), help_text=_("Where in the conversation's log it was created."))
    follows = models.PositiveBigIntegerField(
        _("follows"), default=0, help_text=_("The offset of the message before it on its branch; 0 at the beginning.")
    )
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
    plan = models.JSONField(
        _("plan"), default=dict, blank=True, help_text=_("What the reply was asked to do: tools, output, window.")
    )
    structured = models.JSONField(
        _("structured"), null=True, blank=True, help_text=_("The answer in the form that was asked for, validated.")
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
        """Its calls of tools, each with ``id``, ``name`` and JSON ``arguments``; while it is open, those so far.

        Arguments that are still coming are JSON that breaks off.
        """
        parts = approvals.parts_of(self) if self.is_open else self.parts
        return [part for part in parts if part["type"] == ChunkKind.TOOL_CALL]

    @property
    def reasoning(self) -> str:
        """Its reasoning; while it is open, what there is of it so far."""
        return self._said(ChunkKind.REASONING)

    @property
    def cost(self) -> Decimal | None:
        """What its calls of providers cost, in US dollars, as far as it is known; read anew each time."""
        cost: Decimal | None = self.calls.usage()["cost"]
        return cost

    @property
    def refusal(self) -> str:
        """Its refusal; while it is open, what there is of it so far."""
        return self._said(ChunkKind.REFUSAL)

    def _said(self, kind: ChunkKind) -> str:
        if self.is_open:
            return self.chunks.text(kind)
        return "".join(part["text"] for part in self.parts if part["type"] == kind)

    @property
    def output(self) -> Any:
        """Its structured answer as a value of the type that was asked for; None before there is one.

        Raise what pydantic does where the type has changed since, so that the answer is none of it.
        """
        return outputs.value(self.plan.get("output"), self.structured)

    @property
    def partial_output(self) -> Any:
        """What can be told by now of a structured answer that is still coming, as JSON; None before there is any."""
        return outputs.partial(self._answer(), self.plan.get("output"))

    def _answer(self) -> str:
        return self.chunks.answer() if self.is_open else outputs.answer(self.parts)

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

    def wait_end(self, timeout: float | None = None) -> Self:
        """Wait until the message is closed, or waits for a person to approve; give it, read anew.

        It looks into the database, at most each second. Raise TimeoutError after so many seconds, DoesNotExist when the
        message is purged meanwhile.
        """
        replies.wait_end(self, timeout)
        return self

    async def await_end(self, timeout: float | None = None) -> Self:  # noqa: ASYNC109 - the pair has one signature
        """See wait_end()."""
        await replies.await_end(self, timeout)
        return self

    def stop(self) -> bool:
        """Cancel the message, from any process; say whether it was open still. Its writer stops within a second."""
        return replies.stop(self)

    @property
    def undecided(self) -> list[dict[str, Any]]:
        """The calls of tools that wait for a person, each with ``id``, ``name`` and JSON ``arguments``; read anew."""
        return approvals.undecided(self)

    def approve(self, call_id: str, *, by: Any = None, reason: str = "") -> None:
        """Let a call of a tool be run that waits for a person; ``by`` is the user who decides.

        Readers are told the ``reason``, but not who decided.
        The reply goes on when nothing is undecided any more. Raise MessageClosed when it is closed, InvalidMessage when
        it does not wait for this, as when the call was decided already.
        """
        replies.decide(self, call_id, Decision.APPROVED, by=by, reason=reason)

    def deny(self, call_id: str, *, by: Any = None, reason: str = "") -> None:
        """Have a call of a tool not run; the model is told so, with the reason. See approve()."""
        replies.decide(self, call_id, Decision.DENIED, by=by, reason=reason)

    def regenerate(self, **kwargs: Any) -> Message:
        """Ask the provider again: start another version of this reply, its next attempt, and show that one.

        It is asked for in the way that this one was; any keyword of ``reply()`` but those of the user's turn changes
        that. ``external_id`` is the new reply's. This one stays as it is, with all that was said after it.
        """
        return branches.regenerate(self, **kwargs)

    def retry(self, **kwargs: Any) -> Message:
        """See regenerate()."""
        return branches.regenerate(self, **kwargs)

    def edit(self, content: Content, **kwargs: Any) -> Message:
        """Say something else in place of this user's turn: add another version of it, and give the reply to that.

        Keywords are those of ``reply()``. What is not given is asked for in the way that this turn's last reply was,
        and its files are sent again. This one stays as it is, with all that was said after it.
        """
        return branches.edit(self, content, **kwargs)

    def versions(self) -> list[Message]:
        """Give the versions of this message, oldest first, itself among them; ``current`` says which one is shown."""
        return branches.versions(self)

    def switch(self) -> None:
        """Show this message instead of its other versions, to all readers, with what was last said after it."""
        branches.switch(self)

    def pin(self) -> None:
        """Have this message in every prompt, however small the context window."""
        service.update(self, pinned=True)

    def unpin(self) -> None:
        """Let this message fall out of the context window like any other."""
        service.update(self, pinned=False)

    def delete(self, using: Any = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Hide the message; an open one is stopped first. ``restore()`` brings it back."""
        return service.delete(self)

    def restore(self) -> None:
        """Bring a deleted message back."""
        service.restore(self)

    def purge(self) -> tuple[int, dict[str, int]]:
        """Remove the message and its chunks for good; what followed it follows what it followed."""
        purged: tuple[int, dict[str, int]] = Message.all_objects.using(database()).filter(pk=self.pk).purge()
        return purged

    def update_metadata(self, **metadata: Any) -> None:
        """Merge keys into the metadata, under the conversation's lock, so that no concurrent merge is lost."""
        service.update_metadata(self, metadata)

    aappend_chunk = twin(append_chunk)
    acomplete_streaming = twin(complete_streaming)
    afail_streaming = twin(fail_streaming)
    astop = twin(stop)
    aregenerate = twin(regenerate)
    aretry = twin(retry)
    aedit = twin(edit)
    aversions = twin(versions)
    aswitch = twin(switch)
    apin = twin(pin)
    aunpin = twin(unpin)
    aapprove = twin(approve)
    adeny = twin(deny)

    async def adelete(self, using: Any = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """See delete()."""
        return await sync_to_async(self.delete)()

    arestore = twin(restore)
    apurge = twin(purge)
    aupdate_metadata = twin(update_metadata)

    async def atool_calls(self) -> list[dict[str, Any]]:
        """See tool_calls."""
        return await sync_to_async(lambda: self.tool_calls)()

    async def areasoning(self) -> str:
        """See reasoning."""
        return await sync_to_async(self._said)(ChunkKind.REASONING)

    async def arefusal(self) -> str:
        """See refusal."""
        return await sync_to_async(self._said)(ChunkKind.REFUSAL)

    async def aundecided(self) -> list[dict[str, Any]]:
        """See undecided."""
        return await sync_to_async(approvals.undecided)(self)

    async def acost(self) -> Decimal | None:
        """See cost."""
        cost: Decimal | None = (await self.calls.ausage())["cost"]
        return cost

    async def apartial_output(self) -> Any:
        """See partial_output."""
        return outputs.partial(await sync_to_async(self._answer)(), self.plan.get("output"))

    async def atext(self) -> str:
        """See text."""
        return await sync_to_async(self.chunks.text)() if self.is_open else self.content

    @staticmethod
    def public_parts(parts: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """Give parts for the wire, where they say more than the content does, without what only the provider needs."""
        if all(part["type"] == ChunkKind.TEXT for part in parts):
            return None
        return [public(part) for part in parts]

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
            "follows": self.follows,
            "reply_to": str(self.reply_to.uuid) if self.reply_to else None,
            "attempt": self.attempt,
            "client_id": self.external_id,
            "created_at": _iso(self.created_at),
            "finished_at": _iso(self.finished_at),
            "provider": self.provider,
            "model": self.model,
            "finish_reason": str(self.finish_reason),
            "structured": self.structured,
            "usage": {camel(name): getattr(self, name) for name in TOKENS},
            "metadata": {key: value for key, value in self.metadata.items() if key in public},
        }
        return event(**{**state, **changes})


TOKENS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None
