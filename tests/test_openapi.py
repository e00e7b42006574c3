"""The OpenAPI document held against the routes and the events."""

from __future__ import annotations

from django.test import Client, SimpleTestCase, override_settings
from django.urls import reverse
from jsonschema import Draft202012Validator

from converse import urls
from converse.events import MessageCreated, StreamUpdate, wire_names
from converse.views.api import others
from converse.views.api.elsewhere import ELSEWHERE
from converse.views.api.openapi import PLACE, document
from tests.documents import DOCS, names, rows, section

HTTP = DOCS / "reference" / "http.md"


class DocumentTests(SimpleTestCase):
    def test_every_route_and_method_is_in_it_and_no_other(self):
        told = {
            (path, method.upper())
            for path, item in document(urls.urlpatterns)["paths"].items()
            for method in item
            if method != "parameters"
        }
        there = set()
        for pattern in urls.urlpatterns:
            if pattern.callback is others.missing:
                continue
            operations = getattr(pattern.callback, "operations", None) or ELSEWHERE[pattern.name]
            there |= {(PLACE.sub(r"{\2}", f"/{pattern.pattern}"), method) for method in operations}
        assert told == there

    def test_the_reference_lists_every_route_with_its_methods(self):
        listed = {
            (route[0], name[0], *methods)
            for route, name, methods in (map(names, row) for row in rows(section(HTTP, "Routes")))
        }
        assert listed == {
            (PLACE.sub(lambda found: f"<{found[2]}>", str(pattern.pattern)), pattern.name, *pattern.callback.operations)
            for pattern in urls.urlpatterns
            if hasattr(pattern.callback, "operations")
        }

    def test_what_it_says_of_other_protocols_is_so(self):
        views = {pattern.name: pattern.callback for pattern in urls.urlpatterns}
        for name, operations in ELSEWHERE.items():
            assert [operation.handler for operation in operations.values()] == [views[name]]
            kinds = PLACE.findall(str(next(p.pattern for p in urls.urlpatterns if p.name == name)))
            args = ["5b0f3a1e-7a55-4f5e-9d44-0a9a6e0f8a11"] * len(kinds)
            response = Client().put(reverse(f"converse:{name}", args=args))
            assert response.headers["Allow"].split(", ")[0] in operations
            assert response.status_code == 405

    def test_every_operation_has_a_name_and_says_what_it_does(self):
        paths = document(urls.urlpatterns)["paths"]
        operations = [told for item in paths.values() for method, told in item.items() if method != "parameters"]
        ids = [told["operationId"] for told in operations]
        assert len(set(ids)) == len(ids)
        assert all(told["summary"] and told["responses"] for told in operations)

    def test_its_shapes_are_json_schema_and_those_of_events_have_their_fields(self):
        shapes = document(urls.urlpatterns)["components"]["schemas"]
        for shape in shapes.values():
            Draft202012Validator.check_schema(shape)
        for name, event in (("Message", MessageCreated), ("Chunk", StreamUpdate)):
            fields = {key: optional for _, key, optional in wire_names(event)}
            assert set(shapes[name]["properties"]) == set(fields)
            assert set(shapes[name]["required"]) == {key for key, optional in fields.items() if not optional}

    def test_every_shape_that_it_refers_to_is_there_and_used(self):
        told = document(urls.urlpatterns)
        referred = set(references(told))
        assert referred == set(told["components"]["schemas"])

    @override_settings(CONVERSE_MESSAGE_LIMIT=7, CONVERSE_CLIENT_PROVIDERS=("other",), SESSION_COOKIE_NAME="sid")
    def test_it_has_the_limits_and_names_of_this_site(self):
        components = document(urls.urlpatterns)["components"]
        turn = components["schemas"]["Turn"]["properties"]
        assert turn["content"]["maxLength"] == 7
        assert "other" in turn["provider"]["enum"]
        assert components["securitySchemes"]["session"]["name"] == "sid"
        assert components["securitySchemes"]["csrf"]["name"] == "X-Csrftoken"

    def test_everybody_may_read_it_where_the_site_has_it(self):
        response = Client().get(reverse("converse:openapi"))
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == document(urls.urlpatterns, "/converse")
        assert response.json()["servers"] == [{"url": "/converse"}]


def references(told):
    """Give the names of all shapes that are referred to in a document."""
    if isinstance(told, dict):
        if "$ref" in told:
            yield told["$ref"].rpartition("/")[2]
        for value in told.values():
            yield from references(value)
    elif isinstance(told, list):
        for value in told:
            yield from references(value)
