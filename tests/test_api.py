from __future__ import annotations

import json
from datetime import timedelta
from unittest.mock import AsyncMock, patch
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.test import AsyncClient, AsyncRequestFactory, Client, override_settings
from django.urls import resolve, reverse
from django.utils import timezone

from converse.listing import read_place, write_place
from converse.models import Conversation
from tests.apis import ApiTestCase
from tests.owners.models import Team

HTML = "<script>alert(1)</script>"


def of_team(user):
    """Start conversations of clients for their team."""
    if user.username == "eve":
        raise PermissionDenied
    return {"owner": Team.objects.get(), "metadata": {"plan": "gold"}}


def of_all_teams(user):
    return Conversation.all_objects.all()


def only_plans(user, action, conversation):
    return user.is_authenticated and conversation.title == "Plans"


def failing(user):
    raise ZeroDivisionError


class StartingTests(ApiTestCase):
    def test_a_client_starts_a_conversation_of_its_own(self):
        response = self.ask("POST", "conversations", body={"title": "Sky"})
        assert response.status_code == 201
        conversation = Conversation.objects.get(title="Sky")
        assert conversation.owner == self.ada
        assert response.json()["conversationId"] == str(conversation.uuid)
        assert response.headers["Location"] == reverse("converse:conversation", args=[conversation.uuid])
        assert self.client.get(response.headers["Location"]).json() == response.json()

    def test_it_needs_no_title_and_no_body(self):
        for body in (None, {}, {"title": None}, {"title": ""}):
            assert self.ask("POST", "conversations", body=body).json()["title"] == ""

    def test_what_the_server_keeps_to_itself_is_not_the_clients_to_say(self):
        for field in ("metadata", "context", "owner", "uuid", "x" * 1000):
            refused = self.refused("POST", "conversations", body={"title": "Sky", field: {"plan": "gold"}})
            assert refused == (400, "invalid", field[:100])
        assert Conversation.objects.count() == 1

    def test_a_title_that_cannot_be_is_named(self):
        for title in ("x" * 256, 7, ["x"], "a\x00b", "\ud800"):
            assert self.refused("POST", "conversations", body={"title": title}) == (400, "invalid", "title")

    def test_html_in_a_title_is_text(self):
        response = self.ask("POST", "conversations", body={"title": HTML})
        assert response.json()["title"] == HTML
        assert response.headers["Content-Type"] == "application/json"

    @override_settings(CONVERSE_CLIENT_CONVERSATION="tests.test_api.of_team")
    def test_a_rule_of_the_site_says_how_it_is_started(self):
        team = Team.objects.create(name="Team")
        started = self.ask("POST", "conversations", body={"title": "Ours"}).json()["conversationId"]
        conversation = Conversation.objects.get(uuid=started)
        assert (conversation.owner, conversation.title, conversation.metadata) == (team, "Ours", {"plan": "gold"})
        assert self.refused("POST", "conversations", client=self.as_(self.eve)) == (403, "forbidden", None)

    def test_a_fault_of_the_server_is_not_told_as_the_clients(self):
        client = Client(raise_request_exception=False)
        client.force_login(self.ada)
        with self.settings(CONVERSE_CLIENT_CONVERSATION="tests.test_api.failing"):
            response = client.post(reverse("converse:conversations"), {}, "application/json")
        assert response.status_code == 500
        assert b"ZeroDivision" not in response.content

    async def test_it_is_all_the_same_under_asgi_and_where_requests_are_transactions(self):
        client = AsyncClient()
        await client.aforce_login(self.ada)
        with patch.dict(settings.DATABASES["default"], {"ATOMIC_REQUESTS": True}):
            response = await client.post(reverse("converse:conversations"), {"title": "Sky"}, "application/json")
            assert response.status_code == 201
            response = await client.get(reverse("converse:conversations"))
        assert [row["title"] for row in response.json()["conversations"]] == ["Sky", "Plans"]


class ListingTests(ApiTestCase):
    def titles(self, client=None, **query):
        return [row["title"] for row in self.page(client, **query)["conversations"]]

    def page(self, client=None, **query):
        return self.ask("GET", "conversations", query=query, client=client).json()

    def started(self, count, **when):
        now = timezone.now()
        for number in range(count):
            conversation = Conversation.objects.start(self.ada, title=f"Number {number}")
            at = now - timedelta(days=1) if when.get("at_once") else now - timedelta(days=number + 1)
            Conversation.objects.filter(pk=conversation.pk).update(last_activity_at=at)

    def test_own_and_shared_ones_are_listed_with_the_latest_first(self):
        shared = Conversation.objects.start(self.bob, title="Bob's")
        Conversation.objects.start(self.bob, title="Secret")
        shared.share_with(self.ada, "read")
        self.conversation.share_with(self.ada, "owner")  # twice hers, and told once
        assert self.titles() == ["Bob's", "Plans"]
        self.conversation.create_user_message("Hello!")
        assert self.titles() == ["Plans", "Bob's"]
        shared.unshare_with(self.ada)
        assert self.titles() == ["Plans"]

    def test_pages_have_each_once_whatever_is_started_meanwhile(self):
        for at_once in (False, True):
            Conversation.objects.all().delete()
            self.started(7, at_once=at_once)
            seen, cursor = [], {}
            while True:
                page = self.page(limit=3, **cursor)
                seen += [row["title"] for row in page["conversations"]]
                if page["next"] is None:
                    break
                cursor = {"cursor": page["next"]}
                Conversation.objects.start(self.ada, title="New")
            assert sorted(seen) == [f"Number {number}" for number in range(7)]

    def test_a_page_goes_on_where_the_last_one_was_purged(self):
        self.started(3)
        page = self.page(limit=2)
        Conversation.objects.get(uuid=page["conversations"][-1]["conversationId"]).purge()
        assert self.titles(limit=2, cursor=page["next"]) == ["Number 1", "Number 2"]

    def test_a_cursor_that_was_not_given_is_refused(self):
        good = write_place(timezone.now(), uuid4())
        naive = write_place(timezone.now().replace(tzinfo=None), uuid4())
        early = write_place(timezone.now().replace(year=1), uuid4())
        elsewhere = write_place(timezone.now().astimezone(timezone.get_fixed_timezone(60)), uuid4())
        for cursor in (naive, early, elsewhere, good + "=", good[:-1], good[1:], "x", "é", "%00", "a" * 101, " "):
            assert self.refused("GET", "conversations", query={"cursor": cursor}) == (400, "invalid", "cursor"), cursor
        assert self.page(cursor=good)["next"] is None

    def test_without_time_zones_a_cursor_has_none(self):
        naive = timezone.now().replace(tzinfo=None), uuid4()
        with self.settings(USE_TZ=False):
            assert read_place(write_place(*naive)) == naive

    def test_a_forged_cursor_shows_nothing_of_others(self):
        secret = Conversation.objects.start(self.bob, title="Secret")
        forged = write_place(secret.last_activity_at, secret.uuid)
        assert self.titles(cursor=forged) == ["Plans"]

    def test_titles_are_searched(self):
        Conversation.objects.start(self.ada, title="100% cotton").create_user_message("plans")
        assert self.titles(search="PLAN") == ["Plans"]
        assert self.titles(search="%") == ["100% cotton"]
        assert self.titles(search="_") == self.titles(search="' OR 1=1 --") == []

    def test_the_bin_has_what_may_be_brought_back(self):
        self.conversation.share_with(self.bob, "write")
        self.conversation.share_with(self.eve, "owner")
        self.conversation.delete()
        assert self.titles() == []
        assert self.titles(deleted="true") == self.titles(self.as_(self.eve), deleted="true") == ["Plans"]
        assert self.titles(self.as_(self.bob), deleted="true") == []

    def test_a_parameter_that_cannot_be_is_named(self):
        for query in (
            *({"limit": limit} for limit in ("0", "101", "-1", "x", "", "1.5", "١", "9" * 5000)),
            *({"deleted": deleted} for deleted in ("1", "TRUE", "")),
            *({"search": search} for search in ("x" * 256, "a\x00b")),
            {"page": "2"},
            {"limit": ["1", "2"]},
        ):
            assert self.refused("GET", "conversations", query=query) == (400, "invalid", *query)

    def test_nobody_lists_or_starts_anything(self):
        for method in ("GET", "POST"):
            response = self.ask(method, "conversations", client=Client())
            assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
            assert response.headers["WWW-Authenticate"] == "Session"
        self.ada.is_active = False
        with patch("django.contrib.auth.middleware.auser", return_value=self.ada):
            assert self.refused("GET", "conversations") == (401, "unauthenticated", None)

    @override_settings(CONVERSE_CLIENT_LIST="tests.test_api.of_all_teams")
    def test_a_rule_of_the_site_says_what_is_listed(self):
        Conversation.objects.start(self.bob, title="Secret")
        assert self.titles() == ["Plans"]

    @override_settings(CONVERSE_AUTHORIZE="tests.test_api.only_plans")
    def test_what_the_sites_rule_does_not_let_in_is_not_listed(self):
        Conversation.objects.start(self.ada, title="Secret")
        assert self.titles() == ["Plans"]

    def test_a_user_who_is_no_row_owns_nothing(self):
        class Robot(AnonymousUser):
            is_authenticated = is_active = True

        with patch("django.contrib.auth.middleware.auser", return_value=Robot()):
            assert self.titles() == []

    def test_a_page_costs_the_same_however_long(self):
        self.started(5)
        for number in range(5):
            Conversation.objects.start(self.bob, title=f"Bob's {number}").share_with(self.ada)
        url = reverse("converse:conversations")
        for limit in (1, 10):
            with self.assertNumQueries(4):  # session, user, own, shared
                page = self.client.get(url, {"limit": limit}).json()
        assert page["next"]
        with self.assertNumQueries(5):  # and where the cursor is
            self.client.get(url, {"cursor": page["next"]})


class DoorTests(ApiTestCase):
    """What holds at each door."""

    def test_another_method_is_refused_with_those_that_there_are(self):
        for name, args, allowed in (
            ("conversations", [], "GET, POST, HEAD"),
            ("conversation", [self.conversation.uuid], "GET, PATCH, DELETE, HEAD"),
            ("restore", [self.conversation.uuid], "POST"),
        ):
            for method in ("PUT", "OPTIONS", "TRACE", "PURGE"):
                response = self.client.generic(method, reverse(f"converse:{name}", args=args))
                assert (response.status_code, response.json()["code"]) == (405, "method")
                assert response.headers["Allow"] == allowed

    def test_head_is_get_without_the_body(self):
        response = self.client.head(reverse("converse:conversations"))
        assert (response.status_code, response.content) == (200, b"")

    def test_a_body_that_is_none_is_refused(self):
        for body in (b"{", b"[]", b"7", b"null", b'{"title": NaN}', b"\xff", b"[" * 100_000, b'"x"', b"9" * 5000):
            assert self.refused("POST", "conversations", body=body) == (400, "bad_json", None), body[:20]
        assert Conversation.objects.count() == 1

    def test_a_body_of_another_type_is_refused(self):
        for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
            refused = self.refused("POST", "conversations", body={"title": "x"}, content_type=content_type)
            assert refused == (415, "type", None)
        assert self.ask("POST", "conversations", body={}, content_type="application/json; charset=utf-8")

    def test_a_huge_body_is_refused_before_it_is_read(self):
        with self.settings(CONVERSE_FRAME_LIMIT=100):
            assert self.refused("POST", "conversations", body={"title": "x" * 100}) == (413, "too_large", None)

    async def test_a_huge_body_of_unknown_length_is_read_to_the_limit_only(self):
        client = AsyncClient()
        await client.aforce_login(self.ada)
        with self.settings(CONVERSE_FRAME_LIMIT=100):
            for title, status in (("x" * 100, 413), ("x", 201)):
                body = json.dumps({"title": title})
                response = await client.generic(
                    "POST", reverse("converse:conversations"), body, "application/json", CONTENT_LENGTH=""
                )
                assert response.status_code == status, response.content

    def test_another_site_cannot_act_in_a_users_name(self):
        client = Client(enforce_csrf_checks=True)
        client.force_login(self.ada)
        uuid = self.conversation.uuid
        for method, name, args in (
            ("POST", "conversations", []),
            ("PATCH", "conversation", [uuid]),
            ("DELETE", "conversation", [uuid]),
            ("POST", "messages", [uuid]),
            ("POST", "participants", [uuid]),
            ("DELETE", "participant", [uuid, self.bob.pk]),
        ):
            assert self.refused(method, name, *args, client=client) == (403, "csrf", None)
        client.cookies["csrftoken"] = token = "x" * 32
        evil = {"X-CSRFToken": token, "Origin": "https://evil.example"}
        assert self.refused("POST", "conversations", client=client, headers=evil) == (403, "csrf", None)
        assert Conversation.objects.get().title == "Plans"
        good = {"X-CSRFToken": token, "Origin": "http://testserver"}
        assert self.ask("POST", "conversations", client=client, headers=good).status_code == 201
        assert self.ask("GET", "conversations", client=client).status_code == 200

    async def test_who_authenticates_without_cookies_may_say_that_nothing_can_be_forged(self):
        request = AsyncRequestFactory().post("/", {"title": "Sky"}, "application/json")
        request._dont_enforce_csrf_checks = False
        request.auser = AsyncMock(return_value=self.ada)
        view = resolve(reverse("converse:conversations")).func
        assert (await view(request)).status_code == 403
        request.csrf_processing_done = True
        assert (await view(request)).status_code == 201

    def test_an_address_that_cannot_be_is_missing(self):
        for path in ("conversations/1/", "conversations/x/messages/", f"conversations/{self.conversation.uuid}/x/"):
            response = self.client.get(f"/converse/{path}")
            assert (response.status_code, response.json()["code"]) == (404, "not_found")
        assert self.client.get("/converse/conversations").status_code == 301


class ConversationTests(ApiTestCase):
    def test_a_conversation_is_given_renamed_deleted_and_brought_back(self):
        uuid = self.conversation.uuid
        assert self.ask("GET", "conversation", uuid).json()["title"] == "Plans"
        renamed = self.ask("PATCH", "conversation", uuid, body={"title": "Dreams"}).json()
        assert (renamed["title"], renamed["head"]) == ("Dreams", 2)
        assert self.ask("DELETE", "conversation", uuid).status_code == 204
        for method in ("GET", "DELETE"):
            assert self.refused(method, "conversation", uuid) == (404, "not_found", None)
        back = self.ask("POST", "restore", uuid).json()
        assert (back["title"], back["deletedAt"]) == ("Dreams", None)
        assert back == self.ask("GET", "conversation", uuid).json()
        assert self.refused("POST", "restore", uuid) == (404, "not_found", None)

    def test_a_title_that_cannot_be_changes_nothing(self):
        for body in ({}, {"title": None}, {"title": 1}, {"title": "x" * 256}):
            refused = self.refused("PATCH", "conversation", self.conversation.uuid, body=body)
            assert refused == (400, "invalid", "title")
        assert Conversation.objects.get().title == "Plans"

    def test_each_may_do_what_their_role_says(self):
        self.conversation.share_with(self.bob, "read")
        bob, uuid = self.as_(self.bob), self.conversation.uuid
        assert self.ask("GET", "conversation", uuid, client=bob).status_code == 200
        for method, body in (("PATCH", {"title": "Bob's"}), ("DELETE", None)):
            assert self.refused(method, "conversation", uuid, body=body, client=bob)[0] == 404
        self.conversation.share_with(self.bob, "write")
        assert self.ask("PATCH", "conversation", uuid, body={"title": "Bob's"}, client=bob).status_code == 200
        assert self.refused("DELETE", "conversation", uuid, client=bob)[0] == 404
        self.conversation.delete()
        assert self.refused("POST", "restore", uuid, client=bob)[0] == 404
        self.conversation.share_with(self.bob, "owner")
        assert self.ask("POST", "restore", uuid, client=bob).status_code == 200
        assert self.ask("DELETE", "conversation", uuid, client=bob).status_code == 204

    def test_foreign_and_missing_look_the_same_to_everybody(self):
        deleted = Conversation.objects.start(self.bob)
        deleted.delete()
        for method, name, body in (
            ("GET", "conversation", None),
            ("PATCH", "conversation", {"title": "Mine"}),
            ("DELETE", "conversation", None),
            ("POST", "restore", None),
        ):
            answers = {
                self.ask(method, name, uuid, body=body, client=client).content
                for client in (self.as_(self.eve), Client())
                for uuid in (self.conversation.uuid, deleted.uuid, uuid4())
            }
            assert len(answers) == 1

    def test_names_of_users_are_not_told_with_it(self):
        User.objects.filter(pk=self.ada.pk).update(email="ada@example.com")
        assert "ada" not in self.ask("GET", "conversation", self.conversation.uuid).content.decode()
