"""How what an SDK raises becomes a ProviderError."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from converse.choices import ErrorType
from converse.exceptions import ProviderError

DETAIL_LIMIT = 2000  # characters

# Providers agree on few codes, so what a refusal says about itself comes before its status.
SAID = (
    (
        ErrorType.CONTEXT_TOO_LONG,
        re.compile(
            r"context[ _](length|window|size|limit)|exceed_context_size|request_too_large|prompt is too long"
            r"|maximum prompt length|exceeds the maximum number of tokens|reduce the length"
        ),
    ),
    (
        ErrorType.CONTENT_BLOCKED,
        re.compile(
            r"content[ _](filter|policy|management)|responsibleaipolicy|moderation|data_inspection"
            r"|policy_violation|bio_policy"
        ),
    ),
    # Google reports a wrong key as an invalid argument.
    (ErrorType.AUTHENTICATION, re.compile(r"api key (not valid|expired)")),
    # OpenAI reports a spent budget as 429 and Anthropic as 400; waiting helps with neither.
    (ErrorType.PERMISSION, re.compile(r"insufficient_quota|billing_|credit balance")),
)

BY_STATUS = {
    401: ErrorType.AUTHENTICATION,
    402: ErrorType.PERMISSION,
    403: ErrorType.PERMISSION,
    404: ErrorType.NOT_FOUND,
    408: ErrorType.TIMEOUT,
    409: ErrorType.SERVER,
    413: ErrorType.CONTEXT_TOO_LONG,
    429: ErrorType.RATE_LIMITED,
    499: ErrorType.SERVER,  # Google's word for a request that was given up, though not by us
    503: ErrorType.OVERLOADED,
    504: ErrorType.TIMEOUT,
    529: ErrorType.OVERLOADED,
}

# In the middle of a stream there is no status left to send, only words.
BY_WORD = (
    (ErrorType.RATE_LIMITED, re.compile(r"rate.?limit|too many requests")),
    (ErrorType.OVERLOADED, re.compile(r"overloaded|unavailable|capacity")),
    (ErrorType.AUTHENTICATION, re.compile(r"authentication|api.?key|credentials")),
    (ErrorType.PERMISSION, re.compile(r"permission")),
    (ErrorType.NOT_FOUND, re.compile(r"not_found")),
    (ErrorType.INVALID, re.compile(r"invalid_|image_(too|parse|file|media)|unsupported_|empty_image")),
    (ErrorType.TIMEOUT, re.compile(r"time(d )?.?out")),
)

RETRYABLE = frozenset(
    {
        ErrorType.RATE_LIMITED,
        ErrorType.OVERLOADED,
        ErrorType.SERVER,
        ErrorType.TIMEOUT,
        ErrorType.CONNECTION,
        ErrorType.TRUNCATED,
    }
)


def failure(
    exc: Exception,
    *,
    response: httpx2.Response | None,
    timeout: type[Exception],
    connection: type[Exception],
    secrets: Sequence[str],
) -> ProviderError:
    """Return what is known about ``exc`` as ours, without anybody's secrets.

    ``response`` is the stream's, once it is open; ``timeout`` and ``connection`` are the SDK's own exceptions.
    """
    response = getattr(exc, "response", response)
    headers: Mapping[str, str] = response.headers if response else {}
    kind = _kind(exc, timeout=timeout, connection=connection, opened=response is not None)
    return ProviderError(
        redact(_detail(exc), secrets)[:DETAIL_LIMIT],
        type=kind,
        retryable={"true": True, "false": False}.get(headers.get("x-should-retry", ""), kind in RETRYABLE),
        retry_after=retry_after(headers, getattr(exc, "body", None)),
        request_id=request_id(headers),
    )


def told(body: object, *, request_id: str, secrets: Sequence[str]) -> ProviderError:
    """Return what a provider's event says about a failure in mid-stream."""
    kind = error_type(None, body)
    return ProviderError(
        redact(f"{body}", secrets)[:DETAIL_LIMIT], type=kind, retryable=kind in RETRYABLE, request_id=request_id
    )


def harmless(exc: Exception, secrets: Sequence[str]) -> Exception | None:
    """Return ``exc`` if a traceback may show it."""
    text = "".join(f"{error}" for error in _chain(exc))
    return exc if redact(text, secrets) == text else None


def error_type(status: int | None, body: object) -> ErrorType:
    """Tell what went wrong from an HTTP status, if there is one, and the provider's own account."""
    words = _words(body)
    if status is None or status < 400:
        status = _status(body)
    if status is None or status < 500:
        for kind, pattern in SAID:
            if pattern.search(words):
                return kind
    if status is None:
        return _by_word(words, ErrorType.SERVER)
    return BY_STATUS.get(status, ErrorType.SERVER if status >= 500 else ErrorType.INVALID)


def retry_after(headers: Mapping[str, str], body: object = None) -> float | None:
    """Return the seconds to wait that the headers ask for, or else an error of Google's."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(seconds, 0.0)
    return _retry_delay(body) if "retry-after" not in headers else _retry_date(headers)


def request_id(headers: Mapping[str, str]) -> str:
    return headers.get("x-request-id") or headers.get("request-id") or ""


def redact(text: str, secrets: Sequence[str]) -> str:
    """Strike out keys, whole or in the half-masked form in which servers echo them."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    return re.sub(r"[\w-]*\*{3,}[\w-]*", "[redacted]", text)


def secrets_of(api_key: str | None, headers: Mapping[str, str]) -> Sequence[str]:
    """Return everything in a provider's options that nobody may read."""
    private = (
        value for name, value in headers.items() if re.search(r"key|token|auth|secret|cookie", name, re.IGNORECASE)
    )
    return [secret for secret in (api_key, *private) if secret]


def _retry_date(headers: Mapping[str, str]) -> float | None:
    try:
        # The server's own clock, not ours: the two may differ by more than the wait.
        wait = parsedate_to_datetime(headers["retry-after"]) - parsedate_to_datetime(headers["date"])
    except (KeyError, TypeError, ValueError):
        return None
    return max(wait.total_seconds(), 0.0)


def _retry_delay(body: object) -> float | None:
    """Return the seconds to wait that an error of Google's has among its details."""
    error = _error(body)
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
            return float(delay.removesuffix("s"))
    return None


def _kind(exc: Exception, *, timeout: type[Exception], connection: type[Exception], opened: bool) -> ErrorType:
    # The SDKs let some of the HTTP library's own exceptions through.
    if isinstance(exc, (timeout, httpx2.TimeoutException)):
        return ErrorType.TIMEOUT
    if isinstance(exc, (connection, httpx2.HTTPError)):
        return ErrorType.CONNECTION
    if isinstance(exc, UnicodeDecodeError) and exc.reason == "unexpected end of data":
        # The body ended inside a character, so before the event that would have told why.
        return ErrorType.TRUNCATED
    if hasattr(exc, "body"):
        return error_type(getattr(exc, "status_code", None), exc.body)
    return ErrorType.SERVER if opened else _by_word(f"{type(exc).__name__}: {exc}".lower(), ErrorType.INVALID)


def _by_word(words: str, otherwise: ErrorType) -> ErrorType:
    return next((kind for kind, pattern in BY_WORD if pattern.search(words)), otherwise)


def _detail(exc: Exception) -> str:
    texts = dict.fromkeys(f"{error}" or type(error).__name__ for error in _chain(exc))
    body = f"{getattr(exc, 'body', None) or ''}"
    # OpenAI's exceptions keep all but the body's message to themselves.
    return "; ".join([*texts, *([body] if body not in f"{exc}" else [])])


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def _error(body: object) -> Any:
    return body.get("error", body) if isinstance(body, dict) else body


def _status(body: object) -> int | None:
    error = _error(body)
    codes = (error.get("status_code"), error.get("code")) if isinstance(error, dict) else ()
    return next((int(f"{code}") for code in codes if re.fullmatch(r"[45]\d\d", f"{code}")), None)


def _words(body: object) -> str:
    error = _error(body)
    if isinstance(error, dict):
        # Not all of it: the rest may quote the prompt.
        error = " ".join(text for key in ("type", "code", "message") if isinstance(text := error.get(key), str))
    return f"{error}".lower()
