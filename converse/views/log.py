"""The door for clients that cannot keep a connection: they poll the log."""

from __future__ import annotations

from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from converse.choices import Action
from converse.events import frame
from converse.models import Conversation
from converse.permissions import find
from converse.replays import read
from converse.views.problems import problem

DIGITS = 18  # of an offset; what is longer no database counts


@non_atomic_requests  # Django takes no asynchronous view otherwise, where ATOMIC_REQUESTS is set
@require_safe
@never_cache
async def log(request: HttpRequest, uuid: UUID) -> JsonResponse:
    """Give what came after a cursor (``?after=17&epoch=…``) as a ``Replay``, or without one a ``Snapshot``.

    The same frames as the websocket's, for clients that cannot keep a connection: poll, apply, keep the new cursor.
    """
    after = request.GET.get("after")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) <= DIGITS):
        return problem(400, "invalid", "must be a whole number, 0 or more", "after")
    try:
        conversation = await sync_to_async(find)(await request.auser(), uuid, Action.READ)
    except Conversation.DoesNotExist:
        return problem(404, "not_found", "There is no such conversation.")
    epoch = request.GET.get("epoch")
    found = await sync_to_async(read)(conversation.pk, None if after is None else int(after), epoch)
    if found is None:  # purged in this very moment
        return problem(404, "not_found", "There is no such conversation.")
    return JsonResponse(frame(found))
