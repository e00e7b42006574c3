"""The doors for Vercel's ``useChat``: talk, resume, stop, and what a page begins with."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from functools import wraps
from http import HTTPStatus
from typing import Any

from asgiref.sync import sync_to_async
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from converse.choices import Action
from converse.conf import settings
from converse.models import Conversation
from converse.permissions import find
from converse.subscriptions import subscribe
from converse.transports import sse
from converse.transports.frames import Refused, explain
from converse.transports.vercel import history, requests, stream, turns
from converse.transports.vercel.addresses import link_to
from converse.transports.vercel.encoder import Encoder
from converse.views.events import WSGI, cursor_of, needs_asgi
from converse.views.problems import STATUSES

View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]

MISSING = "There is no such conversation. Create it first and give its uuid to useChat as the id."
TOO_LARGE = "too_large"


class _Forgery(CsrfViewMiddleware):
    """Django's protection, asked here so that it says no in words that a chat can show."""

    def _reject(self, request: HttpRequest, reason: str) -> HttpResponse:
        return _said(403, f"CSRF verification failed: {reason}")


def _said(status: int, text: str) -> HttpResponse:
    """Say what is wrong as plain text: ``useChat`` shows the body."""
    return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")


def _door(view: View) -> View:
    """Put what goes wrong into words."""

    @wraps(view)
    async def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return await view(request, *args, **kwargs)
        except Conversation.DoesNotExist:
            user = await request.auser()
            return _said(404, MISSING) if user.is_authenticated else _said(401, "Sign in first.")
        except Exception as exc:
            if (refused := explain(exc)) is None:
                raise
            return _refusal(refused)

    return guarded


def _refusal(refused: Refused) -> HttpResponse:
    code, reason, field = (str(refused.frame.get(key, "")) for key in ("code", "reason", "field"))
    status = {TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE}.get(code) or STATUSES.get(code, 400)
    # A reason that is no sentence tells what is wrong with its field.
    return _said(status, reason if reason[:1].isupper() or not field else f"{field}: {reason}")


@non_atomic_requests
@csrf_exempt  # it is asked by _posted()
@require_POST
@_door
async def chat(request: HttpRequest) -> HttpResponseBase:
    """Send, edit, go on with, or make again: stream the reply."""
    if needs_asgi(request):
        return _said(501, WSGI)
    sdk = _sdk(request)
    user = await request.auser()
    done = await sync_to_async(_begin)(request, user)
    if not isinstance(done, turns.Begun):
        return done
    return _streamed(done, user, sdk)


@non_atomic_requests
@require_GET
@never_cache
@_door
async def resume(request: HttpRequest, chat: str) -> HttpResponseBase:
    """Stream the whole of the reply that is being written, or was until just now; 204 where there is none."""
    if needs_asgi(request):
        return _said(501, WSGI)
    sdk = _sdk(request)
    try:
        after = cursor_of(request)
    except ValueError as exc:
        raise Refused("invalid", "must be a cursor, such as 17-5f0c2a9e", str(exc)) from exc
    user = await request.auser()
    conversation = await sync_to_async(find)(user, chat, Action.READ)
    reply = await sync_to_async(history.resumable)(conversation, after)
    if reply is None:
        return HttpResponse(status=204)
    return _streamed(turns.Begun(conversation, reply), user, sdk)


@non_atomic_requests
@csrf_exempt  # it is asked by _posted()
@require_POST
@_door
async def stop(request: HttpRequest, chat: str) -> HttpResponseBase:
    """Stop the replies of a chat, truly; all is well also where there was nothing to be stopped."""
    return await sync_to_async(_stop)(request, await request.auser(), chat)


@non_atomic_requests
@require_GET
@never_cache
@_door
async def messages(request: HttpRequest, chat: str) -> HttpResponseBase:
    """Give what a page begins with: the messages that are shown, and whether to resume."""
    sdk = _sdk(request)
    conversation = await sync_to_async(find)(await request.auser(), chat, Action.READ)
    return JsonResponse(await history.ainitial(conversation, sdk=sdk))


def _sdk(request: HttpRequest) -> int:
    return requests.sdk_of(request.GET.get("sdk") or request.headers.get("X-Converse-SDK"))


def _begin(request: HttpRequest, user: Any) -> turns.Begun | HttpResponseBase:
    body = _posted(request)
    if isinstance(body, HttpResponseBase):
        return body
    return turns.begin(user, requests.parse(body), request.get_host())


def _stop(request: HttpRequest, user: Any, chat: str) -> HttpResponseBase:
    body = _posted(request)
    if isinstance(body, HttpResponseBase):
        return body
    named = _active(body) if request.content_type == "application/json" else ""
    stopped = turns.stop(user, chat, named)
    told = [history.ui_message(message, sdk=_sdk(request)) for message in stopped]
    return JsonResponse({"success": True, "messages": told})


def _active(body: bytes) -> str:
    """Give the stream that a client names, a reply's uuid; nothing where it names none."""
    try:
        read = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refused("invalid", "The body must be JSON.") from None
    named = read.get("activeStreamId") if isinstance(read, dict) else None
    return named if isinstance(named, str) else ""


def _posted(request: HttpRequest) -> bytes | HttpResponseBase:
    """Give the body of a request that was sent from a page of ours, and is not too large."""
    forgery = _Forgery(HttpResponse)  # anything that gives a response: nobody asks it
    forgery.process_request(request)
    if refusal := forgery.process_view(request, HttpResponse, (), {}):
        return refusal
    limit = settings.CONVERSE_CHAT_LIMIT
    body: bytes = request.read(limit + 1)
    if len(body) > limit:
        raise Refused(TOO_LARGE, f"The request may be {limit} bytes: send the last message only.")
    return body


def _streamed(begun: turns.Begun, user: Any, sdk: int) -> HttpResponseBase:
    conversation, reply = begun.conversation, begun.reply
    uuid = str(conversation.uuid)
    encoder = Encoder(str(reply.uuid), sdk, link_to(uuid), begun.seen)
    # From just before its beginning on: packed, and whole, whenever it ended.
    subscription = subscribe(conversation, user, after=reply.offset - 1, epoch=conversation.epoch)
    return sse.EventStream(stream.lines(subscription, encoder), stream.HEADERS)
