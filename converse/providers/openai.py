from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from openai import APIConnectionError, APITimeoutError, AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient

from converse.choices import ErrorType, FinishReason, Role
from converse.deltas import Delta, Finish, ReasoningDelta, RefusalDelta, Started, TextDelta, ToolCallDelta, Usage
from converse.exceptions import ProviderError
from converse.providers.base import Prompt
from converse.providers.http import HTTPProvider, Reading, certificates

ROLES: dict[str, str] = {
    Role.SYSTEM: "system",
    Role.USER: "user",
    Role.ASSISTANT: "assistant",
    Role.TOOL_CALL: "assistant",
    Role.TOOL_RESULT: "user",
}

FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}

# Finish reasons with which OpenRouter, Mistral and DeepSeek say that they failed.
FAILURES = {"error": ErrorType.SERVER, "insufficient_system_resource": ErrorType.OVERLOADED}


class ChatReading(Reading):
    """Reads Chat Completions chunks, those of lookalikes included."""

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.refused = False
        self.calls: dict[int | None, int] = {}
        self.call_ids: list[str | None] = []
        self.usage: Any = None

    def read(self, event: Any) -> Iterator[Delta]:
        choices = event.get("choices") or ()
        # Azure's first chunk is about the prompt and names no model yet.
        if not self.started and (choices or event.get("model")):
            self.started = True
            yield Started(request_id=self.request_id or event.get("id") or "", model=event.get("model") or "")
        for choice in choices:
            if not choice.get("index"):
                yield from self.read_choice(choice)
        usage = event.get("usage")
        if usage and usage != self.usage:
            self.usage = usage
            yield usage_of(usage)

    def read_choice(self, choice: Any) -> Iterator[Delta]:
        delta = choice.get("delta") or {}
        if reasoning := reasoning_of(delta):
            yield ReasoningDelta(text=reasoning)
        yield from content_of(delta.get("content"))
        if refusal := delta.get("refusal"):
            self.refused = True
            yield RefusalDelta(refusal)
        for call in delta.get("tool_calls") or ():
            yield self.read_call(call)
        if reason := choice.get("finish_reason"):
            self.finish = self.finished(reason)

    def read_call(self, call: Any) -> ToolCallDelta:
        function = call.get("function") or {}
        arguments = function.get("arguments") or ""
        return ToolCallDelta(
            index=self.place(call.get("index"), call.get("id") or None),
            id=call.get("id") or None,
            name=function.get("name") or None,
            arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
        )

    def place(self, index: int | None, call_id: str | None) -> int:
        """Return which call a fragment belongs to; some servers give every call the same index, or none."""
        if index not in self.calls or (call_id and call_id not in self.call_ids):
            self.calls[index] = len(self.call_ids)
            self.call_ids.append(call_id)
        return self.calls[index]

    def finished(self, word: str) -> Finish:
        if word in FAILURES:
            detail = f"The provider finished with {word!r}."
            raise ProviderError(detail, type=FAILURES[word], retryable=True, request_id=self.request_id)
        reason = FINISH_REASONS.get(word, FinishReason.OTHER)
        # "stop" is also said after a refusal and, by Ollama, after tool calls.
        if reason == FinishReason.STOP and self.refused:
            reason = FinishReason.REFUSAL
        elif reason == FinishReason.STOP and self.calls:
            reason = FinishReason.TOOL_CALLS
        return Finish(reason=reason, raw=word)


class OpenAIProvider(HTTPProvider):
    """OpenAI's Chat Completions, and every server that speaks them."""

    reading = ChatReading
    timeout_error = APITimeoutError
    connection_error = APIConnectionError

    def __init__(self, *, max_tokens: int | None = None, include_usage: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.max_tokens = max_tokens
        self.include_usage = include_usage

    def new_client(self) -> AsyncOpenAI:
        return AsyncOpenAI(http_client=DefaultAsyncHttpxClient(verify=certificates()), **self.client_options())

    async def send(self, client: AsyncOpenAI, prompt: Prompt) -> AsyncStream[object]:
        # Not chat.completions.create(): the model it builds of each chunk costs ten times as much as reading it,
        # loses what servers add, and knows only OpenAI's own parameters.
        return await client.post(
            "/chat/completions",
            body=self.request(prompt),
            options={"security": {"bearer_auth": True}},
            cast_to=object,
            stream=True,
            stream_cls=AsyncStream[object],
        )

    def request(self, prompt: Prompt) -> dict[str, Any]:
        """Return the body of the request for a prompt."""
        request: dict[str, Any] = {
            "model": prompt.model or self.model,
            "messages": [
                {"role": ROLES[turn.role], "content": turn.text} for turn in prompt.messages if turn.text.strip()
            ],
        }
        if self.max_tokens is not None:
            # OpenAI's newer models refuse the old name; most other servers know no other.
            request["max_tokens" if self.base_url else "max_completion_tokens"] = self.max_tokens
        if self.include_usage:
            request["stream_options"] = {"include_usage": True}
        return {**request, **self.params, **prompt.options, "stream": True}


def content_of(content: Any) -> Iterator[Delta]:
    """Yield what is said; Mistral's reasoning models put thoughts and words into one list."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in content or ():
        if part.get("type") == "text" and part["text"]:
            yield TextDelta(part["text"])
        elif part.get("type") == "thinking" and (text := "".join(thought["text"] for thought in part["thinking"])):
            yield ReasoningDelta(text=text)


def reasoning_of(delta: Any) -> str:
    """Return the reasoning once, though servers may send it under more than one name."""
    for name in ("reasoning_content", "reasoning"):
        if isinstance(text := delta.get(name), str) and text:
            return text
    details = delta.get("reasoning_details") or ()
    return "".join(detail.get("text") or detail.get("summary") or "" for detail in details)


def usage_of(usage: Any) -> Usage:
    """Return the token counts, of which OpenAI counts cached ones as input."""
    details = usage.get("prompt_tokens_details") or {}
    cached = first(details.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("num_cached_tokens"))
    written = details.get("cache_write_tokens")
    prompt = usage.get("prompt_tokens")
    return Usage(
        input=None if prompt is None else max(prompt - (cached or 0) - (written or 0), 0),
        cached_input=cached,
        cache_write=written,
        output=usage.get("completion_tokens"),
        reasoning=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
        raw=usage,
    )


def first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
