"""What the chunks of Chat Completions say, those of lookalikes included."""

from __future__ import annotations

import base64
import io
import json
import uuid
import wave
from collections.abc import Iterator
from typing import Any

from converse.choices import ErrorType, FinishReason
from converse.deltas import (
    Delta,
    FileDelta,
    Finish,
    RawBlock,
    ReasoningDelta,
    RefusalDelta,
    SourceDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from converse.exceptions import ProviderError
from converse.providers.http import Reading
from converse.providers.openai_api import sign, source_of, uncached

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

SAMPLE_RATE = 24_000  # of the sound that is streamed, which is always 16-bit PCM


class ChatReading(Reading):
    """Reads one answer, the first of several."""

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.refused = False
        self.calls: dict[int | None, int] = {}
        self.call_ids: list[str | None] = []
        self.details: list[dict[str, Any]] = []  # OpenRouter's reasoning, to be sent back as it came
        self.sound = b""
        self.cited: set[str] = set()
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
        yield from self.read_sources(event)
        usage = event.get("usage") or (event.get("x_groq") or {}).get("usage")
        if usage and usage != self.usage:
            self.usage = usage
            yield usage_of(usage)

    def read_choice(self, choice: Any) -> Iterator[Delta]:
        delta = choice.get("delta") or {}
        if reasoning := reasoning_of(delta):
            yield ReasoningDelta(text=reasoning)
        for detail in delta.get("reasoning_details") or ():
            self.keep(detail)
        yield from content_of(delta.get("content"))
        if refusal := delta.get("refusal"):
            self.refused = True
            yield RefusalDelta(refusal)
        for call in delta.get("tool_calls") or ():
            yield self.read_call(call)
        yield from self.read_media(delta)
        if reason := choice.get("finish_reason"):
            self.finish = self.finished(reason)
            yield from self.read_end()

    def read_call(self, call: Any) -> ToolCallDelta:
        function = call.get("function") or {}
        arguments = function.get("arguments") or ""
        known = len(self.call_ids)
        index = self.place(call.get("index"), call.get("id") or None)
        # Some servers give no ids; a result has to name its call.
        call_id = call.get("id") or (f"call_{uuid.uuid4().hex}" if index == known else None)
        return ToolCallDelta(
            index=index,
            id=call_id,
            name=function.get("name") or None,
            arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
            signature=sign(call, "extra_content"),
        )

    def place(self, index: int | None, call_id: str | None) -> int:
        """Return which call a fragment belongs to; some servers give every call the same index, or none."""
        if index not in self.calls or (call_id and call_id not in self.call_ids):
            self.calls[index] = len(self.call_ids)
            self.call_ids.append(call_id)
        return self.calls[index]

    def read_media(self, delta: Any) -> Iterator[Delta]:
        yield from filter(None, map(source_of, delta.get("annotations") or ()))
        for image in delta.get("images") or ():
            yield picture(image["image_url"]["url"])
        sound = delta.get("audio") or {}
        if words := sound.get("transcript"):
            yield TextDelta(words)
        self.sound += base64.b64decode(sound.get("data") or "")

    def read_sources(self, event: Any) -> Iterator[Delta]:
        """Yield what Perplexity and xAI name, chunk after chunk, as sources of the whole answer."""
        for source in [*(event.get("search_results") or ()), *(event.get("citations") or ())]:
            found = source if isinstance(source, dict) else {"url": source}
            if found["url"] not in self.cited:
                self.cited.add(found["url"])
                yield SourceDelta(url=found["url"], title=found.get("title") or "", text=found.get("snippet") or "")

    def keep(self, detail: dict[str, Any]) -> None:
        """Join the fragments of a block of OpenRouter's reasoning."""
        last = self.details[-1] if self.details else {}
        if not all(last.get(name) == detail.get(name) for name in ("type", "index")) or "data" in detail:
            self.details.append(dict(detail))
            return
        for name, value in detail.items():
            if name in ("text", "summary"):
                last[name] = (last.get(name) or "") + (value or "")
            elif value is not None:
                last[name] = value

    def read_end(self) -> Iterator[Delta]:
        if self.details:
            yield RawBlock({"reasoning_details": self.details})
            self.details = []
        if self.sound:
            yield FileDelta(data=recording(self.sound), mime_type="audio/wav", name="answer.wav")
            self.sound = b""

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


def picture(url: str) -> Delta:
    """Return an image that the model made: whole in a data URL, or where it is."""
    head, _, data = url.partition(",")
    if not head.startswith("data:"):
        return SourceDelta(url=url)
    kind = head.removeprefix("data:").partition(";")[0]
    return FileDelta(data=base64.b64decode(data), mime_type=kind, name=f"image.{kind.partition('/')[2]}")


def recording(samples: bytes) -> bytes:
    """Return sound as a file that players know."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(SAMPLE_RATE)
        written.writeframes(samples)
    return file.getvalue()


def usage_of(usage: Any) -> Usage:
    """Return the token counts."""
    details = usage.get("prompt_tokens_details") or {}
    cached = first(details.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"), usage.get("num_cached_tokens"))
    written = details.get("cache_write_tokens")
    return Usage(
        input=uncached(usage.get("prompt_tokens"), cached, written),
        cached_input=cached,
        cache_write=written,
        output=usage.get("completion_tokens"),
        reasoning=(usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
        raw=usage,
    )


def first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
