"""An attachment as an HTTP response: what a browser may do with it, and the part of it that it asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header

from converse.files import BLOCK, CERTAIN

if TYPE_CHECKING:
    from converse.models import MessageAttachment

RANGE = re.compile(r"bytes=(\d{1,18})?-(\d{1,18})?")
PDF = "application/pdf"


def download(request: HttpRequest, attachment: MessageAttachment) -> HttpResponseBase:
    """Answer with an attachment's bytes, streamed. Raise FileNotFoundError where its file is gone.

    With ``?inline`` a type that is certain and cannot hold scripts of a page may be shown in one. Else it is saved.
    """
    headers = _headers(attachment, inline="inline" in request.GET and attachment.mime_type in CERTAIN)
    etag = headers["ETag"]
    if unchanged := get_conditional_response(request, etag=etag):
        response: HttpResponseBase = unchanged
    elif (span := _span(request, attachment.size, etag)) is None:
        headers["Content-Range"] = f"bytes */{attachment.size}"
        response = HttpResponse(status=416)
    else:
        response = _send(request, attachment, *span)
        if response.status_code == 206:
            headers["Content-Range"] = f"bytes {span[0]}-{sum(span) - 1}/{attachment.size}"
        headers["Content-Length"] = str(span[1])
    for name, value in headers.items():
        response[name] = value
    return response


def _headers(attachment: MessageAttachment, *, inline: bool) -> dict[str, str]:
    text = attachment.mime_type.startswith("text/")
    headers = {
        "Content-Type": f"{attachment.mime_type}; charset=utf-8" if text else attachment.mime_type,
        "Content-Disposition": content_disposition_header(not inline, attachment.name) or "attachment",
        "X-Content-Type-Options": "nosniff",
        # Browsers show a PDF in a page of their own, which a sandbox would leave blank.
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "private, no-cache",  # ask again each time: a right may have been taken away
        "ETag": f'"{attachment.checksum}"',
        "Accept-Ranges": "bytes",
    }
    if inline and attachment.mime_type == PDF:
        del headers["Content-Security-Policy"]
        headers["X-Frame-Options"] = "SAMEORIGIN"  # a picture needs none, a PDF is shown in a frame
    return headers


def _span(request: HttpRequest, size: int, etag: str) -> tuple[int, int] | None:
    """Give the first byte asked for and their number; None for what is not in the file.

    All of it where more than one part is asked for, or a part of what it was before.
    """
    found = RANGE.fullmatch(request.headers.get("Range", ""))
    if not found or not any(found.groups()) or request.headers.get("If-Range", etag) != etag:
        return 0, size
    first, last = found.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last), size - 1) if first and last else size - 1
    return (start, end - start + 1) if start <= end else None


def _send(request: HttpRequest, attachment: MessageAttachment, start: int, length: int) -> HttpResponseBase:
    status = 206 if length < attachment.size else 200
    file = attachment.file.open("rb")
    if request.method == "HEAD":
        file.close()
        return HttpResponse(status=status)
    file.seek(start)
    blocks = Blocks(file, length)
    return StreamingHttpResponse(AsyncBlocks(blocks) if isinstance(request, ASGIRequest) else blocks, status=status)


class Blocks:
    """So many bytes of an open file, from where it stands; closed with the response that sends them."""

    def __init__(self, file: Any, length: int) -> None:
        self._file = file
        self._left = length

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if block := self.read():
            return block
        raise StopIteration

    def read(self) -> bytes:
        block: bytes = self._file.read(min(BLOCK, self._left))
        self._left -= len(block)
        return block

    def close(self) -> None:
        self._file.close()


class AsyncBlocks:
    """See Blocks. Read in a thread, so that no other request waits."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks

    def __aiter__(self) -> AsyncBlocks:
        return self

    async def __anext__(self) -> bytes:
        if block := await sync_to_async(self._blocks.read)():
            return block
        raise StopAsyncIteration

    def close(self) -> None:
        self._blocks.close()
