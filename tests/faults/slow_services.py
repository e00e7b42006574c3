"""An LLM service on the loopback that never comes to an end, and notices when nobody listens any more."""

from __future__ import annotations

import asyncio
from itertools import count
from time import monotonic
from typing import Any, Self

from tests.recordings import sse

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
OPENAI = {
    "opening": [{"id": "c1", "model": "slow-1", "choices": [{"index": 0, "delta": {"role": "assistant"}}]}],
    "word": lambda text: {"id": "c1", "model": "slow-1", "choices": [{"index": 0, "delta": {"content": text}}]},
}
ANTHROPIC = {
    "opening": [
        {
            "type": "message_start",
            "message": {"id": "m1", "model": "slow-2", "usage": {"input_tokens": 11, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ],
    "word": lambda text: {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": text},
    },
}


class SlowService:
    """Says so many words, 20 ms apart and in one of the APIs above, then nothing; without headers nothing at all."""

    def __init__(self, api: dict[str, Any], *, words: int = 1_000_000, headers: bool = True) -> None:
        self.api = api
        self.words = words
        self.headers = headers
        self.asked = asyncio.Event()
        self.said = 0
        self.left = asyncio.Event()
        self.left_at = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def words_said(self, number: int | None = None) -> str:
        """Give what it has said so far, or will have said with so many words."""
        return "".join(f"word {place} " for place in range(1, (number or self.said) + 1))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.decode().lower().split("\r\n") if line.startswith("content-length"))
        await reader.readexactly(int(length.split(":")[1]))
        self.asked.set()
        talking = asyncio.create_task(self._talk(writer))
        try:
            await reader.read(1)  # nothing more is said to us: this is the end of the connection
        except ConnectionError:
            pass
        self.left_at = monotonic()
        self.left.set()
        talking.cancel()
        writer.close()

    async def _talk(self, writer: asyncio.StreamWriter) -> None:
        if not self.headers:
            return
        writer.write(HEAD + sse(*self.api["opening"]))
        for number in count(1):
            if number > self.words:
                return
            writer.write(sse(self.api["word"](f"word {number} ")))
            self.said = number
            await asyncio.sleep(0.02)
