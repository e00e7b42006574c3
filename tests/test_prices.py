from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from unittest.mock import patch

from django.test import SimpleTestCase, override_settings

from converse.checks import check_settings
from converse.deltas import Usage
from converse.prices import cost, listed
from converse.providers.openai import OpenAIProvider

DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)
TALK = Usage(input=1000, output=100)

PROVIDERS = {
    "default": {"BACKEND": "converse.providers.openai.OpenAIProvider"},
    "responses": {"BACKEND": "converse.providers.responses.ResponsesProvider"},
    "claude": {"BACKEND": "converse.providers.anthropic.AnthropicProvider"},
    "gemini": {"BACKEND": "converse.providers.gemini.GeminiProvider"},
    "mistral": {"BACKEND": "converse.providers.mistral.MistralProvider"},
    "own": {"BACKEND": "tests.test_prices.OwnProvider"},
    "factory": {"BACKEND": "tests.test_prices.factory"},
    "gone": {"BACKEND": "tests.nowhere.Provider"},
    "echo": {"BACKEND": "converse.providers.echo.EchoProvider"},
    "groq": {
        "BACKEND": "converse.providers.openai.OpenAIProvider",
        "OPTIONS": {"base_url": "https://api.groq.com/openai/v1"},
    },
    "local": {
        "BACKEND": "converse.providers.openai.OpenAIProvider",
        "OPTIONS": {"base_url": "http://127.0.0.1:11434/v1"},
    },
}


class OwnProvider(OpenAIProvider):
    """Somebody's."""


def factory(**options):
    return OpenAIProvider(**options)


def by_weekday(provider, model, usage, at):
    """Take double on Sundays."""
    price = listed(provider, model, usage, at)
    return price * 2 if price and at.isoweekday() == 7 else price


def broken(provider, model, usage, at):
    raise ZeroDivisionError


def dollars(provider, model, usage=TALK, at=DAY, asked="", **settings):
    with override_settings(CONVERSE_PROVIDERS=PROVIDERS, **settings):
        return cost(provider, model, usage, at, asked=asked)


def own(prices, provider="local", model="qwen3:8b", usage=TALK, asked=""):
    return dollars(provider, model, usage, asked=asked, CONVERSE_PRICES=prices)


class ListedTests(SimpleTestCase):
    """What the list of genai-prices says, against figures worked out by hand from the providers' own pages."""

    def test_openai_reads_its_cache_for_less(self):
        usage = Usage(input=600, cached_input=400, output=50)
        # $1.25, $0.125 and $10 a million: 0.00075 + 0.00005 + 0.0005
        assert dollars("default", "gpt-5", usage) == Decimal("0.0013")
        assert dollars("responses", "gpt-5", usage) == Decimal("0.0013")

    def test_anthropic_takes_a_quarter_more_for_what_it_writes_to_its_cache(self):
        usage = Usage(input=600, cached_input=300, cache_write=100, output=50)
        # $3, $0.30, $3.75 and $15 a million: 0.0018 + 0.00009 + 0.000375 + 0.00075
        assert dollars("claude", "claude-sonnet-4-5", usage) == Decimal("0.003015")

    def test_and_twice_as_much_for_what_it_keeps_for_an_hour(self):
        raw = {"cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40}}
        usage = Usage(input=600, cached_input=300, cache_write=100, output=50, raw=raw)
        # 60 at $3.75 and 40 at $6: 0.0018 + 0.00009 + 0.000225 + 0.00024 + 0.00075
        assert dollars("claude", "claude-sonnet-4-5", usage) == Decimal("0.003105")

    def test_more_than_is_written_is_never_priced_as_written(self):
        raw = {"cache_creation": {"ephemeral_1h_input_tokens": 40}}
        assert dollars("claude", "claude-sonnet-4-5", Usage(input=1000, output=0, raw=raw)) == Decimal("0.003")

    def test_gemini_takes_more_where_the_input_is_long(self):
        # $1.25 and $10 a million up to 200,000, cached ones among them; $2.50, $0.25 and $15 above
        assert dollars("gemini", "gemini-2.5-pro", TALK) == Decimal("0.00225")
        long = Usage(input=100_000, cached_input=150_000, output=1000)
        assert dollars("gemini", "gemini-2.5-pro", long) == Decimal("0.25") + Decimal("0.0375") + Decimal("0.015")

    def test_reasoning_is_part_of_the_output_and_not_paid_for_twice(self):
        usage = Usage(input=1000, output=100, reasoning=60)
        assert dollars("default", "gpt-5", usage) == dollars("default", "gpt-5", TALK) == Decimal("0.00225")

    def test_the_list_is_that_of_the_provider_and_not_of_who_made_the_model(self):
        assert dollars("mistral", "mistral-large-latest") == Decimal("0.0026")
        assert dollars("own", "gpt-5") == Decimal("0.00225")
        assert dollars("groq", "llama-3.3-70b-versatile") == Decimal("0.00059") + Decimal("0.000079")
        assert dollars("claude", "gpt-5") is None

    def test_a_price_is_that_of_its_day(self):
        before = dollars("claude", "claude-fable-5", at=datetime(2026, 1, 1, tzinfo=UTC))
        assert before == dollars("claude", "claude-fable-5", at=DAY)

    def test_the_model_that_answered_counts_before_the_one_that_was_asked(self):
        assert dollars("default", "gpt-5-mini-2025-08-07", asked="gpt-5") == Decimal("0.00045")
        assert dollars("default", "a-snapshot-that-nobody-knows", asked="gpt-5") == Decimal("0.00225")


class UnknownTests(SimpleTestCase):
    """No price that is not known is ever 0."""

    def test_without_a_price_there_is_no_cost(self):
        for provider, model in (
            ("default", "gpt-nobody-has-heard-of"),
            ("default", ""),
            ("local", "gpt-5"),  # somebody else's server
            ("echo", "echo"),
            ("factory", "gpt-5"),
            ("nobody", "gpt-5"),
            ("", "gpt-5"),
        ):
            assert dollars(provider, model) is None, provider

    def test_a_model_listed_with_half_a_price_costs_what_nobody_knows(self):
        assert dollars("default", "text-embedding-3-small") is None

    def test_without_a_count_there_is_no_cost(self):
        for usage in (Usage(), Usage(input=1000), Usage(output=100)):
            assert dollars("default", "gpt-5", usage) is None
            assert own({"qwen3:8b": {"input": 1, "output": 1}}, usage=usage) is None

    def test_without_the_library_there_is_no_cost_and_no_failure(self):
        with patch.dict(sys.modules, {"genai_prices": None}):
            assert dollars("default", "gpt-5") is None
            assert own({"qwen3:8b": {"input": 1, "output": 2}}) == Decimal("0.0012")

    def test_what_cannot_be_worked_out_is_logged(self):
        for provider, prices in (
            ("gone", {}),
            ("local", "tests.test_prices.broken"),
            ("local", "tests.test_prices.missing"),
            ("local", {"qwen3:8b": {"input": 1}}),
        ):
            with self.assertLogs("converse.prices", "ERROR") as logs:
                assert own(prices, provider) is None
            assert "'qwen3:8b'" in logs.output[0]


class OwnPriceTests(SimpleTestCase):
    PRICES = {"input": "0.25", "cached_input": Decimal("0.025"), "cache_write": 0.5, "output": 2}

    def test_prices_of_ones_own_come_first(self):
        assert own({"gpt-5": self.PRICES}, "default", "gpt-5") == Decimal("0.00045")

    def test_each_count_has_its_price(self):
        usage = Usage(input=600, cached_input=300, cache_write=100, output=50)
        # 0.00015 + 0.0000075 + 0.00005 + 0.0001
        assert own({"qwen3:8b": self.PRICES}, usage=usage) == Decimal("0.0003075")

    def test_a_price_left_out_is_that_of_the_input(self):
        usage = Usage(input=600, cached_input=300, cache_write=100, output=50)
        assert own({"qwen3:8b": {"input": 1, "output": 2}}, usage=usage) == Decimal("0.0011")

    def test_a_cost_has_nine_places(self):
        prices = {"qwen3:8b": {"input": "0.0375", "output": "0.00005"}}
        assert own(prices) == Decimal("0.000037505")
        assert own(prices, usage=Usage(input=0, output=70)) == Decimal("4e-9")  # 3.5e-9
        assert own(prices, usage=Usage(input=0, output=50)) == Decimal("2e-9")  # 2.5e-9

    def test_a_model_that_costs_nothing_does_so_whatever_was_counted(self):
        free = {"local/*": {"input": 0, "output": 0}}
        assert own(free) == own(free, usage=Usage()) == own(free, model="") == 0

    def test_the_nearest_name_is_taken(self):
        prices = {
            name: {"input": price, "output": 0}
            for name, price in {
                "local/qwen3:8b": 1,
                "qwen3:8b": 2,
                "qwen3:4b": 3,
                "qwen*": 4,
                "local/*": 5,
                "*": 6,
            }.items()
        }
        for provider, model, asked, price in (
            ("local", "qwen3:8b", "", 1),
            ("other", "qwen3:8b", "", 2),
            ("other", "qwen3:8b-q4", "qwen3:4b", 3),
            ("other", "qwen3:32b", "", 4),
            ("local", "llama", "", 5),
            ("other", "llama", "", 6),
        ):
            assert own(prices, provider, model, asked=asked) == Decimal(price) / 1000, (provider, model)

    def test_a_name_without_a_star_is_no_beginning(self):
        assert own({"qwen3": self.PRICES}) is None

    def test_a_gateway_has_the_prices_of_whom_it_leads_to(self):
        assert own({"local/*": "openai"}, model="gpt-5") == Decimal("0.00225")
        assert own({"local/*": "openai"}) is None

    def test_a_function_says_what_a_call_cost(self):
        function = {"CONVERSE_PRICES": "tests.test_prices.by_weekday"}
        assert dollars("default", "gpt-5", **function) == Decimal("0.0045")
        assert dollars("default", "gpt-5", at=datetime(2026, 11, 2, tzinfo=UTC), **function) == Decimal("0.00225")
        assert dollars("default", "gpt-unknown", **function) is None
        assert dollars("default", "", **function) is None


class CheckTests(SimpleTestCase):
    def problems(self, prices):
        with override_settings(CONVERSE_PRICES=prices):
            messages = list(check_settings(app_configs=None))
        assert {message.id for message in messages} <= {"converse.E040"}
        return [f"{message.msg} | {message.hint}" for message in messages]

    def test_prices_that_make_sense_are_taken(self):
        for prices in (
            {},
            {"gpt-5": {"input": 0, "output": 0.5, "cached_input": "0.1", "cache_write": Decimal(2)}},
            {"local/*": {"input": 0, "output": 0}, "gateway/*": "openai"},
            "tests.test_prices.by_weekday",
        ):
            assert self.problems(prices) == []

    def test_what_is_wrong_is_named_with_its_fix(self):
        both = {"input": 1, "output": 1}
        for prices, problem in (
            ([], "CONVERSE_PRICES must be a dict or the path of a function, not a list."),
            ("nowhere.at_all", "CONVERSE_PRICES is 'nowhere.at_all', which cannot be imported"),
            ("tests.test_prices.DAY", "which is not a function (provider, model, usage, at)."),
            ({"gpt-5": 1}, "CONVERSE_PRICES['gpt-5']: must be a dict, not a int."),
            ({"gpt-5": {"input": 1}}, "CONVERSE_PRICES['gpt-5']: 'output' is missing."),
            ({"gpt-5": {**both, "inptu": 1}}, "'inptu' is not known. | Did you mean input? The keys are input,"),
            ({"gpt-*-mini": both}, "CONVERSE_PRICES['gpt-*-mini']: a star may only be at the end"),
            ({"": both}, "a star may only be at the end of a name, which is a text."),
            ({5: both}, "CONVERSE_PRICES[5]: a star may"),
            ({"gateway/*": "opnai"}, "genai-prices has no provider 'opnai'. | Did you mean openai?"),
        ):
            [found] = self.problems(prices)
            assert problem in found

    def test_what_is_no_price_is_refused(self):
        for price in (-1, "free", None, True, float("nan"), "Infinity", [1]):
            [found] = self.problems({"gpt-5": {"input": price, "output": 1}})
            assert f"'input' is {price!r}, which is no price." in found

    def test_a_list_needs_its_library(self):
        with patch.dict(sys.modules, {"genai_prices.data_snapshot": None}):
            [found] = self.problems({"gateway/*": "openai"})
        assert "pip install 'django-converse[prices]'" in found
