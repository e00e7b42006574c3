"""What is wrong with a request, as RFC 9457 has it, in the words of the websocket's errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from django.http import JsonResponse

from converse.transports.frames import explain

# By code; else 400.
STATUSES = {
    "unauthenticated": 401,
    "not_found": 404,
    "busy": 409,
    "too_large": 413,
    "type": 415,
}


def problem(status: int, code: str, detail: str, field: str = "") -> JsonResponse:
    """Say what is wrong: ``application/problem+json`` with a ``code`` for programs, and the ``field`` to blame."""
    named = {"field": field} if field else {}
    details: dict[str, Any] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, "code": code}
    headers = {"WWW-Authenticate": "Session"} if status == HTTPStatus.UNAUTHORIZED else {}  # a 401 has to name one
    return JsonResponse({**details, **named}, status=status, content_type="application/problem+json", headers=headers)


def explained(exc: Exception) -> JsonResponse | None:
    """Say what is wrong by an exception of ours; None for a fault that is not the client's."""
    refused = explain(exc)
    if refused is None:
        return None
    frame = refused.frame
    return problem(STATUSES.get(frame["code"], 400), frame["code"], frame["reason"], frame.get("field", ""))
