"""The doors of Laravel Echo and pusher-js: who may follow what, who somebody is, and what programs of others say."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from time import time
from typing import Any

from asgiref.sync import sync_to_async
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from converse.choices import Action
from converse.conf import settings
from converse.cursors import read_cursor
from converse.models import Conversation
from converse.permissions import find
from converse.presence import describe
from converse.transports.frames import Frame, Refused, parse
from converse.transports.origins import allowed
from converse.transports.pusher import protocol
from converse.transports.pusher.names import Channel, channel
from converse.transports.pusher.whispers import mistake_in, say
from converse.views.problems import problem

CHANNELS, BATCH = 100, 10  # channels of one event, events of one batch
DATA_LIMIT = 10_000  # bytes of an event's data
FRESH = 600  # seconds that a signed request may be old


class Mistake(Exception):
    """What is wrong with a request; becomes a problem."""

    def __init__(self, status: int, code: str, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.response = problem(status, code, detail, field)


# Without Django's token, for Echo does not know of it. The answer is of no use to another site: its pages cannot read
# it, and it holds for one socket only. All the same pages of other sites are refused.


@non_atomic_requests
@csrf_exempt
@require_POST
@never_cache
async def channel_auth(request: HttpRequest) -> JsonResponse:
    """Sign a channel for one socket of the user who is signed in, if they may follow it."""
    try:
        user, form = await _asked(request)
        name = form.get("channel_name")
        wanted = channel(name)
        if wanted is None or not await sync_to_async(_may_follow)(user, wanted):
            raise Mistake(403, "forbidden", "There is no such channel, or you may not follow it.")
        member = await sync_to_async(describe)(user)
        facts: dict[str, Any] = {"user_id": member["id"], "user_info": member}
        if after := _resumed(form, wanted.given):
            facts["after"] = after
    except Mistake as exc:
        return exc.response
    data = protocol.encoded(facts)
    signature = protocol.sign(protocol.channel_text(form["socket_id"], wanted.given, data))
    return JsonResponse({"auth": signature, "channel_data": data})


@non_atomic_requests
@csrf_exempt
@require_POST
@never_cache
async def user_auth(request: HttpRequest) -> JsonResponse:
    """Sign who is signed in, for one socket."""
    try:
        user, form = await _asked(request)
    except Mistake as exc:
        return exc.response
    member = await sync_to_async(describe)(user)
    data = protocol.encoded({"id": member["id"], "user_info": member})
    return JsonResponse({"auth": protocol.sign(protocol.user_text(form["socket_id"], data)), "user_data": data})


async def _asked(request: HttpRequest) -> tuple[Any, Mapping[str, Any]]:
    """Give who asks, and what; raise Mistake for a page of another site, for a stranger, and for no socket."""
    origin = request.headers.get("Origin")
    if origin is not None and not allowed(origin):
        raise Mistake(403, "forbidden", "Pages of this origin are not served.", "Origin")
    user = await request.auser()
    if not (user.is_authenticated and user.is_active):
        raise Mistake(403, "forbidden", "Nobody is signed in.")
    try:
        form = parse(request.body.decode()) if request.content_type == "application/json" else request.POST
    except (Refused, UnicodeDecodeError):
        raise Mistake(400, "invalid", "The body must be a form, or a JSON object.") from None
    if not protocol.is_socket_id(form.get("socket_id")):
        raise Mistake(400, "invalid", "must be the id of a socket, such as 123.456", "socket_id")
    return user, form


def _may_follow(user: Any, wanted: Channel) -> bool:
    if wanted.signs_in:  # it takes no signature
        return False
    if wanted.user:
        return wanted.user == describe(user)["id"]
    try:
        find(user, wanted.conversation, Action.READ)
    except Conversation.DoesNotExist:
        return False
    return True


def _resumed(form: Mapping[str, Any], name: str) -> str:
    """Give the cursor that a client has of a channel; nothing where it has none."""
    given = form.get("resume") or {}
    try:
        cursors = parse(given) if isinstance(given, str) else given
    except Refused:
        cursors = None
    cursor = cursors.get(name) if isinstance(cursors, dict) else False
    if cursor is None or (isinstance(cursor, str) and read_cursor(cursor)):
        return cursor or ""
    raise Mistake(400, "invalid", "must be JSON of channels, each with the last seq that came", "resume")


@non_atomic_requests
@csrf_exempt  # it is signed, and takes no session
@require_POST
@never_cache
async def publish(request: HttpRequest, app: str) -> JsonResponse:
    """Say something in channels, as Pusher's libraries for servers do."""
    return await _publish(request, app, batched=False)


@non_atomic_requests
@csrf_exempt
@require_POST
@never_cache
async def publish_batch(request: HttpRequest, app: str) -> JsonResponse:
    """Say several things at once."""
    return await _publish(request, app, batched=True)


async def _publish(request: HttpRequest, app: str, *, batched: bool) -> JsonResponse:
    try:
        _check_signature(request, app)
        try:
            body = parse(request.body.decode())
        except (Refused, UnicodeDecodeError):
            raise Mistake(422, "invalid", "The body must be a JSON object.") from None
        told = [event for one in _batch(body) for event in _events(one)] if batched else list(_events(body))
    except Mistake as exc:
        return exc.response
    for where, name, data, but in told:
        await say(where, name, data, but=but)
    return JsonResponse({"batch": [{} for _ in body["batch"]]} if batched else {})


def _check_signature(request: HttpRequest, app: str) -> None:
    """Raise Mistake unless a request is signed with the secret, a short while ago, for this path and this body."""
    if not settings.CONVERSE_ECHO_SECRET or app != settings.CONVERSE_ECHO_KEY:
        raise Mistake(404, "not_found", "There is no such app, or it has no CONVERSE_ECHO_SECRET.")
    given = {name: values[-1] for name, values in request.GET.lists() if isinstance(values[-1], str)}
    signature = given.pop("auth_signature", "")
    query = "&".join(f"{name}={given[name]}" for name in sorted(given))
    wanted = protocol.digest(f"{request.method}\n{request.path}\n{query}")
    body = hashlib.md5(request.body, usedforsecurity=False).hexdigest()
    at = given.get("auth_timestamp", "")
    if not (
        constant_time_compare(signature.encode(errors="replace"), wanted.encode())
        and given.get("auth_key") == settings.CONVERSE_ECHO_KEY
        and given.get("body_md5") == body
        and at.isascii()
        and at.isdigit()
        and abs(time() - int(at[:18])) <= FRESH
    ):
        raise Mistake(401, "unauthorised", "The signature is not one for this request, or too old.")


def _batch(body: Frame) -> list[Frame]:
    batch = body.get("batch")
    if not isinstance(batch, list) or not all(isinstance(one, dict) for one in batch):
        raise Mistake(422, "invalid", "must be a list of events", "batch")
    if len(batch) > BATCH:
        raise Mistake(422, "invalid", f"may have {BATCH} events, not {len(batch)}", "batch")
    return batch


def _events(told: Frame) -> list[tuple[Channel, str, str, str]]:
    """Read what is to be said: where, under which name, the data, and the socket to be left out."""
    name, data, but = told.get("name"), told.get("data"), told.get("socket_id")
    if not isinstance(name, str) or (mistake := mistake_in(name)):
        raise Mistake(422, "invalid", mistake if isinstance(name, str) else "must be a text", "name")
    if not isinstance(data, str) or not _is_unicode(data):
        raise Mistake(422, "invalid", "must be a text, best the JSON of an object", "data")
    if len(data.encode()) > DATA_LIMIT:
        raise Mistake(413, "too_large", f"may have {DATA_LIMIT} bytes", "data")
    if but is not None and not protocol.is_socket_id(but):
        raise Mistake(422, "invalid", "must be the id of a socket, such as 123.456", "socket_id")
    return [(where, name, data, but or "") for where in _channels(told)]


def _channels(told: Frame) -> list[Channel]:
    field = "channels" if "channels" in told else "channel"
    given = told.get(field)
    names = given if isinstance(given, list) else [given]
    if not 0 < len(names) <= CHANNELS:
        raise Mistake(422, "invalid", f"may name 1 to {CHANNELS} channels", field)
    found = [channel(name) for name in names]
    if None in found:
        raise Mistake(422, "invalid", "must be private-conversation.<uuid> or another channel that there is", field)
    return [where for where in found if where]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
