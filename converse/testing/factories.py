"""Conversations, messages and chunks for tests: ``MessageFactory(conversation).assistant().failed().create("Half")``.

Each trait gives another factory, so that one may be kept and varied. What they make is made as the app itself does it:
the log is in order, and readers can follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from django.db import models

from converse.choices import ErrorType, Role, Status
from converse.exceptions import ProviderError
from converse.log import writing
from converse.models import Conversation, Message, MessageChunk
from converse.opening import open_message
from converse.twins import twin


@dataclass(frozen=True)
class ConversationFactory:
    """Makes conversations."""

    owner: models.Model | None = None
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)

    def with_owner(self, owner: models.Model) -> Self:
        return replace(self, owner=owner)

    def with_title(self, title: str) -> Self:
        return replace(self, title=title)

    def with_metadata(self, **metadata: Any) -> Self:
        return replace(self, metadata={**self.metadata, **metadata})

    def with_context(self, **context: Any) -> Self:
        return replace(self, context={**self.context, **context})

    def create(self, *messages: Any) -> Conversation:
        """Start a conversation with these messages, given as to ``add_messages()``."""
        conversation = Conversation.objects.start(
            self.owner, title=self.title, metadata=dict(self.metadata), context=dict(self.context)
        )
        conversation.add_messages(*messages)
        return conversation

    acreate = twin(create)


@dataclass(frozen=True)
class MessageFactory:
    """Makes messages, by default the user's, and where no conversation is given one for each."""

    conversation: Conversation | None = None
    role: str = Role.USER
    status: str = Status.COMPLETED
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: ErrorType = ErrorType.ERROR

    def for_conversation(self, conversation: Conversation) -> Self:
        return replace(self, conversation=conversation)

    def with_metadata(self, **metadata: Any) -> Self:
        return replace(self, metadata={**self.metadata, **metadata})

    def user(self) -> Self:
        return replace(self, role=Role.USER)

    def assistant(self) -> Self:
        return replace(self, role=Role.ASSISTANT)

    def system(self) -> Self:
        return replace(self, role=Role.SYSTEM)

    def tool_call(self) -> Self:
        return replace(self, role=Role.TOOL_CALL)

    def tool_result(self) -> Self:
        return replace(self, role=Role.TOOL_RESULT)

    def pending(self) -> Self:
        """Asked for and not begun."""
        return replace(self, status=Status.PENDING)

    def streaming(self) -> Self:
        return replace(self, status=Status.STREAMING)

    def completed(self) -> Self:
        return replace(self, status=Status.COMPLETED)

    def failed(self, error: str = ErrorType.ERROR) -> Self:
        return replace(self, status=Status.FAILED, error=ErrorType(error))

    def cancelled(self) -> Self:
        return replace(self, status=Status.CANCELLED)

    def create(self, content: str = "Hello!") -> Message:
        """Make a message that says this; one that is open has said it so far."""
        conversation = self.conversation or ConversationFactory().create()
        if self.status == Status.COMPLETED:
            return conversation.create_message(self.role, content, self.metadata)
        if self.status == Status.PENDING:
            with writing(conversation.pk) as log:
                return open_message(log, status=Status.PENDING, role=self.role, metadata=self.metadata)
        message = conversation.start_streaming(self.role, self.metadata)
        message.append_chunk(content)
        if self.status == Status.FAILED:
            message.stream.fail(ProviderError("made to fail", type=self.error))
        elif self.status == Status.CANCELLED:
            message.stream.cancel()
        return message

    acreate = twin(create)


@dataclass(frozen=True)
class ChunkFactory:
    """Makes chunks of a message that is streaming, and where none is given of one of their own."""

    message: Message | None = None
    sequence: int | None = None
    metadata: Mapping[str, Any] | None = None

    def for_message(self, message: Message) -> Self:
        return replace(self, message=message)

    def with_sequence(self, sequence: int) -> Self:
        """Number the chunk, instead of the next one."""
        return replace(self, sequence=sequence)

    def with_metadata(self, **metadata: Any) -> Self:
        return replace(self, metadata=metadata)

    def create(self, content: str = "Hello") -> MessageChunk:
        """Append a chunk."""
        message = self.message or ConversationFactory().create().start_streaming_assistant()
        stream = message.stream
        if self.sequence is not None:
            stream.learn()
            stream.writer.sequence = self.sequence - 1
        chunk = message.append_chunk(content, self.metadata)
        if chunk is None:
            raise ValueError("a chunk has content")
        return chunk

    acreate = twin(create)
