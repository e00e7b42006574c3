from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    """Who speaks in a message."""

    USER = "user", _("user")
    ASSISTANT = "assistant", _("assistant")
    SYSTEM = "system", _("system")
    TOOL_CALL = "tool_call", _("tool call")
    TOOL_RESULT = "tool_result", _("tool result")


class Status(models.TextChoices):
    """The one source of truth about a message's state."""

    PENDING = "pending", _("pending")
    STREAMING = "streaming", _("streaming")
    COMPLETED = "completed", _("completed")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


OPEN = (Status.PENDING, Status.STREAMING)
CLOSED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class ChunkKind(models.TextChoices):
    """What a chunk is a fragment of."""

    TEXT = "text", _("text")
    REASONING = "reasoning", _("reasoning")
    REFUSAL = "refusal", _("refusal")
    TOOL_CALL = "tool_call", _("tool call")


class FinishReason(models.TextChoices):
    """Why a provider ended a reply, in words common to all providers."""

    STOP = "stop", _("stop")
    LENGTH = "length", _("length")
    TOOL_CALLS = "tool_calls", _("tool calls")
    CONTENT_FILTER = "content_filter", _("content filter")
    REFUSAL = "refusal", _("refusal")
    PAUSE = "pause", _("pause")
    OTHER = "other", _("other")


class ErrorType(models.TextChoices):
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
    ERROR = "error", _("error")


class ParticipantRole(models.TextChoices):
    """What a participant may do in a conversation."""

    OWNER = "owner", _("owner")
    WRITE = "write", _("write")
    READ = "read", _("read")


class Action(models.TextChoices):
    """What somebody asks to do in a conversation."""

    READ = "read", _("read")
    WRITE = "write", _("write")
    MANAGE = "manage", _("manage")


class Policy(models.TextChoices):
    """What happens to a reply asked for while another one is open."""

    REJECT = "reject", _("reject")
    CANCEL_PREVIOUS = "cancel_previous", _("cancel the previous one")
    QUEUE = "queue", _("queue")
    ALLOW = "allow", _("allow")
