"""Everything Converse raises on purpose; every class derives from ConverseError."""

from __future__ import annotations

from converse.choices import ErrorType


class ConverseError(Exception):
    """The base of Converse's own exceptions."""


class InvalidMessage(ConverseError, ValueError):
    """A message, chunk or argument that cannot be stored; ``field`` names the culprit."""

    def __init__(self, reason: str, *, field: str = "content") -> None:
        super().__init__(f"{field}: {reason}")
        self.reason = reason
        self.field = field


class MessageClosed(ConverseError):
    """The message is completed, failed or cancelled: nothing can be added to it any more."""


class AnotherWriter(ConverseError):
    """Somebody else appended to this message in the meantime; a message has one writer."""


class Vetoed(ConverseError):
    """A handler did not let something be stored; the message fails as ``content_blocked``.

    ``public`` is the text that people may see; ``handler`` is the name of the one that raised this.
    """

    type = ErrorType.CONTENT_BLOCKED

    def __init__(self, detail: str, *, public: str = "") -> None:
        super().__init__(detail)
        self.public = public or PUBLIC_TEXTS[self.type]
        self.handler = ""


class Stopped(ConverseError):
    """A handler ended a reply: what came of it stays, and the message is cancelled.

    Of the text that it was shown ``keep`` is stored, all of it where that is None; ``handler`` is its name.
    """

    def __init__(self, detail: str, *, keep: str | None = None) -> None:
        super().__init__(detail)
        self.keep = keep
        self.handler = ""


class JournalUnavailable(ConverseError):
    """The database refused an append too many times in a row."""


class ConversationBusy(ConverseError):
    """Another reply is open in this conversation and the policy is to reject."""


class UnknownProvider(ConverseError, LookupError):
    """No provider of this alias in ``CONVERSE_PROVIDERS``."""


class ProviderError(ConverseError):
    """A provider refused, failed or broke off.

    ``public`` is the text that people may see; ``str(error)`` is for logs and the admin. ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        detail: str,
        *,
        type: ErrorType = ErrorType.ERROR,
        retryable: bool = False,
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(detail)
        self.type = ErrorType(type)
        self.retryable = retryable
        self.retry_after = retry_after
        self.request_id = request_id

    @property
    def public(self) -> str:
        return PUBLIC_TEXTS[self.type]


PUBLIC_TEXTS = {
    ErrorType.AUTHENTICATION: "The assistant is not set up correctly.",
    ErrorType.PERMISSION: "The assistant is not set up correctly.",
    ErrorType.NOT_FOUND: "The assistant is not set up correctly.",
    ErrorType.INVALID: "The assistant could not take this request.",
    ErrorType.CONTEXT_TOO_LONG: "This conversation has grown too long for the assistant.",
    ErrorType.RATE_LIMITED: "The assistant is very busy. Please try again in a moment.",
    ErrorType.OVERLOADED: "The assistant is very busy. Please try again in a moment.",
    ErrorType.SERVER: "The assistant had a failure. Please try again.",
    ErrorType.TIMEOUT: "The assistant did not answer in time. Please try again.",
    ErrorType.CONNECTION: "The assistant could not be reached. Please try again.",
    ErrorType.CONTENT_BLOCKED: "The assistant declined to answer this.",
    ErrorType.TRUNCATED: "The reply broke off. Please try again.",
    ErrorType.INTERRUPTED: "The reply was interrupted. Please try again.",
    ErrorType.INVALID_OUTPUT: "The assistant's answer did not have the form asked for. Please try again.",
    ErrorType.ERROR: "The reply failed. Please try again.",
}
