"""What a function takes: the JSON Schema of its arguments, and arguments read from JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, cleandoc, signature
from textwrap import dedent
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a function is for and takes; ``injected`` names the parameters that a model knows nothing of."""

    description: str
    schema: Mapping[str, Any]
    injected: tuple[str, ...]
    model: type[BaseModel]

    def read(self, arguments: str) -> dict[str, Any]:
        """Give the arguments in a JSON object as Python values; raise ValueError, to be shown to a model."""
        try:
            read = self.model.model_validate_json(arguments.strip() or "{}")
        except ValidationError as exc:
            raise ValueError("; ".join(_problems(exc))) from exc
        return {str(info.alias): getattr(read, name) for name, info in type(read).model_fields.items()}


def _problems(exc: ValidationError) -> list[str]:
    found = exc.errors(include_url=False, include_context=False, include_input=False)
    return [": ".join(filter(None, (".".join(map(str, error["loc"])), error["msg"]))) for error in found]


def of(function: Callable[..., Any], injected: type) -> Signature:
    """Read a function's signature and docstring; raise TypeError for what no JSON Schema can say.

    Parameters annotated with the type ``injected`` are left out.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
        parameters = signature(function).parameters.values()
    except NameError as exc:
        raise TypeError(f"its annotations cannot be read: {exc}; import the name outside of TYPE_CHECKING") from exc
    given = tuple(name for name, hint in hints.items() if hint is injected or injected in get_args(hint))
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    for number, parameter in enumerate(parameters):
        if parameter.kind not in NAMED:
            raise TypeError(f"its parameter {parameter} cannot be given by name")
        if parameter.name not in hints:
            raise TypeError(f"its parameter {parameter.name} has no type")
        if parameter.name not in given:
            # A field's own name must not be one that pydantic has a meaning for, such as "schema".
            names[f"argument_{number}"] = parameter.name
            default = ... if parameter.default is Parameter.empty else parameter.default
            fields[f"argument_{number}"] = (hints[parameter.name], default)
    description, said = read_docstring(function.__doc__ or "")
    try:
        config = ConfigDict(extra="forbid", alias_generator=names.__getitem__)
        model: type[BaseModel] = create_model("Arguments", __config__=config, **fields)
        schema = model.model_json_schema(schema_generator=_Schema)
    except PydanticUserError as exc:
        raise TypeError(f"its parameters cannot be read from JSON: {exc.message.splitlines()[0]}") from exc
    del schema["title"]
    for name, text in said.items():
        if name in schema["properties"]:
            schema["properties"][name].setdefault("description", text)
    return Signature(description=description, schema=schema, injected=given, model=model)


class _Schema(GenerateJsonSchema):
    """Without the titles that pydantic makes of names, which models have to pay for."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


# Google's and Sphinx's ways of describing arguments.
SECTION = re.compile(
    r"^(?:Args|Arguments|Parameters|Returns?|Yields|Raises|Examples?):[ \t]*$|^:\w[^:\n]*:", re.MULTILINE
)
GOOGLE = re.compile(r"^(?:Args|Arguments|Parameters):[ \t]*\n(?P<body>(?:[ \t]+\S.*\n?|[ \t]*\n)*)", re.MULTILINE)
ITEM = re.compile(r"^(?P<name>\w+)(?: *\([^)\n]*\))?:(?P<text>.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
SPHINX = re.compile(r"^:param (?:[^:\n]+ )?(?P<name>\w+):(?P<text>.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)


def read_docstring(docstring: str) -> tuple[str, dict[str, str]]:
    """Take a docstring apart: what it says of the function, and of each argument."""
    text = cleandoc(docstring)
    end = SECTION.search(text)
    described = [*SPHINX.finditer(text)]
    for section in GOOGLE.finditer(text):
        described += ITEM.finditer(dedent(section["body"]))
    return text[: end.start() if end else None].strip(), {
        found["name"]: " ".join(found["text"].split()) for found in described
    }
