from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import SkipTest, skipUnless
from unittest.mock import patch

import django
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.template import Context, RequestContext, Template
from django.test import RequestFactory, SimpleTestCase, TestCase, override_settings
from django.test.utils import override_script_prefix
from django.urls import path
from django.utils import translation
from django.utils.module_loading import import_string

from converse import labels
from converse.choices import ParticipantRole
from converse.models import Conversation
from converse.routing import websocket_urlpatterns
from converse.templatetags.converse import SOCKET

STATIC = Path(labels.__file__).parent / "static" / "converse"
NOWHERE = ModuleType("nowhere")
NOWHERE.urlpatterns = [path("x/", lambda request: None)]


class ChatTagTests(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        cls.ada = User.objects.create(username="ada")
        cls.ben = User.objects.create(username="ben")
        cls.conversation = Conversation.objects.start(cls.ada, metadata={"secret": "no"}, context={"secret": "no"})

    def request(self, user: Any = None) -> HttpRequest:
        request = RequestFactory().get("/")
        request.user = user or self.ada
        return request

    def render(self, arguments: str = "", request: HttpRequest | None = None, **context: Any) -> str:
        template = Template("{% load converse %}{% converse_chat conversation " + arguments + " %}")
        return template.render(
            RequestContext(request or self.request(), {"conversation": self.conversation, **context})
        )

    def attributes(self, *given: Any, **context: Any) -> dict[str, str]:
        """Give the element's attributes as a browser has them."""
        tag = re.search("<converse-chat(.*?)></converse-chat>", self.render(*given, **context), re.DOTALL)[1]
        return {name: unescape(value) for name, value in re.findall('([a-z-]+)="([^"]*)"', tag)}

    def test_the_element_knows_its_conversation_and_where_everything_is(self):
        found = self.attributes()
        assert found.pop("csrf-token")
        assert found == {
            "conversation": str(self.conversation.uuid),
            "url": "/converse/ws/",
            "base": "/converse/",
            "labels": "{}",
            "maxlength": "100000",
            "max-files": "10",
            "accept": found["accept"],
        }
        assert "image/png,image/jpeg" in found["accept"]

    def test_nothing_private_is_in_the_page(self):
        assert "secret" not in self.render()

    def test_words_may_be_ones_that_are_yet_to_be_translated(self):
        found = self.attributes("words=words", words={"send": translation.gettext_lazy("Yes")})
        assert json.loads(found["labels"])["send"] == "Yes"

    def test_the_script_is_a_module_of_ours(self):
        assert '<script type="module" src="/static/converse/chat.js"></script>' in self.render()

    def test_the_socket_is_where_the_routes_have_it(self):
        assert SOCKET in [str(route.pattern) for route in websocket_urlpatterns]

    @override_settings(STATIC_URL="/static/")  # else it would be remembered below that path
    def test_a_site_below_a_path_has_all_below_it(self):
        with override_script_prefix("/app/"):
            found = self.attributes()
        assert (found["url"], found["base"]) == ("/app/converse/ws/", "/app/converse/")

    def test_the_socket_can_be_elsewhere(self):
        assert self.attributes('url="wss://chat.example/ws/"')["url"] == "wss://chat.example/ws/"

    def test_further_arguments_are_attributes(self):
        found = self.attributes('smooth=True presence=False theme="dark" max_files=3 part=None')
        assert found["smooth"] == ""
        assert found["theme"] == "dark"
        assert found["max-files"] == "3"
        assert "presence" not in found
        assert "part" not in found

    def test_everything_is_escaped(self):
        evil = '"><script>alert(1)</script>'
        page = self.render("words=words theme=evil nonce=evil", evil=evil, words={"empty": evil})
        assert "<script>alert" not in page
        assert json.loads(self.attributes("words=words", words={"empty": evil})["labels"]) == {"empty": evil}

    def test_who_may_only_read_only_reads(self):
        self.conversation.share_with(self.ben, role=ParticipantRole.READ)
        assert "readonly" not in self.attributes()
        assert "readonly" in self.attributes("", self.request(self.ben))
        assert "readonly" in self.attributes("", self.request(AnonymousUser()))

    def test_without_a_request_it_is_for_somebody_unknown(self):
        template = Template("{% load converse %}{% converse_chat conversation %}")
        page = template.render(Context({"conversation": self.conversation}))
        assert "csrf-token" not in page
        assert "readonly" not in page
        assert "nonce" not in page

    def test_the_nonce_is_the_one_given_or_the_page_s_own(self):
        assert ' nonce="given"' in self.render('nonce="given"')
        assert ' nonce="context"' in self.render(csp_nonce="context")
        request = self.request()
        request.csp_nonce = "csp"  # as django-csp has it
        assert ' nonce="csp"' in self.render("", request)

    @skipUnless(django.VERSION >= (6, 0), "Django's own nonce came with 6.0")
    def test_django_s_own_nonce_is_found_before_anybody_asked_for_it(self):
        request = self.request()
        middleware = import_string("django.middleware.csp.ContentSecurityPolicyMiddleware")
        middleware(lambda _: None).process_request(request)
        nonce = re.search(' nonce="([^"]+)"', self.render("", request))[1]
        assert str(request._csp_nonce) == nonce

    def test_labels_are_in_the_reader_s_language_and_those_that_differ_only(self):
        with translation.override("de"), patch.dict(labels.LABELS, {"yes": "Yes", "no": "No"}):
            found = json.loads(self.attributes("words=words", words={"empty": "Los!"})["labels"])
        assert found["yes"] == "Ja"  # Django's own catalogue has these
        assert found["empty"] == "Los!"
        assert "typing" not in found

    def test_missing_routes_are_named(self):
        with override_settings(ROOT_URLCONF=NOWHERE), self.assertRaisesMessage(ImproperlyConfigured, "converse.urls"):
            self.render()


class LabelsTests(SimpleTestCase):
    def test_python_and_javascript_have_the_same(self):
        node = shutil.which("node")
        if node is None:
            raise SkipTest("no node")
        script = (
            f"import({json.dumps(str(STATIC / 'chat/labels.js'))}).then(m => console.log(JSON.stringify(m.LABELS)))"
        )
        done = subprocess.run([node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == labels.LABELS
