"""Messages not stored yet: value objects, and the reading of everything a caller may pass for one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from django.template import Context, Template
from django.template.backends.django import Template as EngineTemplate
from django.template.loader import get_template

from converse.choices import Role
from converse.exceptions import InvalidMessage


class Renderable(Protocol):
    """A template of any engine."""

    def render(self, context: Any = None) -> str: ...


@dataclass(frozen=True, slots=True)
class FromTemplate:
    """Content rendered from a template file, at once and without HTML escaping: prompts are not pages."""

    template_name: str
    context: Mapping[str, Any] = field(default_factory=dict)

    def render(self) -> str:
        template = get_template(self.template_name)
        if isinstance(template, EngineTemplate):
            return template.template.render(Context(dict(self.context), autoescape=False))
        return template.render(dict(self.context))


Content = str | FromTemplate | Template | Renderable | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to be added: its role, content, metadata and, where it has one, the client's own id."""

    default_role: ClassVar[Role] = Role.USER

    content: Content = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    external_id: str | None = None
    role: str = ""

    def __post_init__(self) -> None:
        role = self.role or self.default_role
        if role not in Role.values:
            raise InvalidMessage(f"{role!r} is not one of {', '.join(Role.values)}", field="role")
        if not isinstance(self.metadata, Mapping):
            raise InvalidMessage(f"must be a mapping, not {type(self.metadata).__name__}", field="metadata")
        object.__setattr__(self, "role", Role(role).value)
        object.__setattr__(self, "content", None if self.content is None else render(self.content))

    @property
    def text(self) -> str | None:
        assert self.content is None or isinstance(self.content, str)
        return self.content


class UserMessage(Draft):
    """A message of the user."""

    __slots__ = ()


class AssistantMessage(Draft):
    """A message of the assistant."""

    __slots__ = ()
    default_role = Role.ASSISTANT


class SystemMessage(Draft):
    """An instruction to the assistant."""

    __slots__ = ()
    default_role = Role.SYSTEM


class ToolCallMessage(Draft):
    """A call of a tool by the assistant."""

    __slots__ = ()
    default_role = Role.TOOL_CALL


class ToolResultMessage(Draft):
    """What a tool gave back."""

    __slots__ = ()
    default_role = Role.TOOL_RESULT


def render(content: Any) -> str:
    """Give content as text that every database can store; raise InvalidMessage for anything else."""
    if isinstance(content, str):
        return checked(str(content))  # a template renders to a SafeString, whose marks stop here
    if isinstance(content, Template):
        return checked(str(content.render(Context(autoescape=False))))
    if hasattr(content, "render"):
        return checked(str(content.render()))
    raise InvalidMessage(f"must be text or a template, not {type(content).__name__}")


def checked(text: str) -> str:
    """Give text back that every database can store; raise InvalidMessage for any other."""
    if "\x00" in text:
        raise InvalidMessage("text with a NUL character cannot be stored")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidMessage("text with half a surrogate pair cannot be stored") from exc
    return text


def parse(item: Any) -> Draft:
    """Read a message given as text, as a dict with ``role`` or ``type``, or as a value object."""
    if isinstance(item, Draft):
        return item
    if isinstance(item, Mapping):
        return _parse_mapping(item)
    if isinstance(item, str) or hasattr(item, "render"):
        return Draft(item)
    raise InvalidMessage(f"{type(item).__name__} is not a message", field="message")


def parse_all(items: Iterable[Any]) -> list[Draft]:
    """Read messages; the error of a bad one says which it is."""
    drafts = []
    for index, item in enumerate(items):
        try:
            drafts.append(parse(item))
        except InvalidMessage as exc:
            raise InvalidMessage(exc.reason, field=f"messages[{index}].{exc.field}") from exc
    return drafts


def _parse_mapping(item: Mapping[str, Any]) -> Draft:
    role = item.get("role", item.get("type"))
    if not role:
        raise InvalidMessage("is missing", field="role")
    if "content" not in item:
        raise InvalidMessage("is missing", field="content")
    unknown = set(item) - {"role", "type", "content", "metadata", "external_id"}
    if unknown:
        raise InvalidMessage("is not known", field=min(unknown))
    return Draft(item["content"], item.get("metadata") or {}, item.get("external_id"), role)
