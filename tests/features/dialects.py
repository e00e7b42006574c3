"""The APIs of the providers from the other side: an answer in their events, a request in our words."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.recordings import sse


@dataclass(frozen=True)
class Think:
    """Reasoning, which the provider signs."""

    text: str
    signature: str = "c2lnbmVk"


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Decline:
    text: str


@dataclass(frozen=True)
class Call:
    """A call of a tool; ``hold`` stands still in the middle of its arguments."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    hold: bool = False


@dataclass(frozen=True)
class Own:
    """A block that only the provider understands."""


@dataclass(frozen=True)
class Cite:
    url: str
    title: str


@dataclass(frozen=True)
class Make:
    """A picture."""

    data: bytes


@dataclass(frozen=True)
class Hold:
    """Stand still until the client goes."""


@dataclass(frozen=True)
class Fail:
    """The provider fails in the middle."""


@dataclass(frozen=True)
class BreakOff:
    """The body ends without its end."""


Item = Think | Say | Decline | Call | Own | Cite | Make | Hold | Fail | BreakOff


@dataclass(frozen=True)
class Answer:
    """A streamed answer; ``reason`` is in our words, ``usage`` is input, cached input and output."""

    items: Sequence[Item]
    reason: str = "stop"
    usage: tuple[int, int, int] = (10, 4, 7)

    def __init__(self, *items: Item, reason: str = "", usage: tuple[int, int, int] = (10, 4, 7)) -> None:
        called = any(isinstance(item, Call) for item in items)
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "reason", reason or ("tool_calls" if called else "stop"))
        object.__setattr__(self, "usage", usage)


@dataclass(frozen=True)
class Refuse:
    """An answer that is an HTTP error."""

    status: int
    message: str = "No."
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Silence:
    """No answer at all, not even a status."""


def halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


class Dialect(ABC):
    """How one provider speaks. The readers of a request give what it says in words common to all."""

    backend: ClassVar[str]
    reasons: ClassVar[Mapping[str, str]]

    def options(self, port: int) -> dict[str, Any]:
        return {"model": "m-1", "api_key": "sk-feature", "base_url": f"http://127.0.0.1:{port}"}

    def pieces(self, answer: Answer) -> Iterator[bytes | Hold]:
        for event in self.events(answer):
            if isinstance(event, BreakOff):
                return
            yield event if isinstance(event, bytes | Hold) else self.write(event)

    def write(self, event: Any) -> bytes:
        return sse(event)

    @abstractmethod
    def events(self, answer: Answer) -> Iterator[Any]: ...

    @abstractmethod
    def refusal(self, refuse: Refuse) -> bytes: ...

    @abstractmethod
    def calls(self, body: Any) -> list[str]:
        """Give the ids of the calls that a request repeats."""

    @abstractmethod
    def results(self, body: Any) -> list[tuple[str, str]]:
        """Give the results in a request: (id of the call, text)."""

    @abstractmethod
    def tools(self, body: Any) -> list[str]:
        """Give the names of the tools that a request offers."""

    @abstractmethod
    def choice(self, body: Any) -> str:
        """Give the tool choice: auto, any, none or a name."""

    @abstractmethod
    def schema(self, body: Any) -> Any:
        """Give the JSON Schema that the answer has to have."""

    @abstractmethod
    def system(self, body: Any) -> list[str]: ...

    def says(self, body: Any, text: str) -> bool:
        """Say whether a text is somewhere in a request, be it as base64."""
        whole = json.dumps(body, ensure_ascii=False)
        return text in whole or base64.b64encode(text.encode()).decode() in whole


class Chat(Dialect):
    """OpenAI's Chat Completions."""

    backend = "converse.providers.openai.OpenAIProvider"
    reasons = {"stop": "stop", "tool_calls": "tool_calls", "length": "length", "content_filter": "content_filter"}
    thoughts = "reasoning_content"

    def chunk(self, delta: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
        return {"id": "c-1", "object": "chat.completion.chunk", "model": "m-1-dated", "choices": [choice]}

    def text(self, text: str) -> Any:
        return text

    def events(self, answer: Answer) -> Iterator[Any]:
        number = -1
        for item in answer.items:
            match item:
                case Think():
                    yield self.think(item)
                case Say():
                    yield from (self.chunk({"content": self.text(half)}) for half in halves(item.text))
                case Decline():
                    yield self.chunk({"refusal": item.text})
                case Call():
                    number += 1
                    first, second = halves(json.dumps(item.arguments))
                    called = {"index": number, "id": item.id, "type": "function"}
                    yield self.chunk({"tool_calls": [{**called, "function": {"name": item.name, "arguments": first}}]})
                    if item.hold:
                        yield Hold()
                    yield self.chunk({"tool_calls": [{"index": number, "function": {"arguments": second}}]})
                case Cite():
                    cited = {"type": "url_citation", "url_citation": {"url": item.url, "title": item.title}}
                    yield self.chunk({"annotations": [cited]})
                case Make():
                    url = f"data:image/png;base64,{base64.b64encode(item.data).decode()}"
                    yield self.chunk({"images": [{"type": "image_url", "image_url": {"url": url}}]})
                case Fail():
                    yield {"error": {"message": "Overloaded in the middle.", "type": "server_error", "code": 503}}
                    return
                case _:
                    yield item
        yield self.chunk({}, finish_reason=self.reasons[answer.reason])
        total, cached, output = answer.usage
        counts = {"prompt_tokens": total + cached, "completion_tokens": output, "total_tokens": total + cached + output}
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
        yield {**self.chunk({}), "choices": [], "usage": counts}
        yield "[DONE]"

    def think(self, item: Think) -> Any:
        return self.chunk({self.thoughts: item.text})

    def refusal(self, refuse: Refuse) -> bytes:
        return json.dumps({"error": {"message": refuse.message, "type": "error", "code": None}}).encode()

    def calls(self, body: Any) -> list[str]:
        return [call["id"] for turn in body["messages"] for call in turn.get("tool_calls") or ()]

    def results(self, body: Any) -> list[tuple[str, str]]:
        turns = [turn for turn in body["messages"] if turn["role"] == "tool"]
        return [(turn["tool_call_id"], turn["content"]) for turn in turns]

    def tools(self, body: Any) -> list[str]:
        return [tool["function"]["name"] for tool in body.get("tools", ())]

    def choice(self, body: Any) -> str:
        choice = body.get("tool_choice", "auto")
        return choice["function"]["name"] if isinstance(choice, dict) else {"required": "any"}.get(choice, choice)

    def schema(self, body: Any) -> Any:
        return body["response_format"]["json_schema"]["schema"]

    def system(self, body: Any) -> list[str]:
        return [turn["content"] for turn in body["messages"] if turn["role"] == "system"]


class Mistral(Chat):
    """Mistral's, whose content is a list when it thinks."""

    backend = "converse.providers.mistral.MistralProvider"

    def think(self, item: Think) -> Any:
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": item.text}]}
        return self.chunk({"content": [thought]})

    def text(self, text: str) -> Any:
        return [{"type": "text", "text": text}]

    def choice(self, body: Any) -> str:
        choice = body.get("tool_choice", "auto")
        return choice["function"]["name"] if isinstance(choice, dict) else {"required": "any"}.get(choice, choice)


class Responses(Dialect):
    """OpenAI's Responses."""

    backend = "converse.providers.responses.ResponsesProvider"
    reasons = {"stop": "", "tool_calls": "", "length": "max_output_tokens", "content_filter": "content_filter"}

    def events(self, answer: Answer) -> Iterator[Any]:
        head = {"id": "resp_1", "model": "m-1-dated", "object": "response"}
        yield {"type": "response.created", "response": {**head, "status": "in_progress"}}
        for number, item in enumerate(answer.items):
            where = {"output_index": number, "content_index": 0, "item_id": f"item_{number}"}
            match item:
                case Think():
                    done = {
                        "id": f"rs_{number}",
                        "type": "reasoning",
                        "summary": [{"type": "summary_text", "text": item.text}],
                        "encrypted_content": item.signature,
                    }
                    yield self.added(number, {**done, "summary": [], "encrypted_content": None})
                    part = {"type": "response.reasoning_summary_text.delta", "item_id": done["id"], "summary_index": 0}
                    yield {**part, "output_index": number, "delta": item.text}
                    yield {"type": "response.output_item.done", "output_index": number, "item": done}
                case Say():
                    message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "in_progress"}
                    yield self.added(number, {**message, "content": []})
                    for half in halves(item.text):
                        yield {"type": "response.output_text.delta", **where, "delta": half}
                    said = [{"type": "output_text", "text": item.text, "annotations": []}]
                    done = {**message, "status": "completed", "content": said}
                    yield {"type": "response.output_item.done", "output_index": number, "item": done}
                case Decline():
                    yield {"type": "response.refusal.delta", **where, "delta": item.text}
                case Call():
                    call = {"id": f"fc_{number}", "type": "function_call", "call_id": item.id, "name": item.name}
                    yield self.added(number, {**call, "arguments": "", "status": "in_progress"})
                    arguments = json.dumps(item.arguments)
                    for place, half in enumerate(halves(arguments)):
                        if place and item.hold:
                            yield Hold()
                        yield {"type": "response.function_call_arguments.delta", **where, "delta": half}
                    done = {**call, "arguments": arguments, "status": "completed"}
                    yield {"type": "response.output_item.done", "output_index": number, "item": done}
                case Own():
                    done = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"query": "own"}}
                    yield self.added(number, {**done, "status": "in_progress"})
                    yield {"type": "response.output_item.done", "output_index": number, "item": done}
                case Cite():
                    cited = {"type": "url_citation", "url": item.url, "title": item.title}
                    yield {"type": "response.output_text.annotation.added", **where, "annotation": cited}
                case Make():
                    result = base64.b64encode(item.data).decode()
                    done = {"id": "ig_1", "type": "image_generation_call", "status": "completed", "result": result}
                    done["output_format"] = "png"
                    yield self.added(number, {**done, "result": None, "status": "in_progress"})
                    yield {"type": "response.output_item.done", "output_index": number, "item": done}
                case Fail():
                    error = {"code": "server_error", "message": "Failed in the middle."}
                    yield {"type": "response.failed", "response": {**head, "status": "failed", "error": error}}
                    return
                case _:
                    yield item
        total, cached, output = answer.usage
        counts = {"input_tokens": total + cached, "output_tokens": output, "total_tokens": total + cached + output}
        counts["input_tokens_details"] = {"cached_tokens": cached}
        cut = self.reasons[answer.reason]
        status = "incomplete" if cut else "completed"
        end = {**head, "status": status, "usage": counts, "incomplete_details": {"reason": cut} if cut else None}
        yield {"type": f"response.{status}", "response": end}

    def added(self, number: int, item: dict[str, Any]) -> dict[str, Any]:
        return {"type": "response.output_item.added", "output_index": number, "item": item}

    def refusal(self, refuse: Refuse) -> bytes:
        return json.dumps({"error": {"message": refuse.message, "type": "error", "code": None}}).encode()

    def calls(self, body: Any) -> list[str]:
        return [item["call_id"] for item in body["input"] if item.get("type") == "function_call"]

    def results(self, body: Any) -> list[tuple[str, str]]:
        found = [item for item in body["input"] if item.get("type") == "function_call_output"]
        return [(item["call_id"], item["output"]) for item in found]

    def tools(self, body: Any) -> list[str]:
        return [tool["name"] for tool in body.get("tools", ())]

    def choice(self, body: Any) -> str:
        choice = body.get("tool_choice", "auto")
        return choice["name"] if isinstance(choice, dict) else {"required": "any"}.get(choice, choice)

    def schema(self, body: Any) -> Any:
        return body["text"]["format"]["schema"]

    def system(self, body: Any) -> list[str]:
        turns = [item for item in body["input"] if item.get("role") in ("system", "developer")]
        said = [turn["content"] for turn in turns]
        texts = [text if isinstance(text, str) else "".join(part["text"] for part in text) for text in said]
        return [*([body["instructions"]] if body.get("instructions") else []), *texts]


class Anthropic(Dialect):
    """Anthropic's Messages."""

    backend = "converse.providers.anthropic.AnthropicProvider"
    reasons = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "refusal": "refusal"}

    def events(self, answer: Answer) -> Iterator[Any]:
        total, cached, output = answer.usage
        usage = {"input_tokens": total, "cache_read_input_tokens": cached, "cache_creation_input_tokens": 0}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m-1-dated", "content": []}
        yield {"type": "message_start", "message": {**message, "usage": {**usage, "output_tokens": 1}}}
        for index, item in enumerate(answer.items):
            match item:
                case Think():
                    block = {"type": "thinking", "thinking": "", "signature": ""}
                    deltas = [{"type": "thinking_delta", "thinking": half} for half in halves(item.text)]
                    yield from self.block(
                        index, block, *deltas, {"type": "signature_delta", "signature": item.signature}
                    )
                case Say():
                    said = [{"type": "text_delta", "text": half} for half in halves(item.text)]
                    yield from self.block(index, {"type": "text", "text": ""}, *said)
                case Decline():
                    yield from self.block(
                        index, {"type": "text", "text": ""}, {"type": "text_delta", "text": item.text}
                    )
                case Call():
                    block = {"type": "tool_use", "id": item.id, "name": item.name, "input": {}}
                    first, second = halves(json.dumps(item.arguments))
                    between = [Hold()] if item.hold else []
                    told = [{"type": "input_json_delta", "partial_json": half} for half in (first, second)]
                    yield from self.block(index, block, told[0], *between, told[1])
                case Own():
                    yield from self.block(index, {"type": "redacted_thinking", "data": "T1dO"})
                case Cite():
                    cited = {"type": "web_search_result_location", "url": item.url, "title": item.title}
                    delta = {"type": "citations_delta", "citation": {**cited, "cited_text": "So it is."}}
                    yield from self.block(index, {"type": "text", "text": ""}, delta)
                case Fail():
                    yield {
                        "type": "error",
                        "error": {"type": "overloaded_error", "message": "Overloaded in the middle."},
                    }
                    return
                case _:
                    yield item
        delta = {"stop_reason": self.reasons[answer.reason], "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": output}}
        yield {"type": "message_stop"}

    def block(self, index: int, block: dict[str, Any], *deltas: Any) -> Iterator[Any]:
        yield {"type": "content_block_start", "index": index, "content_block": block}
        for delta in deltas:
            yield delta if isinstance(delta, Hold) else {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}

    def refusal(self, refuse: Refuse) -> bytes:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(refuse.status, "invalid_request_error")
        return json.dumps({"type": "error", "error": {"type": kind, "message": refuse.message}}).encode()

    def blocks(self, body: Any, kind: str) -> list[Any]:
        contents = [turn["content"] for turn in body["messages"] if isinstance(turn["content"], list)]
        return [block for content in contents for block in content if block["type"] == kind]

    def calls(self, body: Any) -> list[str]:
        return [block["id"] for block in self.blocks(body, "tool_use")]

    def results(self, body: Any) -> list[tuple[str, str]]:
        found = self.blocks(body, "tool_result")
        texts = [block["content"] for block in found]
        plain = [text if isinstance(text, str) else "".join(part["text"] for part in text) for text in texts]
        return [(block["tool_use_id"], text) for block, text in zip(found, plain, strict=True)]

    def tools(self, body: Any) -> list[str]:
        return [tool["name"] for tool in body.get("tools", ())]

    def choice(self, body: Any) -> str:
        choice = body.get("tool_choice", {"type": "auto"})
        return choice["name"] if choice["type"] == "tool" else choice["type"]

    def schema(self, body: Any) -> Any:
        return body["output_config"]["format"]["schema"]

    def system(self, body: Any) -> list[str]:
        return [block["text"] for block in body["system"]]


class Gemini(Dialect):
    """Google's Gemini."""

    backend = "converse.providers.gemini.GeminiProvider"
    reasons = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}

    def write(self, event: Any) -> bytes:
        return f"data: {json.dumps(event)}\r\n\r\n".encode()

    def chunk(self, *parts: Any, **more: Any) -> dict[str, Any]:
        candidate = {"content": {"parts": list(parts), "role": "model"}, "index": 0, **more}
        return {"candidates": [candidate], "modelVersion": "m-1-dated", "responseId": "r-1"}

    def events(self, answer: Answer) -> Iterator[Any]:
        signature = {}
        for item in answer.items:
            match item:
                case Think():
                    # The thoughts are not signed, but what they led to.
                    signature = {"thoughtSignature": item.signature}
                    yield self.chunk({"text": item.text, "thought": True})
                case Say():
                    yield from (self.chunk({"text": half}) for half in halves(item.text))
                case Call():
                    called = {"name": item.name, "args": dict(item.arguments), "id": item.id}
                    yield self.chunk({"functionCall": called, **signature})
                case Own():
                    yield self.chunk({"executableCode": {"language": "PYTHON", "code": "print('own')"}})
                    yield self.chunk({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "own"}})
                case Cite():
                    chunks = [{"web": {"uri": item.url, "title": item.title}}]
                    supports = [{"segment": {"text": "So it is."}, "groundingChunkIndices": [0]}]
                    grounding = {"groundingChunks": chunks, "groundingSupports": supports}
                    yield self.chunk({"text": ""}, groundingMetadata=grounding)
                case Make():
                    data = base64.b64encode(item.data).decode()
                    yield self.chunk({"inlineData": {"mimeType": "image/png", "data": data}})
                case Fail():
                    yield {"error": {"code": 503, "message": "Overloaded in the middle.", "status": "UNAVAILABLE"}}
                    return
                case _:
                    yield item
        total, cached, output = answer.usage
        counts = {"promptTokenCount": total + cached, "cachedContentTokenCount": cached, "candidatesTokenCount": output}
        end = self.chunk({"text": ""}, finishReason=self.reasons[answer.reason])
        yield {**end, "usageMetadata": {**counts, "totalTokenCount": total + cached + output}}

    def refusal(self, refuse: Refuse) -> bytes:
        status = {401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED"}.get(refuse.status, "INVALID_ARGUMENT")
        return json.dumps({"error": {"code": refuse.status, "message": refuse.message, "status": status}}).encode()

    def parts(self, body: Any, name: str) -> list[Any]:
        return [part[name] for turn in body["contents"] for part in turn["parts"] if name in part]

    def calls(self, body: Any) -> list[str]:
        return [call["id"] for call in self.parts(body, "functionCall")]

    def results(self, body: Any) -> list[tuple[str, str]]:
        return [(found["id"], next(iter(found["response"].values()))) for found in self.parts(body, "functionResponse")]

    def tools(self, body: Any) -> list[str]:
        declared = [tool.get("functionDeclarations", ()) for tool in body.get("tools", ())]
        return [function["name"] for functions in declared for function in functions]

    def choice(self, body: Any) -> str:
        config = body.get("toolConfig", {}).get("functionCallingConfig", {"mode": "AUTO"})
        named = config.get("allowedFunctionNames")
        return named[0] if named else config["mode"].lower()

    def schema(self, body: Any) -> Any:
        config = body["generationConfig"]
        return config.get("responseJsonSchema") or config["responseSchema"]

    def system(self, body: Any) -> list[str]:
        return [part["text"] for part in body["systemInstruction"]["parts"]]
