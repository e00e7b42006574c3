from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import TestCase, override_settings
from django.utils import timezone

from converse.accounting import Day
from converse.exceptions import InvalidMessage
from converse.models import Conversation, ProviderCall
from tests.accounts import VIENNA, call_of, reply_in
from tests.owners.models import Project, Team


class UsageTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ann")
        cls.team, cls.project = Team.objects.create(name="Blue"), Project.objects.create()
        cls.mine = Conversation.objects.start(cls.team)
        cls.theirs = Conversation.objects.start(cls.project)
        first, second = reply_in(cls.mine), reply_in(cls.theirs)
        for message, outcome, day, fields in (
            (first, "completed", 1, {"model": "a", "input_tokens": 10, "output_tokens": 1, "cost": Decimal("0.1")}),
            (first, "failed", 2, {"model": "a"}),
            (first, "completed", 2, {"model": "b", "input_tokens": 5, "output_tokens": 0, "cost": Decimal("0.2")}),
            (second, "completed", 3, {"model": "b", "output_tokens": 7, "cached_input_tokens": 3, "provider": "other"}),
        ):
            call_of(message, outcome, started_at=datetime(2026, 11, day, 23, 30, tzinfo=UTC), **fields)

    def by(self, *groups: str, calls: object = ProviderCall.objects, columns: str = "calls cost unpriced") -> list:
        with self.assertNumQueries(1):
            rows = list(calls.usage(by=groups))
        return [tuple(row[name] for name in columns.split()) for row in rows]

    def test_all_is_summed_in_one_query(self):
        with self.assertNumQueries(1):
            assert ProviderCall.objects.usage() == {
                "calls": 4,
                "unpriced": 2,
                "input_tokens": 15,
                "cached_input_tokens": 3,
                "cache_write_tokens": None,
                "output_tokens": 8,
                "reasoning_tokens": None,
                "cost": Decimal("0.3"),
            }

    def test_nothing_costs_nothing_that_is_known(self):
        sums = ProviderCall.objects.none().usage()
        assert (sums["calls"], sums["unpriced"], sums["cost"], sums["input_tokens"]) == (0, 0, None, None)

    def test_by_each_of_what_calls_have(self):
        tenth, fifth = Decimal("0.1"), Decimal("0.2")
        assert self.by("model", columns="model calls cost output_tokens") == [("a", 2, tenth, 1), ("b", 2, fifth, 7)]
        assert self.by("provider", columns="provider calls") == [("default", 3), ("other", 1)]
        assert self.by("outcome", columns="outcome calls unpriced") == [("completed", 3, 1), ("failed", 1, 1)]
        assert self.by("conversation", columns="conversation calls cost") == [
            (self.mine.pk, 3, tenth + fifth),
            (self.theirs.pk, 1, None),
        ]
        owners = dict(self.by("owner", columns="owner_id calls"))
        assert owners == {str(self.team.pk): 3, str(self.project.pk): 1}
        assert list(ProviderCall.objects.usage(by="model")) == list(ProviderCall.objects.usage(by=["model"]))

    def test_by_several_at_once(self):
        assert self.by("model", "provider", columns="model provider calls") == [
            ("a", "default", 2),
            ("b", "default", 1),
            ("b", "other", 1),
        ]

    def test_a_day_is_one_of_the_current_time_zone(self):
        with timezone.override(VIENNA):
            if connection.features.has_zoneinfo_database:
                days = self.by("day", columns="day calls")
                assert days == [(date(2026, 11, 2), 1), (date(2026, 11, 3), 2), (date(2026, 11, 4), 1)]
            else:
                with pytest.raises(ValueError, match="time zone definitions"):
                    list(ProviderCall.objects.usage(by="day"))
        with timezone.override(UTC):
            assert self.by("day", columns="day calls") == [
                (date(2026, 11, 1), 1),
                (date(2026, 11, 2), 2),
                (date(2026, 11, 3), 1),
            ]

    def test_a_day_that_the_database_cannot_tell_is_no_day(self):
        with pytest.raises(ValueError, match="time zone definitions"):
            Day("started_at").convert_value(None, None, connection)

    def test_what_calls_cannot_be_summed_by_is_refused(self):
        with pytest.raises(InvalidMessage, match="by: 'month' is not one of conversation, day, model, outcome"):
            ProviderCall.objects.usage(by="month")

    def test_rows_are_a_queryset_that_goes_on(self):
        rows = ProviderCall.objects.filter(outcome="completed").usage(by="model").order_by("-cost")
        assert [row["model"] for row in rows.filter(cost__gt=0)] == ["b", "a"]
        assert rows.filter(unpriced=0).get()["model"] == "a"
        assert ProviderCall.objects.usage(by="model").ordered

    def test_the_calls_of_an_owner_or_a_conversation(self):
        objects = ProviderCall.objects
        assert self.by("model", calls=objects.for_owner(self.team)) == [(2, Decimal("0.1"), 1), (1, Decimal("0.2"), 0)]
        assert self.by("model", calls=objects.for_owner(self.project)) == [(1, None, 1)]
        assert self.by("model", calls=objects.for_owner(self.user)) == []
        assert self.by("model", calls=objects.for_conversation(self.theirs)) == [(1, None, 1)]
        assert self.team.usage()["calls"] == self.mine.usage()["calls"] == 3
        assert [row["model"] for row in self.team.usage(by="model")] == ["a", "b"]
        assert [row["model"] for row in self.theirs.usage(by="model")] == ["b"]

    async def test_the_twins_do_the_same(self):
        assert (await self.team.ausage())["calls"] == (await self.mine.ausage())["calls"] == 3
        assert (await ProviderCall.objects.ausage())["calls"] == 4
        assert [row["model"] async for row in await self.mine.ausage(by="model")] == ["a", "b"]

    def test_since_and_until_take_days_of_the_current_time_zone_and_times(self):
        objects, day = ProviderCall.objects, lambda number: date(2026, 11, number)
        with timezone.override(VIENNA):
            assert objects.since(day(3)).count() == 3
            assert objects.until(day(3)).count() == 3
            assert objects.since(day(3)).until(day(3)).count() == 2
            assert objects.since(datetime(2026, 11, 3, 0, 31)).count() == 1  # noqa: DTZ001 - of the current time zone
        with timezone.override(UTC):
            assert objects.since(day(3)).count() == 1
            assert objects.until(day(2)).count() == 3
        moment = datetime(2026, 11, 2, 23, 30, tzinfo=UTC)
        assert objects.since(moment).count() == 3
        assert objects.until(moment).count() == 1

    def test_what_is_no_day_is_refused(self):
        for method, field in (("since", "start"), ("until", "end")):
            for given in ("2026", None, 5):
                with pytest.raises(InvalidMessage) as caught:
                    getattr(ProviderCall.objects, method)(given)
                assert caught.value.field == field

    def test_without_time_zones_days_are_the_servers(self):
        with override_settings(USE_TZ=False):
            assert "2026-11-03 00:00:00" in str(ProviderCall.objects.since(date(2026, 11, 3)).query)

    def test_sums_of_dollars_are_exact(self):
        message = reply_in(self.mine)
        ProviderCall.objects.bulk_create(
            ProviderCall(
                message=message,
                number=number + 1,
                provider="many",
                cost=Decimal("33.333333333"),
                started_at=timezone.now(),
            )
            for number in range(3000)
        )
        assert message.cost == Decimal("99999.999999")
        [row] = ProviderCall.objects.filter(provider="many").usage(by="provider")
        assert row["cost"] == Decimal("99999.999999")


@override_settings(TIME_ZONE="UTC")
class CommandTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.team = Team.objects.create(name="Blue")
        cls.conversation = Conversation.objects.start(cls.team)
        message = reply_in(cls.conversation)
        for day, fields in (
            (1, {"input_tokens": 12345, "output_tokens": 6, "cost": Decimal("1234.5678")}),
            (2, {"model": "m-2", "output_tokens": 0}),
        ):
            call_of(message, started_at=datetime(2026, 11, day, 12, tzinfo=UTC), **fields)

    def cells(self, *arguments: str) -> list[list[str]]:
        out = StringIO()
        call_command("converse_usage", *arguments, stdout=out)
        return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.getvalue().splitlines()]

    def test_what_each_model_took_and_cost_is_shown_with_the_sum(self):
        out = StringIO()
        call_command("converse_usage", stdout=out)
        assert out.getvalue() == (
            "provider  model  calls  input tokens  cached input tokens  cache write tokens  output tokens"
            "          cost  unpriced\n"
            "default   m-1        1        12,345                    -                   -              6"
            "  1,234.567800         0\n"
            "default   m-2        1             -                    -                   -              0"
            "             -         1\n"
            "total                2        12,345                    -                   -              6"
            "  1,234.567800         1\n"
        )

    def test_owners_conversations_and_days_are_named(self):
        call_of(reply_in(Conversation.objects.start()), started_at=datetime(2026, 11, 3, 12, tzinfo=UTC))
        firsts = {line[0] for line in self.cells("--by", "owner")}
        assert firsts == {"owner", "-", f"team {self.team.pk}", "total"}
        uuid = str(self.conversation.uuid)
        assert ["2026-11-02", uuid, "1"] in [line[:3] for line in self.cells("--by=day", "--by=conversation")]
        self.conversation.purge()
        assert "-" in {line[0] for line in self.cells("--by", "conversation")}

    def test_days_bound_what_is_shown(self):
        assert [line[1] for line in self.cells("--since", "2026-11-02")[1:]] == ["m-2", "1"]
        assert [line[1] for line in self.cells("--until", "2026-11-01")[1:]] == ["m-1", "1"]
        assert self.cells("--since", "2026-12-01")[1:] == [["total", "0", "-", "-", "-", "-", "-", "0"]]

    def test_a_day_that_is_none_is_refused(self):
        with pytest.raises(CommandError, match="--since takes a day such as 2026-11-01, not 'monday'"):
            call_command("converse_usage", since="monday")
