"""Structured answers: the form that is asked for, as a type or a JSON Schema, and answers read by it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from inspect import isroutine
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import from_json

from converse import naming
from converse.choices import ChunkKind, ErrorType
from converse.drafts import jsonable
from converse.exceptions import InvalidMessage, ProviderError
from converse.providers.base import OutputSpec

WRAPPER = "value"  # the one property of the object that an answer is in whose form is no object: providers want one
PROBLEMS = 5  # told of one answer
FENCED = re.compile(r"^[ \t]*```(?:\w*\s)?(?P<json>.*?)(?:^[ \t]*```|```\s*\Z|\Z)", re.MULTILINE | re.DOTALL)
UNFINISHED = re.compile(r"-?\d[\d.eE+-]*\Z")  # a number that may go on
EXTRA = "JSON Schemas are validated by jsonschema: pip install 'django-converse[jsonschema]'"

Plan = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form of an answer, ready to read by. Without an adapter it is a JSON Schema and nothing else."""

    name: str
    schema: Mapping[str, Any]
    adapter: TypeAdapter[Any] | None

    @property
    def wrapped(self) -> bool:
        """Whether an answer comes inside of an object, for it is none itself."""
        return self.schema.get("type") != "object" and "properties" not in self.schema

    @property
    def asked(self) -> dict[str, Any]:
        """The schema of the object that a provider is asked for."""
        if not self.wrapped:
            return dict(self.schema)
        inner = dict(self.schema)
        shared: dict[str, Any] = {key: inner.pop(key) for key in ("$defs", "definitions") if key in inner}
        return {
            "type": "object",
            "properties": {WRAPPER: inner},
            "required": [WRAPPER],
            "additionalProperties": False,
            **shared,
        }


def plan(output: Any) -> dict[str, Any]:
    """Say as JSON what form an answer is to have; raise InvalidMessage for what is none.

    ``output`` is a pydantic model or any type that pydantic reads, the dotted path of one, or a JSON Schema, a dict
    with a ``title``.
    """
    made = {"schema": dict(output)} if isinstance(output, Mapping) else {"type": _named(output)}
    jsonable(made, field="output")
    _form(json.dumps(made))
    return made


def spec(plan: Plan | None) -> OutputSpec | None:
    """Give what a provider is told of the form, if there is any."""
    form = _form(json.dumps(plan)) if plan else None
    return OutputSpec(name=form.name, schema=form.asked) if form else None


def validated(plan: Plan, text: str) -> Any:
    """Read an answer and give it as JSON to be stored; raise ProviderError of type ``invalid_output``."""
    form = _form(json.dumps(plan))
    try:
        found = _unwrapped(form, _read(text))
        answer = _checked(form, found) if form.adapter is None else _typed(form.adapter, found)
        jsonable({"answer": answer})
    except ValueError as exc:
        detail = f"The answer does not have the form of {form.name}: {'; '.join(_problems(exc))}"
        raise ProviderError(detail, type=ErrorType.INVALID_OUTPUT) from exc
    return answer


def value(plan: Plan | None, structured: Any) -> Any:
    """Give a stored answer as a value of the type that was asked for; of a JSON Schema, as it is."""
    form = _form(json.dumps(plan)) if plan and structured is not None else None
    if form is None or form.adapter is None:
        return structured
    return form.adapter.validate_json(json.dumps(structured))


def partial(text: str, plan: Plan | None = None) -> Any:
    """Give what can be told by now of an answer that is still coming, as JSON; None before there is any.

    Each answer given is what the later ones begin with: texts grow, lists and objects gain members. Never raises.
    """
    try:
        found = from_json(UNFINISHED.sub("", _unfenced(text)), allow_partial="trailing-strings", allow_inf_nan=False)
    except ValueError:
        return None
    if plan and isinstance(found, dict) and _form(json.dumps(plan)).wrapped:
        return found.get(WRAPPER)
    return found


def answer(parts: Iterable[Mapping[str, Any]]) -> str:
    """Give the text of stored parts in which the answer is: what was said after the last result of a tool."""
    said: list[str] = []
    for part in parts:
        if part["type"] == ChunkKind.TOOL_RESULT:
            said = []
        elif part["type"] == ChunkKind.TEXT:
            said.append(part["text"])
    return "".join(said)


def complaint(error: Exception) -> str:
    """Tell a model what is wrong with its answer, and to try again."""
    return f"{error}\nAnswer again, with nothing but JSON of that form."


# Forms: by name in a plan, and found again by that name in any process.


def _named(kind: Any) -> Any:
    """Give the dotted path of a type; of one made of others, what it is made of."""
    origin = get_origin(kind)
    if isinstance(kind, str):
        return kind
    if origin is Literal:
        return {"literal": list(get_args(kind))}
    if origin in (Union, UnionType):
        return {"of": "typing.Union", "with": [_named(item) for item in get_args(kind)]}
    if origin is not None:
        return {"of": _named(origin), "with": [_named(item) for item in get_args(kind)]}
    if kind is ...:
        return "builtins.Ellipsis"
    if kind in (None, NoneType):
        return "types.NoneType"
    return naming.named(kind, field="output")


def _found(named: Any) -> Any:
    if isinstance(named, str):
        return naming.found(named, field="output")
    if "literal" in named:
        return Literal[tuple(named["literal"])]
    items = tuple(_found(item) for item in named["with"])
    return _found(named["of"])[items]


@lru_cache(maxsize=256)
def _form(plan: str) -> Form:
    told = json.loads(plan)
    found = told["schema"] if "schema" in told else _found(told["type"])
    if isinstance(found, Mapping):
        return _form_of_schema(found)
    try:
        if isroutine(found):  # which pydantic would call
            raise TypeError("it is a function")
        adapter = TypeAdapter(found)
        schema = _rooted(adapter.json_schema())
    except (PydanticUserError, TypeError, NameError) as exc:
        raise _refused(f"{found!r} is no type that pydantic can read from JSON: {str(exc).splitlines()[0]}") from exc
    return Form(name=_name(schema.get("title") or _words(told["type"])), schema=schema, adapter=adapter)


def _form_of_schema(schema: Mapping[str, Any]) -> Form:
    if not isinstance(schema.get("title"), str) or not schema["title"].strip():
        raise _refused("a JSON Schema needs a title, which names it to the provider")
    jsonschema = _jsonschema()
    try:
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as exc:
        raise _refused(f"is no JSON Schema: {exc.message}") from exc
    return Form(name=_name(schema["title"]), schema=_rooted(schema), adapter=None)


def _rooted(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Put the definition that the root of a schema only refers to, as of a recursive type, in its place."""
    name = str(schema.get("$ref", "")).removeprefix("#/$defs/")
    return {**schema["$defs"][name], **{k: v for k, v in schema.items() if k != "$ref"}} if name else dict(schema)


def _words(named: Any) -> str:
    """Say in words what a type is made of: ``list of Recipe``."""
    if isinstance(named, str):
        return named.rpartition(".")[2]
    return " ".join([_words(named["of"]), "of", *map(_words, named["with"])]) if "of" in named else "choice"


def _name(title: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", title).strip("_")[:64] or "answer"


def _jsonschema() -> Any:
    try:
        return import_module("jsonschema")
    except ImportError as exc:
        raise _refused(EXTRA) from exc


def _refused(reason: str) -> InvalidMessage:
    return InvalidMessage(reason, field="output")


# Answers.


def _unfenced(text: str) -> str:
    """Give what is in a fence, where an answer has one and does not begin with JSON itself."""
    fenced = None if text.lstrip()[:1] in ("{", "[", '"') else FENCED.search(text)
    return (fenced["json"] if fenced else text).strip()


def _read(text: str) -> Any:
    if not text.strip():
        raise ValueError("it is empty")
    return from_json(_unfenced(text), allow_inf_nan=False)


def _unwrapped(form: Form, found: Any) -> Any:
    """Take an answer out of its object; one without is taken as it is."""
    return found[WRAPPER] if form.wrapped and isinstance(found, dict) and set(found) == {WRAPPER} else found


def _typed(adapter: TypeAdapter[Any], found: Any) -> Any:
    """Give an answer as its type writes it; where that cannot be read again, as the model wrote it."""
    read = adapter.validate_json(json.dumps(found))
    written = adapter.dump_python(read, mode="json", by_alias=True)
    try:
        same = adapter.validate_json(json.dumps(written)) == read
    except ValidationError:
        same = False
    return written if same else found


def _checked(form: Form, found: Any) -> Any:
    jsonschema = _jsonschema()
    kind = jsonschema.validators.validator_for(form.schema)
    try:
        errors = list(kind(form.schema, format_checker=kind.FORMAT_CHECKER).iter_errors(found))
    except import_module("referencing.exceptions").Unresolvable as exc:
        raise ValueError(f"the schema itself refers to what is not there: {exc}") from exc
    if errors:
        raise ValueError("; ".join(_told(error.absolute_path, error.message) for error in errors[:PROBLEMS]))
    return found


def _problems(exc: Exception) -> Iterator[str]:
    if not isinstance(exc, ValidationError):
        yield exc.reason if isinstance(exc, InvalidMessage) else str(exc)
        return
    for error in exc.errors(include_url=False, include_context=False, include_input=False)[:PROBLEMS]:
        yield _told(error["loc"], error["msg"])


def _told(place: Any, problem: str) -> str:
    path = ".".join(map(str, place))
    return f"{path}: {problem}" if path else problem
