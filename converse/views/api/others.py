"""The doors that read their requests by themselves, described; and what is done with files besides."""

from __future__ import annotations

from uuid import UUID

from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from converse.choices import Action
from converse.log import database, writing
from converse.models import MessageAttachment
from converse.permissions import find
from converse.views import files, log
from converse.views.api.described import Asked, Operation, Words, nothing, operation
from converse.views.problems import problem

read_log = Operation(
    handler=log.log,
    name="read_log",
    summary="Give what came after a cursor, as a Replay; without one a Snapshot",
    query=(
        Words(name="after", text="A cursor, such as 17-5f0c2a9e, or the offset of the last event applied."),
        Words(name="epoch", text="The epoch that an offset belongs to."),
    ),
    gives={200: "Event"},
    problems=(400, 404),
    whole=True,
)
upload_attachment = Operation(
    handler=files.attachments,
    name="upload_attachment",
    summary="Take a file, to be sent with a message later",
    form="file",
    gives={201: "Attachment"},
    problems=(400, 403, 404, 413, 415),
    whole=True,
)
download_attachment = Operation(
    handler=files.attachment,
    name="download_attachment",
    summary="Give the bytes of a file",
    query=(Words(name="inline", text="Show it in the page, where that is safe."),),
    gives={200: ""},
    media="*/*",
    problems=(404,),
    whole=True,
)


@operation(gives={204: ""}, problems=(400, 403, 404, 413, 415))
def discard_attachment(asked: Asked, uuid: UUID, attachment: UUID) -> HttpResponse:
    """Remove a file that was not sent yet; it takes the right to write."""
    conversation = find(asked.user, uuid, Action.WRITE)
    with writing(conversation.pk):  # or it could be sent in this very moment
        rows = MessageAttachment.objects.using(database()).filter(conversation=conversation, message=None)
        rows.get(uuid=attachment).delete()
    return nothing()


@csrf_exempt  # there is nothing that could be done in anybody's name
@non_atomic_requests
async def missing(request: HttpRequest, **places: str) -> HttpResponse:
    """Say of an address that cannot be any that there is nothing, as of one that could."""
    return problem(404, "not_found", "There is no such conversation or message.")
