"""Whatever the OpenAPI document lets be sent, and what it does not, by schemathesis: each answer is one that it has."""

from __future__ import annotations

import logging
import os

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from django.test import Client, override_settings
from hypothesis import HealthCheck, given, settings

from converse import urls
from converse.events import camel
from converse.models import Conversation
from converse.views.api.elsewhere import ELSEWHERE
from converse.views.api.openapi import document
from tests import samples
from tests.apis import ApiTestCase
from tests.samples import StorageTestCase

schemathesis = pytest.importorskip("schemathesis", reason="no schemathesis")

EXAMPLES = int(os.environ.get("CONVERSE_TEST_EXAMPLES", "10"))  # of each operation, and as many that it should refuse
TOKEN = "x" * 32
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "allow_header_conformance",
)


@override_settings(CONVERSE_POLICY="allow", CONVERSE_MESSAGE_LIMIT=1000)
class FuzzingTests(StorageTestCase, ApiTestCase):
    """Each operation, asked by a user for what is there and what is not theirs."""

    def setUp(self):
        super().setUp()
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)
        for signal in (request_started, request_finished):  # as Django's own client does
            signal.disconnect(close_old_connections)
            self.addCleanup(signal.connect, close_old_connections)
        reply = self.conversation.reply("Hi")
        growing = self.conversation.start_streaming_assistant()
        growing.append_chunk("Hel")
        self.conversation.share_with(self.bob, "write")
        places = {
            "uuid": (self.conversation.uuid, Conversation.objects.start(self.eve).uuid),
            "message": (reply.reply_to.uuid, reply.uuid, growing.uuid),
            "attachment": (self.conversation.attach(samples.PNG).uuid,),
            "user": (self.bob.pk, "nobody"),
        }
        told = document(urls.urlpatterns, "/converse")
        elsewhere = {operation.name for operations in ELSEWHERE.values() for operation in operations.values()}
        for item in told["paths"].values():
            for place in item.get("parameters", ()):  # by chance it would hardly ever be one that is there
                place["schema"] = {"type": "string", "enum": [str(value) for value in places.get(place["name"], "x")]}
        # Streams have no end, files are bytes, and other protocols have tests of their own.
        elsewhere.add("download_attachment")
        told["paths"] = {
            path: _without(item, {camel(name) for name in elsewhere}) for path, item in told["paths"].items()
        }
        config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
        self.schema = schemathesis.openapi.from_dict(told, config=config)
        self.schema.app = WSGIHandler()
        client = Client()
        client.force_login(self.ada)
        self.signed_in = {"sessionid": client.cookies["sessionid"].value, "csrftoken": TOKEN}
        self.statuses = set()

    def operations(self):
        return [found.ok() for found in self.schema.get_all_operations()]

    def ask(self, operation, mode, *checks):
        chosen = schemathesis.checks.CHECKS.get_by_names(list(checks))

        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode))
        def run(case):
            with transaction.atomic():
                response = case.call(cookies=self.signed_in, headers={"X-CSRFToken": TOKEN})
                transaction.set_rollback(True)
            self.statuses.add((operation.label.split()[0], response.status_code))
            case.validate_response(response, checks=chosen)

        run()

    def test_what_may_be_sent_is_answered_as_the_document_says(self):
        for operation in self.operations():
            with self.subTest(operation.label):
                self.ask(operation, schemathesis.GenerationMode.POSITIVE, *CHECKS)
        done = {("GET", 200), ("POST", 200), ("POST", 201), ("PATCH", 200), ("DELETE", 204)}
        assert self.statuses >= done  # or it was kept out

    def test_what_may_not_be_sent_is_refused_as_the_document_says(self):
        for operation in self.operations():
            if "requestBody" in operation.definition.raw or operation.definition.raw.get("parameters"):
                with self.subTest(operation.label):
                    self.ask(operation, schemathesis.GenerationMode.NEGATIVE, *CHECKS)


def _without(item, names):
    return {method: told for method, told in item.items() if method == "parameters" or told["operationId"] not in names}
