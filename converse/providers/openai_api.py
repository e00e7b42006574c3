"""What OpenAI's two APIs, and the servers that speak them, have in common."""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from converse.choices import ErrorType
from converse.deltas import SourceDelta
from converse.exceptions import ProviderError
from converse.parts import File, Part, Text, ToolCall
from converse.providers.base import Prompt, PromptMessage
from converse.providers.content import arguments_of, encoded, media_type
from converse.providers.http import EventStream, SDKProvider

if TYPE_CHECKING:
    from openai import AsyncOpenAI

IMAGES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})

CHOICES = {"auto": "auto", "any": "required", "none": "none"}

# Lists to which a call, the settings and Converse each add.
JOINED = ("tools", "include")

# What Structured Outputs know of JSON Schema; with anything else a strict request is refused.
KEYWORDS = frozenset(
    {
        *("$ref", "$defs", "definitions", "title", "description"),
        *("type", "enum", "const", "anyOf", "items", "properties", "required", "additionalProperties"),
        *("pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minItems", "maxItems"),
    }
)
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


class OpenAIAPI(SDKProvider):
    """An API of OpenAI's that streams JSON from a path."""

    package = "openai"
    client_class = "AsyncOpenAI"
    path: ClassVar[str]
    text_type: ClassVar[str]

    def __init__(self, *, max_tokens: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.max_tokens = max_tokens

    async def send(self, client: AsyncOpenAI, prompt: Prompt) -> EventStream:
        # Not the SDK's create(): the model it builds of each event costs ten times as much as reading it, loses what
        # servers add, and knows only OpenAI's own parameters.
        stream: EventStream = await client.post(
            self.path,
            body=self.request(prompt),
            options={"security": {"bearer_auth": True}},
            cast_to=object,
            stream=True,
            stream_cls=self.sdk.AsyncStream[object],
        )
        return stream

    @abstractmethod
    def request(self, prompt: Prompt) -> dict[str, Any]:
        """Return the body of the request for a prompt."""

    @abstractmethod
    def file(self, file: File) -> dict[str, Any]:
        """Return a file as a block of a user's message; raise ProviderError for a type that the API does not take."""

    def content(self, turn: PromptMessage) -> str | list[dict[str, Any]]:
        """Return what a user says: a text, or a list of blocks if there are files."""
        if not any(isinstance(part, File) for part in turn.parts):
            return turn.text if turn.text.strip() else ""
        return [block for part in turn.parts for block in self.blocks(part)]

    def blocks(self, part: Part) -> Iterator[dict[str, Any]]:
        match part:
            case Text() if part.text.strip():
                yield {"type": self.text_type, "text": part.text}
            case File():
                yield self.file(part)

    def has_tools(self, prompt: Prompt) -> bool:
        return bool(prompt.tools or prompt.options.get("tools") or self.params.get("tools"))

    def body(self, prompt: Prompt, defaults: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
        """Put a request together: the call's own options first, then what it asks, the settings and our defaults."""
        given = {**self.params, **prompt.options}
        ours = {**defaults, **asked}
        joined = {
            name: unique([*ours.get(name, ()), *given.get(name, ())])
            for name in JOINED
            if name in ours or name in given
        }
        return {**defaults, **self.params, **asked, **prompt.options, **joined, "stream": True}


def unique(values: Iterable[Any]) -> list[Any]:
    """Return the values in their order, each once; they need not be hashable."""
    found: list[Any] = []
    found.extend(value for value in values if value not in found)
    return found


def unspoken(turn: PromptMessage) -> ProviderError:
    return ProviderError(f"There are no turns of role {turn.role!r}.", type=ErrorType.INVALID)


def data_url(file: File) -> str:
    return f"data:{media_type(file)};base64,{encoded(file)}"


def arguments_text(call: ToolCall) -> str:
    """Return a call's arguments as they came, or mended where a model wrote no JSON object, which servers choke on."""
    try:
        intact = isinstance(json.loads(call.arguments), dict)
    except (ValueError, RecursionError):
        intact = False
    return call.arguments if intact else json.dumps(arguments_of(call))


def fitting(call_id: str, pattern: re.Pattern[str], length: int) -> str:
    """Return the id of a call as an API takes it; one that does not fit becomes another, always the same."""
    if pattern.fullmatch(call_id):
        return call_id
    return hashlib.sha256(call_id.encode(errors="replace")).hexdigest()[:length]


def sign(block: Mapping[str, Any], *names: str) -> str | None:
    """Return what a block has under these names as a signature."""
    found = {name: block[name] for name in names if block.get(name)}
    return json.dumps(found) if found else None


def signed(signature: str | None, *names: str) -> dict[str, Any]:
    """Return what was signed; nothing of a signature that another API made."""
    try:
        found = json.loads(signature or "")
    except ValueError:
        return {}
    return {name: found[name] for name in names if name in found} if isinstance(found, dict) else {}


def source_of(annotation: Mapping[str, Any]) -> SourceDelta | None:
    """Return what an annotation cites; Chat Completions nest it under its type, Responses do not."""
    kind = annotation.get("type") or ""
    if not kind.endswith("citation"):
        return None
    cited = annotation.get(kind) or annotation
    title = cited.get("title") or cited.get("filename") or ""
    return SourceDelta(url=cited.get("url") or "", title=title, text=cited.get("content") or "")


def uncached(total: int | None, *cached: int | None) -> int | None:
    """Return the input tokens that no cache had a part in; OpenAI counts all of them as input."""
    return None if total is None else max(total - sum(count or 0 for count in cached), 0)


def schema_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]


def permits_strict(schema: Mapping[str, Any]) -> bool:
    """Say whether the service may be held to a schema: no property is optional and none is unknown."""
    return schema.get("type") == "object" and _is_strict(schema)


def _is_strict(schema: Any) -> bool:
    if not isinstance(schema, Mapping) or not KEYWORDS.issuperset(schema) or not _is_plain(schema):
        return False
    if "$ref" in schema:
        return len(schema) == 1
    if not {"type", "anyOf"} & set(schema):
        return False
    properties = schema.get("properties", {})
    types = schema.get("type")
    if "object" in (types if isinstance(types, list) else [types]) and not (
        schema.get("additionalProperties") is False and set(schema.get("required", ())) == set(properties)
    ):
        return False
    inner = [*properties.values(), *schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]
    named = [*schema.get("$defs", {}).values(), *schema.get("definitions", {}).values()]
    return all(map(_is_strict, [*inner, *named]))


def _is_plain(schema: Mapping[str, Any]) -> bool:
    return schema.get("format", "date") in FORMATS and "(?" not in schema.get("pattern", "")
