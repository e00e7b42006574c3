from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import httpx2

from converse.choices import ErrorType, FinishReason
from converse.deltas import (
    Delta,
    FileDelta,
    Finish,
    RawBlock,
    ReasoningDelta,
    SourceDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from converse.exceptions import ProviderError
from converse.providers.base import Prompt, ToolSpec
from converse.providers.gemini_answers import Answer, Refused, as_body
from converse.providers.gemini_contents import MADE, Contents
from converse.providers.http import HTTPProvider, Reading, certificates

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"

FINISH_REASONS = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "CONTINUATION": FinishReason.PAUSE,
    "SAFETY": FinishReason.CONTENT_FILTER,
    "RECITATION": FinishReason.CONTENT_FILTER,
    "BLOCKLIST": FinishReason.CONTENT_FILTER,
    "PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "SPII": FinishReason.CONTENT_FILTER,
    "MODEL_ARMOR": FinishReason.CONTENT_FILTER,
    "ESCALATION": FinishReason.CONTENT_FILTER,
    "IMAGE_SAFETY": FinishReason.CONTENT_FILTER,
    "IMAGE_PROHIBITED_CONTENT": FinishReason.CONTENT_FILTER,
    "IMAGE_RECITATION": FinishReason.CONTENT_FILTER,
}

# Finish reasons with which Gemini says that the model failed, and that another attempt may not.
FAILURES = {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL"}

# The fields of a request; whatever else is asked for belongs into its generationConfig.
FIELDS = {
    "cachedContent",
    "contents",
    "generationConfig",
    "labels",
    "model",
    "modelArmorConfig",
    "outputConfig",
    "safetySettings",
    "serviceTier",
    "store",
    "systemInstruction",
    "toolConfig",
    "tools",
}


class ContentReading(Reading):
    """Reads the chunks of one answer; of several candidates, the first."""

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.id = ""
        self.calls = 0
        self.sources: set[SourceDelta] = set()
        self.token = ""  # with which an answer that reaches a limit goes on
        self.usage: Any = None

    def read(self, event: Any) -> Iterator[Delta]:
        if event.get("error"):
            raise Refused(event)
        if not self.started:
            self.started = True
            self.id = event.get("responseId") or ""
            yield Started(request_id=self.request_id or self.id, model=event.get("modelVersion") or "")
        usage = event.get("usageMetadata")
        if usage and usage != self.usage:
            self.usage = usage
            yield usage_of(usage)
        for candidate in event.get("candidates") or ():
            if not candidate.get("index"):
                yield from self.read_candidate(candidate)
        if reason := (event.get("promptFeedback") or {}).get("blockReason"):
            raise self.failure(f"The prompt was blocked: {reason}.", ErrorType.CONTENT_BLOCKED)

    def read_candidate(self, candidate: Any) -> Iterator[Delta]:
        for part in (candidate.get("content") or {}).get("parts") or ():
            yield from self.read_part(part)
        for chunk in (candidate.get("groundingMetadata") or {}).get("groundingChunks") or ():
            if (source := source_of(chunk)) not in self.sources:
                self.sources.add(source)
                yield source
        self.token = candidate.get("continuationToken") or self.token
        if word := candidate.get("finishReason"):
            self.finish = self.finished(word, candidate.get("finishMessage") or "")
            if self.finish.reason == FinishReason.PAUSE:
                yield RawBlock({"continuationToken": self.token})

    def read_part(self, part: Any) -> Iterator[Delta]:
        signature = part.get("thoughtSignature")
        text = part.get("text") or ""
        match part:
            case {"thought": True}:
                if text or signature:
                    yield ReasoningDelta(text=text, signature=signature)
            case {"functionCall": call}:
                yield self.read_call(call, signature)
            case {"inlineData": file}:
                yield FileDelta(data=base64.b64decode(file["data"]), mime_type=file["mimeType"])
                if signature:
                    yield TextDelta("", signature)
            case {"text": _}:
                if text or signature:
                    yield TextDelta(text, signature)
            case _ if part:
                yield RawBlock(part)

    def read_call(self, call: Any, signature: str | None) -> ToolCallDelta:
        index, self.calls = self.calls, self.calls + 1
        return ToolCallDelta(
            index=index,
            id=call.get("id") or f"{MADE}{self.id}-{index}",
            name=call["name"],
            arguments=json.dumps(call.get("args") or {}, ensure_ascii=False),
            signature=signature,
        )

    def finished(self, word: str, message: str) -> Finish:
        if word in FAILURES:
            raise self.failure(f"The model failed: {word}. {message}", ErrorType.SERVER, retryable=True)
        reason = FINISH_REASONS.get(word, FinishReason.OTHER)
        if reason == FinishReason.STOP and self.calls:
            reason = FinishReason.TOOL_CALLS
        return Finish(reason=reason, raw=word)

    def failure(self, detail: str, kind: ErrorType, *, retryable: bool = False) -> ProviderError:
        return ProviderError(detail, type=kind, retryable=retryable, request_id=self.request_id or self.id)


class GeminiProvider(HTTPProvider):
    """Google's Gemini, by the HTTP API of AI Studio or of Vertex AI.

    Without Google's SDK: it has no raw events, and the models that it builds of them cost more than ten times as much
    as reading them and leave out what is new; making its client holds up the event loop for tens of milliseconds.
    """

    reading = ContentReading
    timeout_error = httpx2.TimeoutException
    connection_error = httpx2.HTTPError

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        auth: httpx2.Auth | None = None,
        max_tokens: int | None = None,
        **options: Any,
    ) -> None:
        if not (api_key or base_url or options.get("client")):
            api_key = os.environ.get("GOOGLE_API_KEY") or os.environ.get("GEMINI_API_KEY")
        super().__init__(api_key=api_key, base_url=base_url, **options)
        self.auth = auth
        self.max_tokens = max_tokens

    def new_client(self) -> httpx2.AsyncClient:
        if not (self.base_url or self.secrets):
            raise ProviderError("There is no api_key, and no GOOGLE_API_KEY.", type=ErrorType.AUTHENTICATION)
        return httpx2.AsyncClient(auth=self.auth, verify=certificates(), timeout=self.client_options()["timeout"])

    async def send(self, client: httpx2.AsyncClient, prompt: Prompt) -> Answer:
        model = prompt.model or self.model
        path = model if "/" in model else f"models/{model}"
        base_url = self.base_url or str(client.base_url) or BASE_URL
        headers = {**({"x-goog-api-key": self.api_key} if self.api_key else {}), **self.headers}
        request = client.build_request(
            "POST",
            f"{base_url.rstrip('/')}/{path}:streamGenerateContent",
            params={"alt": "sse"},
            json=self.request(prompt),
            headers=headers,
        )
        answer = Answer(await client.send(request, stream=True))
        if not answer.response.is_success:
            async with answer:
                raise Refused(as_body(await answer.response.aread()), answer.response)
        return answer

    def request(self, prompt: Prompt) -> dict[str, Any]:
        """Return the body of the request for a prompt."""
        contents = Contents(prompt.messages, prompt.model or self.model)
        defaults = {"maxOutputTokens": self.max_tokens} if self.max_tokens is not None else {}
        asked: dict[str, Any] = {}
        if prompt.output:
            asked = {"responseMimeType": "application/json", "responseJsonSchema": prompt.output.schema}
        given = {**self.params, **prompt.options}
        request: dict[str, Any] = {"contents": contents.contents}
        if contents.system:
            request["systemInstruction"] = {"parts": contents.system}
        if contents.token:
            request["continuationToken"] = contents.token
        request |= {name: value for name, value in given.items() if name in FIELDS}
        if prompt.tools:
            functions = {"functionDeclarations": [*map(function_of, prompt.tools)]}
            request["tools"] = [functions, *(request.get("tools") or ())]
        if prompt.tools and prompt.tool_choice:
            chosen = {
                "functionCallingConfig": choice_of(prompt.tool_choice),
                **(prompt.options.get("toolConfig") or {}),
            }
            request["toolConfig"] = {**(request.get("toolConfig") or {}), **chosen}
        config = {**defaults, **config_of(self.params), **asked, **config_of(prompt.options)}
        return {**request, "generationConfig": config} if config else request


def config_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generationConfig of options, whether they are in it or stand by themselves."""
    loose = {name: value for name, value in options.items() if name not in FIELDS}
    return {**(options.get("generationConfig") or {}), **loose}


def function_of(tool: ToolSpec) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    return {**function, "parametersJsonSchema": tool.schema} if tool.schema.get("properties") else function


def choice_of(choice: str) -> dict[str, Any]:
    if choice in {"auto", "any", "none"}:
        return {"mode": choice.upper()}
    return {"mode": "ANY", "allowedFunctionNames": [choice]}


def source_of(chunk: Any) -> SourceDelta:
    """Return a source, which stands under the name of its kind: web, maps, retrievedContext, image."""
    cited = next(iter(chunk.values()))
    url = cited.get("uri") or cited.get("sourceUri") or ""
    return SourceDelta(url=url, title=cited.get("title") or "", text=cited.get("text") or "")


def usage_of(usage: Any) -> Usage:
    """Return the token counts; Gemini's prompt includes what was cached, but not what its own tools read."""
    prompt, cached = usage.get("promptTokenCount"), usage.get("cachedContentTokenCount")
    tools = usage.get("toolUsePromptTokenCount") or 0
    thoughts, answer = usage.get("thoughtsTokenCount"), usage.get("candidatesTokenCount")
    return Usage(
        input=None if prompt is None else max(prompt + tools - (cached or 0), 0),
        cached_input=cached,
        output=None if answer is None and thoughts is None else (answer or 0) + (thoughts or 0),
        reasoning=thoughts,
        raw=usage,
    )
