"""A client of the JSON API that holds each answer against the OpenAPI document."""

from __future__ import annotations

import json
from typing import Any

from django.contrib.auth import get_user_model
from django.http import HttpResponse
from django.test import Client, TestCase
from django.urls import resolve, reverse
from jsonschema import Draft202012Validator

from converse import urls
from converse.models import Conversation
from converse.views.api.openapi import PLACE, document

JSON = "application/json"
PROBLEM = "application/problem+json"


def conforms(method: str, path: str, response: HttpResponse) -> None:
    """Find an answer in the document; fail where it is another one."""
    told = document(urls.urlpatterns)
    route = PLACE.sub(r"{\2}", resolve(path).route.removeprefix("converse"))
    answers = told["paths"][route][method.lower()]["responses"]
    assert str(response.status_code) in answers, f"{method} {route} gave {response.status_code}: {response.content!r}"
    answer = answers[str(response.status_code)]
    media, content = next(iter(answer.get("content", {"": {}}).items()))
    assert response.headers.get("Content-Type", "") == media
    assert ("Location" in response.headers) == (response.status_code == 201) or response.status_code == 200
    if media:
        shape = {"components": told["components"], **content["schema"]}
        Draft202012Validator(shape, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(response.json())
    else:
        assert response.content == b""


class ApiTestCase(TestCase):
    @classmethod
    def setUpTestData(cls):
        users = get_user_model().objects
        cls.ada, cls.bob, cls.eve = (users.create_user(name, password="x") for name in ("ada", "bob", "eve"))
        cls.conversation = Conversation.objects.start(cls.ada, title="Plans")

    def setUp(self):
        super().setUp()
        self.client.force_login(self.ada)

    def as_(self, user: Any) -> Client:
        client = Client()
        client.force_login(user)
        return client

    def ask(
        self, method: str, name: str, *args: Any, body: Any = None, query: Any = None, client: Any = None, **extra: Any
    ) -> HttpResponse:
        """Ask a door by the name of its route; the answer is one that the document has."""
        path = reverse(f"converse:{name}", args=args)
        sent = {"content_type": JSON, **self._content(body), **extra}
        response = (client or self.client).generic(method, path, query_params=query, **sent)
        conforms(method, path, response)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "no-store" in response.headers["Cache-Control"]
        return response

    def _content(self, body: Any) -> dict[str, Any]:
        if body is None:
            return {}
        return {"data": body if isinstance(body, str | bytes) else json.dumps(body)}

    def refused(self, *args: Any, **kwargs: Any) -> tuple[int, str, str | None]:
        """Give the status, the code and the field of a problem."""
        response = self.ask(*args, **kwargs)
        assert response.headers["Content-Type"] == PROBLEM, response.content
        told = response.json()
        assert told["status"] == response.status_code
        return response.status_code, told["code"], told.get("field")
