from __future__ import annotations

from typing import NoReturn

from django.db import models
from django.utils.translation import gettext_lazy as _


class Choices(models.TextChoices):
    """Choices that say which ones there are, where somebody asks for another."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"{value!r} is not one of {', '.join(cls.values)}")


class Role(Choices):
    """Who speaks in a message."""

    USER = "user", _("user")
    ASSISTANT = "assistant", _("assistant")
    SYSTEM = "system", _("system")
    TOOL_CALL = "tool_call", _("tool call")
    TOOL_RESULT = "tool_result", _("tool result")


class Status(Choices):
    """The one source of truth about a message's state."""

    PENDING = "pending", _("pending")
    STREAMING = "streaming", _("streaming")
    WAITING = "waiting", _("waiting for approval")
    COMPLETED = "completed", _("completed")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


OPEN = (Status.PENDING, Status.STREAMING, Status.WAITING)
CLOSED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class ChunkKind(Choices):
    """What a chunk is a fragment of."""

    TEXT = "text", _("text")
    REASONING = "reasoning", _("reasoning")
    REFUSAL = "refusal", _("refusal")
    TOOL_CALL = "tool_call", _("tool call")
    APPROVAL = "approval", _("approval")
    TOOL_RESULT = "tool_result", _("tool result")
    SOURCE = "source", _("source")
    FILE = "file", _("file")
    RAW = "raw", _("block of the provider's")


class FinishReason(Choices):
    """Why a provider ended a reply, in words common to all providers."""

    STOP = "stop", _("stop")
    LENGTH = "length", _("length")
    TOOL_CALLS = "tool_calls", _("tool calls")
    CONTENT_FILTER = "content_filter", _("content filter")
    REFUSAL = "refusal", _("refusal")
    PAUSE = "pause", _("pause")
    STEPS = "steps", _("out of steps")
    OTHER = "other", _("other")


class ErrorType(Choices):
    """Why a reply failed, in words common to all providers."""

    AUTHENTICATION = "authentication", _("authentication")
    PERMISSION = "permission", _("permission")
    NOT_FOUND = "not_found", _("not found")
    INVALID = "invalid", _("invalid request")
    CONTEXT_TOO_LONG = "context_too_long", _("context too long")
    RATE_LIMITED = "rate_limited", _("rate limited")
    OVERLOADED = "overloaded", _("overloaded")
    SERVER = "server", _("provider failure")
    TIMEOUT = "timeout", _("timeout")
    CONNECTION = "connection", _("connection")
    CONTENT_BLOCKED = "content_blocked", _("content blocked")
    TRUNCATED = "truncated", _("truncated")
    INTERRUPTED = "interrupted", _("interrupted")
    INVALID_OUTPUT = "invalid_output", _("invalid output")
    ERROR = "error", _("error")


class CallOutcome(Choices):
    """What became of one attempt at a provider."""

    RUNNING = "running", _("running")
    COMPLETED = "completed", _("completed")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")
    INTERRUPTED = "interrupted", _("interrupted")


class ParticipantRole(Choices):
    """What a participant may do in a conversation."""

    OWNER = "owner", _("owner")
    WRITE = "write", _("write")
    READ = "read", _("read")


class Action(Choices):
    """What somebody asks to do in a conversation."""

    READ = "read", _("read")
    WRITE = "write", _("write")
    MANAGE = "manage", _("manage")


class Policy(Choices):
    """What happens to a reply asked for while another one is open."""

    REJECT = "reject", _("reject")
    CANCEL_PREVIOUS = "cancel_previous", _("cancel the previous one")
    QUEUE = "queue", _("queue")
    ALLOW = "allow", _("allow")
