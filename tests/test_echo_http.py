from __future__ import annotations

import hashlib
import hmac
import json
from time import time
from urllib.parse import urlencode
from uuid import uuid4

from django.contrib.auth.models import User
from django.test import SimpleTestCase, TestCase, override_settings
from django.urls import reverse

from converse.checks import check_settings
from converse.choices import ParticipantRole
from converse.models import Conversation
from converse.transports.pusher.protocol import channel_text, sign, user_text
from tests.test_echo import EchoTestCase

SOCKET = "123.456"
SECRET = "a-secret-of-32-characters-or-more"


class AuthTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = User.objects.create_user("ada", first_name="Ada")
        cls.conversation = Conversation.objects.start(cls.user)
        cls.name = f"private-conversation.{cls.conversation.uuid}"

    def ask(self, path="/broadcasting/auth", user=True, headers=None, **form):
        if user:
            self.client.force_login(self.user if user is True else user)
        asked = {"socket_id": SOCKET, "channel_name": self.name, **form}
        return self.client.post(
            path, {key: value for key, value in asked.items() if value is not None}, headers=headers
        )

    def test_who_may_follow_gets_a_signature_for_this_socket(self):
        for path in ("/broadcasting/auth", "/pusher/auth", reverse("converse_echo:auth")):
            answer = self.ask(path)
            assert answer.status_code == 200
            told = answer.json()
            assert told["auth"] == sign(channel_text(SOCKET, self.name, told["channel_data"]))
            me = {"id": str(self.user.pk), "name": "Ada"}
            assert json.loads(told["channel_data"]) == {"user_id": me["id"], "user_info": me}
            assert "no-store" in answer.headers["Cache-Control"]

    def test_presence_and_doubled_names_are_signed_as_they_were_asked(self):
        for name in (f"private-{self.name}", self.name.replace("private", "presence")):
            told = self.ask(channel_name=name).json()
            assert told["auth"] == sign(channel_text(SOCKET, name, told["channel_data"]))

    def test_json_is_taken_too(self):
        self.client.force_login(self.user)
        body = {"socket_id": SOCKET, "channel_name": self.name, "resume": {self.name: "3-ab"}}
        answer = self.client.post("/broadcasting/auth", body, content_type="application/json")
        assert json.loads(answer.json()["channel_data"])["after"] == "3-ab"

    def test_a_foreign_and_a_missing_conversation_look_the_same(self):
        eve = User.objects.create_user("eve")
        foreign = self.ask(user=eve)
        missing = self.ask(user=eve, channel_name=f"private-conversation.{uuid4()}")
        unknown = self.ask(user=eve, channel_name="news")
        assert foreign.status_code == missing.status_code == unknown.status_code == 403
        assert foreign.content == missing.content == unknown.content
        assert foreign.headers["Content-Type"] == "application/problem+json"

    def test_who_is_not_signed_in_is_refused_in_json_and_not_sent_elsewhere(self):
        for path in ("/broadcasting/auth", "/broadcasting/user-auth"):
            answer = self.ask(path, user=None)
            assert answer.status_code == 403
            assert answer.json()["detail"] == "Nobody is signed in."

    def test_who_lost_the_right_gets_no_more_signatures(self):
        friend = User.objects.create_user("bob")
        self.conversation.share_with(friend, role=ParticipantRole.READ)
        assert self.ask(user=friend).status_code == 200
        self.conversation.unshare_with(friend)
        assert self.ask(user=friend).status_code == 403

    def test_pages_of_other_sites_are_refused_and_no_token_is_needed(self):
        client = self.client_class(enforce_csrf_checks=True)
        client.force_login(self.user)
        form = {"socket_id": SOCKET, "channel_name": self.name}
        for path in ("/broadcasting/auth", "/broadcasting/user-auth"):
            for origin in ("http://evil.example", "null", ""):
                refused = client.post(path, form, headers={"Origin": origin})
                assert (refused.status_code, refused.json()["field"]) == (403, "Origin")
            assert client.post(path, form, headers={"Origin": "http://testserver"}).status_code == 200
            assert client.post(path, form).status_code == 200

    def test_what_is_wrong_is_named(self):
        for form, field in (
            ({"socket_id": None}, "socket_id"),
            ({"socket_id": "1"}, "socket_id"),
            ({"socket_id": "1.2:private-x"}, "socket_id"),
            ({"socket_id": "1.2\n"}, "socket_id"),
            ({"resume": "nonsense"}, "resume"),
            ({"resume": "[]"}, "resume"),
            ({"resume": json.dumps({self.name: 7})}, "resume"),
            ({"resume": json.dumps({self.name: "7"})}, "resume"),
        ):
            answer = self.ask(**form)
            assert (answer.status_code, answer.json()["field"]) == (400, field), form
        for form in ({"channel_name": None}, {"channel_name": ""}, {"channel_name": "é"}):
            assert self.ask(**form).status_code == 403
        self.client.force_login(self.user)
        for body in ("[]", "nonsense", b"\xff"):
            answer = self.client.post("/broadcasting/auth", body, content_type="application/json")
            assert answer.status_code == 400
        answer = self.client.post(
            "/broadcasting/auth",
            {"socket_id": SOCKET, "channel_name": self.name, "resume": []},
            content_type="application/json",
        )
        assert answer.status_code == 200
        answer = self.client.post(
            "/broadcasting/auth",
            {"socket_id": SOCKET, "channel_name": self.name, "resume": 7},
            content_type="application/json",
        )
        assert answer.json()["field"] == "resume"

    def test_only_the_cursor_of_this_channel_is_signed(self):
        cursors = {"private-other": "9-xy", self.name: "3-ab"}
        assert json.loads(self.ask(resume=json.dumps(cursors)).json()["channel_data"])["after"] == "3-ab"
        for nothing in ("{}", '{"private-other":"nonsense"}', json.dumps({self.name: None}), ""):
            assert "after" not in json.loads(self.ask(resume=nothing).json()["channel_data"])

    def test_it_is_posted_to(self):
        self.client.force_login(self.user)
        assert self.client.get("/broadcasting/auth").status_code == 405

    def test_it_takes_few_queries(self):
        self.client.force_login(self.user)
        with self.assertNumQueries(3):  # the session, the user, the conversation
            self.client.post("/broadcasting/auth", {"socket_id": SOCKET, "channel_name": self.name})

    def test_who_somebody_is_is_signed_for_this_socket(self):
        for path in ("/broadcasting/user-auth", "/pusher/user-auth"):
            told = self.ask(path).json()
            assert told["auth"] == sign(user_text(SOCKET, told["user_data"]))
            assert json.loads(told["user_data"])["id"] == str(self.user.pk)

    def test_users_have_a_channel_of_their_own_and_none_of_others(self):
        assert self.ask(channel_name=f"private-user.{self.user.pk}").status_code == 200
        assert self.ask(channel_name=f"private-user.{self.user.pk + 1}").status_code == 403


@override_settings(CONVERSE_ECHO_SECRET=SECRET)
class PublishTests(EchoTestCase):
    def signed(self, path, body, secret=SECRET, **changes):
        """Give the address that a library of Pusher's posts to."""
        query = {
            "auth_key": "converse",
            "auth_timestamp": str(int(time())),
            "auth_version": "1.0",
            "body_md5": hashlib.md5(body).hexdigest(),
            **changes,
        }
        text = "&".join(f"{name}={query[name]}" for name in sorted(query))
        query["auth_signature"] = hmac.new(secret.encode(), f"POST\n{path}\n{text}".encode(), "sha256").hexdigest()
        return f"{path}?{urlencode(query)}"

    async def publish(self, body, path="/apps/converse/events", sent=None, **changes):
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = self.signed(path, text, **changes)
        return await self.async_client.post(url, sent or text, content_type="application/json")

    def event(self, **changes):
        return {"name": "order", "data": '{"n":1}', "channel": self.name, **changes}

    async def test_what_is_published_reaches_those_who_follow(self):
        async with self.following() as ada, self.following(self.room, user=self.friend) as bob:
            answer = await self.publish(self.event())
            assert (answer.status_code, answer.json()) == (200, {})
            assert await ada.event("order", self.name) == {"n": 1}
            both = {"name": "order", "data": "plain", "channels": [self.name, self.room]}
            assert (await self.publish(both)).status_code == 200
            assert await ada.event("order", self.name) == "plain"
            assert await bob.event("order", self.room) == "plain"
            assert not ada.frames

    async def test_a_socket_is_left_out(self):
        async with self.following() as ada, self.following() as tab:
            await self.publish(self.event(socket_id=ada.socket_id))
            await tab.event("order")
            await ada.alive()
            assert not ada.frames

    async def test_a_user_is_sent_to(self):
        own = f"private-user.{self.user.pk}"
        async with self.following(own) as ada:
            assert (await self.publish(self.event(channel=own))).status_code == 200
            await ada.event("order", own)

    async def test_several_at_once(self):
        async with self.following() as ada:
            batch = {"batch": [self.event(data=str(number)) for number in range(10)]}
            answer = await self.publish(batch, "/apps/converse/batch_events")
            assert answer.json() == {"batch": [{}] * 10}
            assert [await ada.event("order") for _ in range(10)] == list(range(10))

    async def test_a_batch_is_all_or_nothing(self):
        path = "/apps/converse/batch_events"
        async with self.following() as ada:
            for batch in ([self.event()] * 11, [self.event(), self.event(name="StreamUpdate")], [7], "x", None):
                assert (await self.publish({"batch": batch}, path)).status_code == 422
            await ada.alive()
            assert not ada.frames

    async def test_only_who_has_the_secret_may(self):
        body = self.event()
        for changes in (
            {"secret": "other"},
            {"auth_key": "other"},
            {"body_md5": "0" * 32},
            {"sent": json.dumps(self.event(data="{}")).encode()},
            {"auth_timestamp": str(int(time()) - 700)},
            {"auth_timestamp": str(int(time()) + 700)},
            {"auth_timestamp": "x"},
            {"auth_timestamp": "²"},
            {"auth_timestamp": "9" * 5000},
            {"auth_timestamp": ""},
        ):
            answer = await self.publish(body, **changes)
            assert answer.status_code == 401, changes
        for query in ("", "?auth_signature=é", "?auth_signature=", "?auth_signature=%00"):
            answer = await self.async_client.post(
                f"/apps/converse/events{query}", body, content_type="application/json"
            )
            assert answer.status_code == 401

    async def test_a_signature_for_one_path_is_none_for_another(self):
        text = json.dumps(self.event()).encode()
        url = self.signed("/apps/converse/batch_events", text).replace("batch_events", "events")
        assert (await self.async_client.post(url, text, content_type="application/json")).status_code == 401

    async def test_without_a_secret_of_its_own_nobody_may(self):
        with override_settings(CONVERSE_ECHO_SECRET=""):
            assert (await self.publish(self.event())).status_code == 404
        assert (await self.publish(self.event(), "/apps/other/events")).status_code == 404

    async def test_the_log_is_not_to_be_forged(self):
        for name in (
            "StreamUpdate",
            "App\\Events\\StreamUpdate",
            "App.Events.MessageCompleted",
            "App\\Events\\message\\created",
            "message.created",
            "chunk.received",
            "x\\MessageDeleted",
            "Snapshot",
            "Whispered",
            "Typing",
            "client-typing",
            "pusher:error",
            "pusher_internal:member_added",
            "",
            "x" * 201,
            "half \ud800",
            7,
            None,
        ):
            answer = await self.publish(self.event(name=name))
            assert (answer.status_code, answer.json()["field"]) == (422, "name"), name

    async def test_what_is_wrong_is_named(self):
        for changes, status, field in (
            ({"data": "é" * 5001}, 413, "data"),
            ({"data": {"n": 1}}, 422, "data"),
            ({"data": None}, 422, "data"),
            ({"data": "\ud800"}, 422, "data"),
            ({"channel": "news"}, 422, "channel"),
            ({"channel": None}, 422, "channel"),
            ({"channels": []}, 422, "channels"),
            ({"channels": [self.name] * 101}, 422, "channels"),
            ({"channels": [self.name, 7]}, 422, "channels"),
            ({"socket_id": "x"}, 422, "socket_id"),
            ({"socket_id": 7}, 422, "socket_id"),
        ):
            answer = await self.publish(self.event(**changes))
            assert (answer.status_code, answer.json()["field"]) == (status, field), changes
        for body in (b"", b"[]", b"nonsense", b"\xff"):
            assert (await self.publish(body)).status_code == 422, body

    async def test_to_nobody_is_no_error(self):
        missing = f"private-conversation.{uuid4()}"
        assert (await self.publish(self.event(channel=missing))).status_code == 200


class CheckTests(SimpleTestCase):
    def test_settings_that_are_wrong_are_named_and_no_secret_is_shown(self):
        for name, value, number in (
            ("KEY", "a/b", "E080"),
            ("KEY", "", "E080"),
            ("KEY", None, "E080"),
            ("SECRET", "hush", "E081"),
            ("SECRET", b"hush-hush-hush-hush", "E081"),
            ("NAMESPACE", None, "E082"),
            ("ALIASES", "yes", "E083"),
        ):
            with override_settings(**{f"CONVERSE_ECHO_{name}": value}):
                [message] = check_settings(app_configs=None)
                assert message.id == f"converse.{number}"
                assert "hush" not in message.msg

    def test_the_defaults_and_a_long_secret_are_fine(self):
        with override_settings(CONVERSE_ECHO_SECRET=SECRET):
            assert not list(check_settings(app_configs=None))
