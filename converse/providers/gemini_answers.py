"""What comes from Gemini, as it lies on the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import httpx2


class Refused(Exception):
    """The service's own account of why there is no answer, or no more of it."""

    def __init__(self, body: Any, response: httpx2.Response | None = None) -> None:
        super().__init__(f"{body}")
        self.body = body
        if response is not None:
            self.response = response
            self.status_code = response.status_code


class Answer(AbstractAsyncContextManager["Answer"]):
    """An open answer: JSON events, each after ``data:``; where the service broke off, its error without."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.response.aclose()

    async def __aiter__(self) -> AsyncIterator[object]:
        data: list[bytes] = []
        loose: list[bytes] = []
        async for line in self.lines():
            if line.startswith(b"data:"):
                data.append(line[5:])
            elif data and not line:
                yield json.loads(b"\n".join(data))
                data.clear()
            elif not line.startswith((b":", b"event:", b"id:", b"retry:")):
                loose.append(line)
        if error := as_error(b"\n".join(loose)):
            yield error

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the whole lines; the HTTP library's own would also break at what JSON may have inside its texts."""
        rest = bytearray()
        async for piece in self.response.aiter_bytes():
            begun = len(rest)
            rest += piece
            if (end := rest.rfind(b"\n", begun)) >= 0:
                for line in rest[:end].split(b"\n"):
                    yield bytes(line.removesuffix(b"\r"))
                del rest[: end + 1]
        if rest:
            yield bytes(rest)


def as_body(raw: bytes) -> Any:
    """Return the JSON of an answer that is none, or its text."""
    try:
        body = json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")
    return body[0] if isinstance(body, list) and body else body


def as_error(raw: bytes) -> dict[str, Any] | None:
    body = as_body(raw)
    return body if isinstance(body, dict) and body.get("error") else None
