"""The doors to files attached to messages: up and down."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Q
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from converse.attachments import attach
from converse.choices import Action
from converse.conf import settings
from converse.downloads import download
from converse.events import camel
from converse.exceptions import InvalidMessage
from converse.models import Conversation, MessageAttachment
from converse.permissions import find, may
from converse.views.guards import refused
from converse.views.problems import problem

FIELD = "file"  # of the form
ENVELOPE = 10_000  # bytes of an upload's body besides the file
REFUSALS = {"size": (413, "too_large"), "mime_type": (415, "type")}  # by what of the file is to blame; else 400


@non_atomic_requests  # or a file would outlive the row that is rolled back
@csrf_exempt  # until it is known that the body is worth reading: see below
@require_POST
def attachments(request: HttpRequest, uuid: UUID) -> HttpResponseBase:
    """Take a file, the field ``file`` of a form, to be sent with a message later."""
    try:
        conversation = find(request.user, uuid, Action.WRITE)
    except Conversation.DoesNotExist:
        return problem(404, "not_found", "There is no such conversation.")
    limit = settings.CONVERSE_ATTACHMENT_LIMIT
    length = request.META.get("CONTENT_LENGTH") or "0"
    if length.isdecimal() and int(length) > limit + ENVELOPE:
        return problem(413, "too_large", f"may be {limit} bytes", FIELD)
    return refused(request) or _upload(request, conversation)


def _upload(request: HttpRequest, conversation: Conversation) -> HttpResponseBase:
    files = request.FILES.getlist(FIELD)
    if len(files) != 1:
        return problem(400, "invalid", "send one file, as multipart/form-data", FIELD)
    try:
        row = attach(conversation, files[0])
    except InvalidMessage as exc:
        return problem(*REFUSALS.get(exc.field, (400, "invalid")), exc.reason, FIELD)
    facts = {"attachment": str(row.uuid), "name": row.name, "mime_type": row.mime_type, "size": row.size}
    public = {camel(name): value for name, value in facts.items()}
    return JsonResponse(public, status=201, headers={"Location": f"{request.path}{row.uuid}/"})


@require_safe
def attachment(request: HttpRequest, uuid: UUID, attachment: UUID) -> HttpResponseBase:
    """Give a file to who may read its conversation; one not sent yet to who may write in it."""
    try:
        conversation = find(request.user, uuid, Action.READ)
        hidden = Q(message__deleted_at__isnull=False)
        row = conversation.attachments.exclude(hidden).get(uuid=attachment)
        if row.message_id is None and not may(request.user, Action.WRITE, conversation):
            raise MessageAttachment.DoesNotExist
        return download(request, row)
    except (Conversation.DoesNotExist, MessageAttachment.DoesNotExist, FileNotFoundError):
        return problem(404, "not_found", "There is no such file.")
