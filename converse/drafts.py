"""Messages not stored yet: value objects, and the reading of everything a caller may pass for one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from json import dumps
from typing import Any, ClassVar, Protocol, TypeVar, cast

from django.template import Context, Template
from django.template.backends.django import Template as EngineTemplate
from django.template.loader import get_template

from converse.choices import Role
from converse.exceptions import InvalidMessage

T = TypeVar("T")


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


NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it

Content = str | FromTemplate | Template | Renderable | None


@dataclass(frozen=True, slots=True)
class Draft:
    """A message to be added: its role, content, metadata and, where it has them, the client's own id and attachments.

    An attachment is a file, a MessageAttachment of the conversation, or the uuid of one.
    """

    default_role: ClassVar[Role] = Role.USER

    content: Content = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    external_id: str | None = None
    role: str = ""
    attachments: Sequence[Any] = ()

    def __post_init__(self) -> None:
        role = self.role or self.default_role
        if role not in Role.values:
            raise InvalidMessage(f"{role!r} is not one of {', '.join(Role.values)}", field="role")
        object.__setattr__(self, "metadata", jsonable(self.metadata))
        object.__setattr__(self, "role", Role(role).value)
        object.__setattr__(self, "content", None if self.content is None else render(self.content))
        object.__setattr__(self, "attachments", listed(self.attachments))

    @property
    def text(self) -> str | None:
        return None if self.content is None else str(self.content)


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
        return checked(content)
    if isinstance(content, Template):
        return checked(content.render(Context(autoescape=False)))
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
    return "".join((text,))  # a template's SafeString becomes plain text: its promise does not hold here


def storable(value: T) -> T:
    """Replace what no database can store, NUL and halves of surrogate pairs, in a text or in all texts of JSON data."""
    replaced: Any = value
    if isinstance(value, str):
        replaced = value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    elif isinstance(value, Mapping):
        replaced = {storable(key): storable(item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        replaced = [storable(item) for item in value]
    return cast("T", replaced)


def jsonable(mapping: Any, field: str = "metadata") -> dict[str, Any]:
    """Give a mapping as a dict that every database can store as JSON; raise InvalidMessage for any other."""
    if mapping is None:
        return {}
    if not isinstance(mapping, Mapping):
        raise InvalidMessage(f"must be a mapping, not {type(mapping).__name__}", field=field)
    try:
        text = dumps(dict(mapping), allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError) as exc:
        raise InvalidMessage(f"must be JSON: {exc}", field=field) from exc
    if NUL.search(text):
        raise InvalidMessage("text with a NUL character cannot be stored", field=field)
    return dict(mapping)


def listed(attachments: Any) -> tuple[Any, ...]:
    """Give attachments as a tuple; raise InvalidMessage for what is no list of any."""
    if attachments is None:
        return ()
    if not isinstance(attachments, list | tuple):
        raise InvalidMessage(f"must be a list, not {type(attachments).__name__}", field="attachments")
    return tuple(attachments)


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
    if "content" not in item and not item.get("attachments"):
        raise InvalidMessage("is missing", field="content")
    unknown = set(item) - {"role", "type", "content", "metadata", "external_id", "attachments"}
    if unknown:
        raise InvalidMessage("is not known", field=min(unknown))
    return Draft(
        item.get("content"), item.get("metadata") or {}, item.get("external_id"), role, item.get("attachments") or ()
    )
