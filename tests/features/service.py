"""A provider's service on the loopback: each request gets the next answer, in the words of a dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Self, cast

from tests.features.dialects import Answer, Dialect, Hold, Refuse, Silence
from tests.recordings import EVENT_STREAM, Request, _request


class Service:
    """Answers the requests it gets one after the other; the last answer serves all further ones.

    ``held`` is set when an answer stands still; it goes on when the client has gone, that is never. ``open`` counts the
    connections that the client has not closed.
    """

    def __init__(self, dialect: Dialect, answers: Sequence[Answer | Refuse | Silence]) -> None:
        self.dialect = dialect
        self.answers = answers
        self.requests: list[Request] = []
        self.held = asyncio.Event()
        self.gone = asyncio.Event()
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def bodies(self) -> list[Any]:
        return [request.body for request in self.requests]

    def config(self, **options: Any) -> dict[str, Any]:
        """Give the entry of CONVERSE_PROVIDERS that leads here."""
        port = self._server.sockets[0].getsockname()[1]
        return {"BACKEND": self.dialect.backend, "OPTIONS": {**self.dialect.options(port), **options}}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._handlers.add(task := cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            while request := await _request(reader):
                answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
                self.requests.append(request)
                await self._answer(answer, reader, writer)
        except ConnectionError:
            self.gone.set()
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _answer(self, answer: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if isinstance(answer, Silence):
            await self._hold(reader)
        status, headers = 200, dict(EVENT_STREAM)
        pieces: list[bytes | Hold] = []
        if isinstance(answer, Refuse):
            status, headers = answer.status, {"content-type": "application/json", **answer.headers}
            pieces = [self.dialect.refusal(answer)]
        elif isinstance(answer, Answer):
            pieces = list(self.dialect.pieces(answer))
        lines = [f"HTTP/1.1 {status} Answer", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "transfer-encoding: chunked", "", ""]).encode())
        for piece in pieces:
            if isinstance(piece, Hold):
                await writer.drain()
                await self._hold(reader)
            else:
                # Cut in the middle, wherever that is, as networks do.
                for part in (piece[: len(piece) // 2], piece[len(piece) // 2 :]):
                    writer.write(b"%x\r\n%b\r\n" % (len(part), part))
                    await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _hold(self, reader: asyncio.StreamReader) -> None:
        """Stand still until the client has closed its connection."""
        self.held.set()
        await reader.read(1)
        raise ConnectionResetError
