from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from converse.models import Conversation, Message, ProviderCall
from tests.accounts import COUNTS, call_of, reply_in
from tests.owners.models import Project, Team


@override_settings(TIME_ZONE="UTC")
class AdminTests(TestCase):
    LIST = reverse("admin:converse_providercall_changelist")

    @classmethod
    def setUpTestData(cls):
        cls.boss = get_user_model().objects.create_superuser("boss")
        cls.team = Team.objects.create(name="Blue")
        cls.conversation = Conversation.objects.start(cls.team)
        cls.message = reply_in(cls.conversation)
        cls.call = call_of(
            cls.message,
            started_at=datetime(2026, 11, 1, 12, tzinfo=UTC),
            first_delta_at=datetime(2026, 11, 1, 12, 0, 1, tzinfo=UTC),
            finished_at=datetime(2026, 11, 1, 12, 0, 3, tzinfo=UTC),
            **{**COUNTS, "cost": Decimal("1234.5678"), "usage": {"prompt_tokens": 1100}, "request_id": "r-1"},
        )

    def setUp(self):
        self.client.force_login(self.boss)
        for model in (Message, Team):  # remembered by every process that has served a page
            ContentType.objects.get_for_model(model)

    def page(self, url: str, **query: object) -> str:
        response = self.client.get(url, query)
        assert response.status_code == 200
        return response.content.decode()

    def listed(self, **query: object) -> list[ProviderCall]:
        return list(self.client.get(self.LIST, query).context["cl"].result_list)

    def test_the_list_says_what_calls_took_and_cost(self):
        page = self.page(self.LIST)
        for text in ("$1,234.567800", "1,100 in, 50 out", "3.0 s", ">completed</span>"):
            assert text in page, text
        assert "Add provider call" not in page
        assert 'name="action"' not in page

    def test_the_list_sums_all_that_is_listed_in_one_query_whatever_there_is(self):
        totals = (
            "<dt>calls</dt><dd>1</dd>",
            "<dt>cost</dt><dd>$1,234.567800</dd>",
            "<dt>input tokens</dt><dd>1,000</dd>",
        )
        assert all(text in self.page(self.LIST) for text in totals)
        assert "without a known cost" not in self.page(self.LIST)
        for count in (2, 60):
            for _ in range(count):
                call_of(self.message, "failed", provider="other", error_detail="x" * 500)
            # Session, user, two for the filters, count, rows, sums.
            with self.assertNumQueries(7) as queries:
                self.page(self.LIST)
        assert not any("error_detail" in query["sql"] for query in queries)
        page = self.page(self.LIST)
        assert "<dt>calls</dt><dd>63</dd>" in page
        assert "<dt>without a known cost</dt><dd>62</dd>" in page
        page = self.page(self.LIST, provider="other", outcome="failed")
        assert "<dt>calls</dt><dd>62</dd>" in page
        assert "<dt>cost</dt><dd>-</dd>" in page

    def test_calls_are_found_by_whom_and_what_they_are_of(self):
        call_of(reply_in(Conversation.objects.start()))
        for text in ("r-1", str(self.team.pk), str(self.message.uuid), str(self.conversation.uuid)):
            assert self.listed(q=text) == [self.call], text
        project = Project.objects.create()
        theirs = call_of(reply_in(Conversation.objects.start(project)))
        assert self.listed(q=str(project.pk)) == [theirs]
        assert self.listed(q="nobody") == []
        assert len(self.listed()) == 3
        assert self.listed(model="m-1", outcome__exact="running") == []

    def test_a_conversation_shows_what_it_cost_and_leads_to_its_calls(self):
        call_of(reply_in(Conversation.objects.start()))
        link = f'<a href="{self.LIST}?conversation__id__exact={self.conversation.pk}">$1,234.567800</a>'
        assert link in self.page(reverse("admin:converse_conversation_changelist"))
        assert link in self.page(reverse("admin:converse_conversation_change", args=[self.conversation.pk]))
        assert self.listed(conversation__id__exact=self.conversation.pk) == [self.call]

    def test_a_call_is_shown_whole_and_cannot_be_changed(self):
        ProviderCall.objects.update(error_type="overloaded", error_detail="<b>busy</b>")
        url = reverse("admin:converse_providercall_change", args=[self.call.pk])
        page = self.page(url)
        for text in (
            "&lt;b&gt;busy&lt;/b&gt;",
            "&quot;prompt_tokens&quot;: 1100",
            "r-1",
            "Blue (team)",
            "1.0 s",
            "3.0 s",
        ):
            assert text in page, text
        assert reverse("admin:converse_message_change", args=[self.message.pk]) in page
        assert 'name="_save"' not in page
        assert self.client.post(url, {"model": "x"}).status_code == 403
        delete = reverse("admin:converse_providercall_delete", args=[self.call.pk])
        assert self.client.get(delete).status_code == 403
        assert self.client.get(reverse("admin:converse_providercall_add")).status_code == 403

    def test_a_call_whose_message_is_gone_says_nothing_of_it(self):
        self.conversation.purge()
        Team.objects.all().delete()
        page = self.page(reverse("admin:converse_providercall_change", args=[self.call.pk]))
        assert f"team {self.call.owner_id}, gone" in page
        assert f"/admin/converse/message/{self.message.pk}" not in page

    def test_a_message_shows_its_calls(self):
        url = reverse("admin:converse_message_change", args=[self.message.pk])
        with CaptureQueriesContext(connection) as few:
            page = self.page(url)
        assert "$1,234.567800" in page
        assert reverse("admin:converse_providercall_change", args=[self.call.pk]) in page
        for _ in range(5):
            call_of(self.message, "failed", error_type="overloaded", error_detail="secret")
        with self.assertNumQueries(len(few)):
            page = self.page(url)
        assert page.count(">failed</span> overloaded") == 5
        assert "secret" not in page
        assert 'name="calls-MAX_NUM_FORMS" value="0"' in page
        assert 'name="calls-0-DELETE"' not in page
        asked = self.conversation.create_user_message("Hello")
        assert "calls-TOTAL_FORMS" not in self.page(reverse("admin:converse_message_change", args=[asked.pk]))

    def test_who_may_see_messages_only_sees_no_calls(self):
        user = get_user_model().objects.create(username="reader", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename="view_message"))
        self.client.force_login(user)
        assert "$1,234.567800" not in self.page(reverse("admin:converse_message_change", args=[self.message.pk]))
        assert self.client.get(self.LIST).status_code == 403
