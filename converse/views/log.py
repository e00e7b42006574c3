"""The door for clients that cannot keep a connection: they poll the log."""

from __future__ import annotations

from uuid import UUID

from asgiref.sync import sync_to_async
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from converse.choices import Action
from converse.cursors import read_cursor
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
    """Give what came after a cursor (``?after=17-5f0c2a9e``) as a ``Replay``, or without one a ``Snapshot``.

    The same frames as the websocket's, for clients that cannot keep a connection: poll, apply, keep the new cursor.
    """
    try:
        after, epoch = _place(request)
    except ValueError:
        return problem(400, "invalid", "must be a cursor, such as 17-5f0c2a9e", "after")
    try:
        conversation = await sync_to_async(find)(await request.auser(), uuid, Action.READ)
    except Conversation.DoesNotExist:
        return problem(404, "not_found", "There is no such conversation.")
    found = await sync_to_async(read)(conversation.pk, after, epoch)
    if found is None:  # purged in this very moment
        return problem(404, "not_found", "There is no such conversation.")
    return JsonResponse(frame(found))


def _place(request: HttpRequest) -> tuple[int | None, str | None]:
    """Give the offset and the epoch of a cursor, written as one or as two; raise ValueError for what is none."""
    after = request.GET.get("after")
    if after is None:
        return None, None
    if place := read_cursor(after):
        return place
    if not (after.isascii() and after.isdigit() and len(after) <= DIGITS):
        raise ValueError(after)
    return int(after), request.GET.get("epoch")
