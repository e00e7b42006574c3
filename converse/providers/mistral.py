from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from converse.choices import ErrorType
from converse.exceptions import ProviderError
from converse.parts import File, Part
from converse.providers.base import Prompt
from converse.providers.openai import OpenAIProvider
from converse.providers.openai_api import data_url, fitting

ADDRESS = "https://api.mistral.ai/v1"

ID = re.compile(r"[a-zA-Z0-9]{9}")

# Said for the model where a user goes on without its word on the results of its calls.
ACKNOWLEDGED = "OK."


class MistralProvider(OpenAIProvider):
    """Mistral's Chat Completions, and servers with Mistral's models: stricter about ids and about who follows whom."""

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        include_usage: bool = False,
        **options: Any,
    ) -> None:
        # As with the others: the environment's key goes to the service's own address and to no other.
        known = os.environ.get("MISTRAL_API_KEY") if base_url is None else None
        super().__init__(api_key=api_key or known, base_url=base_url or ADDRESS, include_usage=include_usage, **options)

    def new_client(self) -> AbstractAsyncContextManager[Any]:
        if self.base_url == ADDRESS and not self.api_key:
            raise ProviderError("There is no api_key and no MISTRAL_API_KEY.", type=ErrorType.AUTHENTICATION)
        return super().new_client()

    def history(self, prompt: Prompt) -> list[dict[str, Any]]:
        """Return the messages in an order that is taken: system first, an answer after results."""
        messages = super().history(prompt)
        ordered = [message for message in messages if message["role"] == "system"]
        for message in messages:
            if message["role"] == "user" and ordered and ordered[-1]["role"] == "tool":
                ordered.append({"role": "assistant", "content": ACKNOWLEDGED})
            if message["role"] != "system":
                ordered.append(message)
        return ordered

    def answer(self, parts: Sequence[Part]) -> Iterator[dict[str, Any]]:
        """Yield a step's text and its calls apart: not every model takes both in one message."""
        for message in super().answer(parts):
            if message["content"] and "tool_calls" in message:
                yield {"role": "assistant", "content": message["content"]}
                yield {**message, "content": None}
            else:
                yield message

    def document(self, file: File) -> dict[str, Any]:
        return {"type": "document_url", "document_url": data_url(file), "document_name": file.name or "document.pdf"}

    def call_id(self, call_id: str) -> str:
        return fitting(call_id, ID, 9)
