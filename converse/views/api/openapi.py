"""The OpenAPI document, put together from what the doors say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from django.conf import settings as django_settings
from django.http import HttpResponse, JsonResponse

import converse
from converse.events import camel
from converse.views.api.described import Asked, JsonSchema, Operation, operation
from converse.views.api.doors import UNSAFE, View, door
from converse.views.api.elsewhere import ELSEWHERE
from converse.views.api.schemas import UUID, ref, schemas

PLACE = re.compile(r"<(?:(\w+):)?(\w+)>")
NAME = "openapi.json"

Patterns = Sequence[Any]  # of URLPattern, whose callback is untyped


def described(patterns: Patterns) -> View:
    """Make the view that gives the document of some routes, which may become more until it is asked for."""

    @operation(gives={200: "Document"}, problems=(400,))
    def get_document(asked: Asked) -> HttpResponse:
        """Give this document."""
        return JsonResponse(document(patterns, asked.request.path.removesuffix(f"/{NAME}") or "/"))

    return door(GET=get_document)


def document(patterns: Patterns, server: str = "/") -> JsonSchema:
    """Put the document together; ``server`` is where the routes are mounted."""
    csrf = django_settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Converse", "version": converse.__version__, "summary": "Conversations whose replies stream"},
        "servers": [{"url": server}],
        "paths": {PLACE.sub(r"{\2}", path): _path(path, operations) for path, operations in routes(patterns)},
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": django_settings.SESSION_COOKIE_NAME},
                "csrf": {"type": "apiKey", "in": "header", "name": csrf.title()},
            },
        },
    }


def routes(patterns: Patterns) -> Iterator[tuple[str, Mapping[str, Operation]]]:
    """Give each route that says what can be done there, with its operations by method."""
    for pattern in patterns:
        operations = getattr(pattern.callback, "operations", None) or ELSEWHERE.get(pattern.name or "")
        if operations:
            yield f"/{pattern.pattern}", operations


def _path(path: str, operations: Mapping[str, Operation]) -> JsonSchema:
    found = PLACE.findall(path)
    places = [{"name": name, "in": "path", "required": True, "schema": _place(kind)} for kind, name in found]
    told = {method.lower(): _operation(method, operation) for method, operation in operations.items()}
    return {**({"parameters": places} if places else {}), **told}


def _place(kind: str) -> JsonSchema:
    return UUID if kind == "uuid" else {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}


def _operation(method: str, operation: Operation) -> JsonSchema:
    told: JsonSchema = {
        "operationId": camel(operation.name),
        "summary": operation.summary,
        "security": [{"session": [], **({"csrf": []} if method in UNSAFE else {})}],
        "responses": {**_given(operation), **_problems(operation)},
    }
    if operation.query:
        told["parameters"] = [
            {"name": parameter.name, "in": "query", "description": parameter.text, "schema": parameter.schema}
            for parameter in operation.query
        ]
    if body := _body(operation):
        told["requestBody"] = body
    return told


def _body(operation: Operation) -> JsonSchema | None:
    if operation.form:
        file = {"type": "object", "properties": {operation.form: {"type": "string", "format": "binary"}}}
        return _content({**file, "required": [operation.form]}, "multipart/form-data")
    if operation.takes:
        needed = bool(schemas()[operation.takes].get("required"))
        return {"required": needed, **_content(ref(operation.takes), "application/json")}
    return None


def _given(operation: Operation) -> JsonSchema:
    answers: JsonSchema = {}
    for status, name in operation.gives.items():
        answer: JsonSchema = {"description": HTTPStatus(status).phrase}
        if name:
            answer |= _content(ref(name), operation.media)
        elif status == HTTPStatus.OK:
            answer |= _content({}, operation.media)
        if status == HTTPStatus.CREATED:
            location = {"description": "Where it is.", "schema": {"type": "string", "format": "uri-reference"}}
            answer["headers"] = {"Location": location}
        answers[str(status)] = answer
    return answers


def _problems(operation: Operation) -> JsonSchema:
    known = operation.told == "application/problem+json"
    told = _content(ref("Problem") if known else {"type": "string"}, operation.told)
    return {str(status): {"description": HTTPStatus(status).phrase, **told} for status in operation.problems}


def _content(schema: JsonSchema, media: str) -> JsonSchema:
    return {"content": {media: {"schema": schema}}}
