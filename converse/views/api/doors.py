"""A door of the JSON API: is it a method, by whom, well-formed; then the one function that does it, in a thread."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from inspect import iscoroutinefunction
from typing import Any, NoReturn

from asgiref.sync import sync_to_async
from django.core.exceptions import PermissionDenied
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import add_never_cache_headers
from django.views.decorators.csrf import csrf_exempt

from converse.conf import settings
from converse.transports.frames import Frame, Refused
from converse.views.api.described import Asked, Operation
from converse.views.api.schemas import schemas
from converse.views.guards import refused
from converse.views.problems import explained, problem

View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]

UNSAFE = ("POST", "PATCH", "DELETE")
NAMED = 100  # characters of a name that is repeated in an answer


def door(**operations: Operation) -> View:
    """Make a view of operations by method; ``HEAD`` goes with ``GET``. What it can do stays on it, for the document."""

    @csrf_exempt  # it is asked for in here, where a refusal can be told as a problem
    @non_atomic_requests  # each operation has transactions of its own
    async def view(request: HttpRequest, **places: Any) -> HttpResponseBase:
        operation = operations.get("GET" if request.method == "HEAD" else str(request.method))
        if operation is None:
            return _not_allowed(operations)
        try:
            response = await _answer(operation, request, places)
        except PermissionDenied as exc:
            response = problem(403, "forbidden", str(exc) or "You may not do this.")
        except Exception as exc:
            told = explained(exc)
            if told is None:
                raise
            response = told
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        if "Cache-Control" not in response:
            add_never_cache_headers(response)
        return response

    view.operations = operations  # type: ignore[attr-defined]
    return view


def _not_allowed(operations: Mapping[str, Operation]) -> HttpResponse:
    response = problem(405, "method", "This cannot be done here.")
    response.headers["Allow"] = ", ".join([*operations, *(["HEAD"] if "GET" in operations else [])])
    return response


async def _answer(operation: Operation, request: HttpRequest, places: Mapping[str, Any]) -> HttpResponseBase:
    handler = operation.handler
    if not operation.whole:
        _check(request)
    if request.method in UNSAFE and not getattr(handler, "csrf_exempt", False):
        answer = await sync_to_async(refused)(request)
        if answer is not None:
            return answer
    if operation.whole:
        run = handler if iscoroutinefunction(handler) else sync_to_async(handler)
        whole: HttpResponseBase = await run(request, **places)
        return whole
    user = await request.auser()
    if operation.signed_in and not (user.is_authenticated and user.is_active):
        raise Refused("unauthenticated", "Sign in first.")
    asked = Asked(request, user, _query(operation, request), _body(operation, request))
    response: HttpResponse = await sync_to_async(handler)(asked, **places)
    return response


def _query(operation: Operation, request: HttpRequest) -> dict[str, Any]:
    known = {parameter.name: parameter for parameter in operation.query}
    for name in request.GET:
        if name not in known:
            raise Refused("invalid", "there is no such parameter", name[:NAMED])
        if len(request.GET.getlist(name)) > 1:
            raise Refused("invalid", "may be given once", name)
    return {name: parameter.read(request.GET.get(name)) for name, parameter in known.items()}


def _check(request: HttpRequest) -> None:
    """Refuse a body that is not worth reading."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    if length.isdecimal() and int(length) > settings.CONVERSE_FRAME_LIMIT:
        raise _too_large()
    if length != "0" and request.content_type != "application/json":
        raise Refused("type", "The body must be application/json.")


def _body(operation: Operation, request: HttpRequest) -> Frame:
    """Read the body as the object that the operation takes, an empty one as one without fields."""
    limit = settings.CONVERSE_FRAME_LIMIT
    content = request.read(limit + 1) if request.method in UNSAFE else b""
    if not content:
        return {}
    if len(content) > limit:  # nobody said so before
        raise _too_large()
    body = _parse(content)
    known = schemas()[operation.takes]["properties"] if operation.takes else {}
    for name in body:
        if name not in known:
            raise Refused("invalid", "there is no such field", name[:NAMED])
    return body


def _too_large() -> Refused:
    return Refused("too_large", f"The body may have {settings.CONVERSE_FRAME_LIMIT} bytes.")


def _parse(content: bytes) -> Frame:
    try:
        body = json.loads(content.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refused("bad_json", "The body must be JSON, in UTF-8.") from None
    if not isinstance(body, dict):
        raise Refused("bad_json", "The body must be a JSON object.")
    return body


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
