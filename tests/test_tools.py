from __future__ import annotations

import asyncio
import datetime
import logging
import threading
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pytest
from django.http import HttpRequest
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from converse import tools
from converse.choices import FinishReason
from converse.deltas import Finish, ToolCallDelta
from converse.exceptions import InvalidMessage
from converse.models import Conversation
from converse.signals import message_completed
from converse.testing import scripted
from converse.tools import tool
from tests import toolbox

if TYPE_CHECKING:
    from decimal import Decimal

CALLS = Finish(reason=FinishReason.TOOL_CALLS, raw="tool_calls")


def untyped(city):
    """Has no types."""


def spread(*cities: str):
    """Takes any number."""


def gathered(**cities: str):
    """Takes any name."""


def web(request: HttpRequest):
    """Takes what is no JSON."""


def late(amount: Decimal):
    """Is annotated with what is not there when it runs."""


@tool(name="two words")
def two_words():
    """Has a name that no provider takes."""


@tool(name="weather")
def same_name():
    """Is called like another."""


@lru_cache
def cached(city: str) -> str:
    """Look it up once."""
    return city


class Kit:
    @staticmethod
    def inside(city: str) -> str:
        """Stand in a class."""
        return city


def spec(function):
    [loaded] = tools.load(tools.paths([function]))
    return loaded.spec


class SchemaTests(SimpleTestCase):
    def test_the_schema_is_that_of_the_signature(self):
        assert spec(toolbox.weather).schema == {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name, in any language."},
                "unit": {
                    "type": "string",
                    "enum": ["c", "f"],
                    "default": "c",
                    "description": "Of the temperature.",
                },
            },
            "required": ["city"],
            "additionalProperties": False,
        }

    def test_types_annotations_and_the_docstring_say_what_an_argument_is(self):
        found = spec(toolbox.travel)
        assert found.description == "Book a journey."
        schema = found.schema
        assert sorted(schema["properties"]) == ["people", "schema", "seats", "when"]
        assert schema["required"] == ["schema", "when"]
        assert schema["properties"]["people"] == {
            "type": "integer",
            "default": 1,
            "minimum": 1,
            "description": "How many go.",
        }
        assert schema["properties"]["when"] == {
            "type": "string",
            "format": "date",
            "description": "The day, in the local calendar.",
        }
        assert schema["properties"]["schema"]["description"] == "Where to."
        assert schema["$defs"]["Place"]["required"] == ["city"]

    def test_of_what_is_given_to_it_beside_the_model_knows_nothing(self):
        assert list(spec(toolbox.remember).schema["properties"]) == ["fact"]

    def test_a_tool_may_take_nothing(self):
        assert spec(toolbox.plain).schema == {"type": "object", "properties": {}, "additionalProperties": False}

    def test_a_decorated_function_stays_what_it_is(self):
        assert toolbox.plain() == ""
        found = spec(toolbox.refund)
        assert (found.name, found.description) == ("give-back", "Give money back.")

    def test_what_a_module_has_can_be_a_tool(self):
        assert spec(cached).name == "cached"
        assert spec(Kit.inside).name == "inside"
        assert tools.paths([Kit.inside, "tests.test_tools.cached"]) == [
            "tests.test_tools.Kit.inside",
            "tests.test_tools.cached",
        ]


class RefusedTests(TestCase):
    def test_what_cannot_be_a_tool_is_refused_with_the_way_out(self):
        def closure() -> None: ...

        for given, words in (
            (toolbox.weather, "must be a list"),
            ("tests.toolbox.weather", "must be a list"),
            (5, "must be a list"),
            ([lambda: None], "cannot be imported by name; define it in a module"),
            ([closure], "cannot be imported by name; define it in a module"),
            ([partial(toolbox.weather, unit="f")], "cannot be imported by name; define it in a module"),
            (["tests.toolbox.nothing"], "cannot be imported: .*; correct the dotted path"),
            (["tests.toolbox.CALLED"], "cannot be imported"),
            (["tests.toolbox.called"], r"tests\.toolbox\.called: must be a function"),
            ([toolbox.Place], "must be a function"),
            ([untyped], "its parameter city has no type"),
            ([spread], r"its parameter \*cities: .* cannot be given by name"),
            ([gathered], r"its parameter \*\*cities: .* cannot be given by name"),
            ([web], "its parameters cannot be read from JSON: .*HttpRequest"),
            ([late], "'Decimal' is not defined; import the name outside of TYPE_CHECKING"),
            ([two_words], "its name must match"),
            ([toolbox.weather, same_name], "another tool is called weather too"),
            ([toolbox.weather, "tests.toolbox.weather"], "another tool is called weather too"),
        ):
            with pytest.raises(InvalidMessage, match=words) as caught:
                tools.paths(given)
            assert caught.value.field == "tools", given

    def test_bad_keywords_of_a_reply_are_refused_before_anything_is_stored(self):
        conversation = Conversation.objects.start()
        weather = [toolbox.weather]
        for kwargs, field, words in (
            ({"tools": [lambda: None]}, "tools", "by name"),
            ({"tools": weather, "tool_choice": "fly"}, "tool_choice", "'fly' is none of auto, any, none, weather"),
            ({"tool_choice": "any"}, "tool_choice", "needs tools"),
            ({"tools": weather, "max_steps": 0}, "max_steps", "a whole number from 1, not 0"),
            ({"max_steps": True}, "max_steps", "not True"),
            ({"max_steps": "2"}, "max_steps", "not '2'"),
        ):
            with pytest.raises(InvalidMessage, match=words) as caught:
                conversation.reply("Hi", **kwargs)
            assert caught.value.field == field
        with pytest.raises(TypeError, match="unexpected keyword argument 'tols'"):
            conversation.reply("Hi", tols=weather)
        assert not conversation.messages.exists()


class ResultTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start(title="Trip")

    def setUp(self):
        self.enterContext(toolbox.scene())
        logging.disable(logging.ERROR)
        self.addCleanup(logging.disable, logging.NOTSET)

    def result(self, function: Any, arguments: str = "{}") -> tuple[str, bool]:
        """Have a model call a tool, and give what it was told."""
        [name] = [loaded.name for loaded in tools.load(tools.paths([function]))]
        call = ToolCallDelta(index=0, id="c1", name=name, arguments=arguments)
        with scripted([call, CALLS], ["Fine."]) as script:
            reply = self.conversation.ask("Hi", tools=[function])
        assert reply.content == "Fine.", reply.error_detail
        [stored] = [part for part in reply.parts if part["type"] == "tool_result"]
        [told] = script.prompts[1].messages[-1].parts
        assert (told.output, told.is_error) == (stored["output"], stored.get("is_error", False))
        return told.output, told.is_error

    def test_text_is_given_as_it_is_and_all_else_as_json(self):
        for what, output in (
            ("nothing", "null"),
            ("date", '"2026-02-03"'),
            ("model", '{"city":"Łódź","zip":"90-001"}'),
            ("record", '{"left":1,"right":[2,3]}'),
            ("rows", '[{"title":"Trip"}]'),
            ("lazy", '{"said":"message"}'),
            ("endless", "null"),
            ("unstorable", "a\ufffdb\ufffdc"),
            ("later", "[1,2]"),
        ):
            assert self.result(toolbox.give, f'{{"what": "{what}"}}') == (output, False)

    def test_what_is_no_json_is_an_error(self):
        output, is_error = self.result(toolbox.give, '{"what": "object"}')
        assert is_error
        assert "object cannot be written as JSON" in output

    def test_a_tool_may_ask_a_model_itself(self):
        with scripted(["I know."], alias="other") as other:
            for function in (toolbox.ask, toolbox.ask_at_once):
                assert self.result(function, '{"words": "Who knows?"}') == ("I know.", False)
        assert [prompt.messages[-1].text for prompt in other.prompts] == ["Who knows?"] * 2

    def test_a_long_result_is_cut_and_says_so(self):
        with override_settings(CONVERSE_TOOL_RESULT_LIMIT=10):
            output, is_error = self.result(toolbox.give, '{"what": "long"}')
        assert output == f"{'x' * 10}\n[The result was cut: these are the first 10 of 1000 characters.]"
        assert not is_error

    def test_arguments_come_as_python_values_and_the_context_beside_them(self):
        arguments = '{"schema": {"city": "Oslo"}, "when": "2026-05-17", "people": "3"}'
        output, _ = self.result(toolbox.travel, arguments)
        assert output == "Trip/assistant/c1"
        assert toolbox.called == [("travel", toolbox.Place(city="Oslo"), datetime.date(2026, 5, 17), 3, 2)]
        assert self.result(toolbox.remember, '{"fact": "It rains."}') == ("Trip: It rains.", False)

    def test_no_arguments_may_be_no_text_at_all(self):
        assert self.result(toolbox.plain, "") == ("", False)

    def test_bad_arguments_are_told_one_by_one(self):
        for arguments, problem in (
            ('{"schema": {}, "when": "soon"}', "schema.city: Field required; when: Input should be a valid date"),
            ('{"schema": {"city": "x"}, "when": "2026-05-17", "people": 0}', "people: Input should be greater than"),
            ('{"schema": {"city": "x"}, "when": "2026-05-17", "context": {}}', "context: Extra inputs"),
            ("[]", "Input should be an object"),
            ("{", "Invalid JSON"),
        ):
            output, is_error = self.result(toolbox.travel, arguments)
            assert is_error
            assert output.startswith("The arguments are not valid: ")
            assert problem in output
        assert toolbox.called == []

    def test_a_validator_that_breaks_is_an_error_too(self):
        arguments = '{"schema": {"city": "x"}, "when": "2026-05-17", "seats": 3}'
        assert self.result(toolbox.travel, arguments) == (
            "The arguments could not be read: RuntimeError: 3 is odd",
            True,
        )

    def test_a_tool_that_fails_in_whatever_way_is_told_without_a_trace(self):
        for how, output in (
            ("no luck", "ValueError: no luck"),
            ("late", "TimeoutError: the other side was late"),
            ("exit", "SystemExit: enough"),
            ("wordless", "Wordless"),
            ("cancel", "CancelledError: the tool cancelled itself."),
        ):
            assert self.result(toolbox.fail, f'{{"how": "{how}"}}') == (output, True)

    def test_a_tool_that_takes_too_long_is_told_to_have_done_so(self):
        assert self.result(toolbox.slow) == ("The tool took longer than 0.05 seconds.", True)
        with override_settings(CONVERSE_TOOL_TIMEOUT=0.1):
            toolbox.gates["shut"] = asyncio.Event()
            assert self.result(toolbox.wait, '{"gate": "shut"}') == ("The tool took longer than 0.1 seconds.", True)


class ThreadTests(TransactionTestCase):
    """In the background, where replies run in production, and not in the thread of a test."""

    def setUp(self):
        self.enterContext(toolbox.scene())
        self.conversation = Conversation.objects.start(title="Trip")
        self.done = threading.Event()
        message_completed.connect(self.completed, dispatch_uid="tests")
        self.addCleanup(message_completed.disconnect, dispatch_uid="tests")

    def completed(self, **kwargs: Any) -> None:
        self.done.set()

    def reply(self, *calls: ToolCallDelta, functions: Any):
        self.enterContext(scripted([*calls, CALLS], ["Fine."]))
        return self.conversation.reply("Hi", tools=functions)

    def results(self, reply):
        assert self.done.wait(10)
        reply.refresh_from_db()
        return [part["output"] for part in reply.parts if part["type"] == "tool_result"]

    def test_synchronous_tools_run_side_by_side_too_each_with_its_connection(self):
        toolbox.doors.update(one=threading.Event(), two=threading.Event())
        calls = [
            ToolCallDelta(index=0, id="c1", name="block", arguments='{"door": "one"}'),
            ToolCallDelta(index=1, id="c2", name="block", arguments='{"door": "two"}'),
            ToolCallDelta(index=2, id="c3", name="give", arguments='{"what": "rows"}'),
        ]
        reply = self.reply(*calls, functions=[toolbox.block, toolbox.give])
        wait_for(lambda: {("block", "one"), ("block", "two")} <= set(toolbox.called))
        toolbox.doors["two"].set()
        toolbox.doors["one"].set()
        assert self.results(reply) == ["one is open", "two is open", '[{"title":"Trip"}]']

    def test_a_tool_may_ask_a_model_itself(self):
        calls = [
            ToolCallDelta(index=0, id="c1", name="ask", arguments='{"words": "Who?"}'),
            ToolCallDelta(index=1, id="c2", name="ask_at_once", arguments='{"words": "Who?"}'),
        ]
        self.enterContext(scripted(["I know."], alias="other"))
        reply = self.reply(*calls, functions=[toolbox.ask, toolbox.ask_at_once])
        wait_for(lambda: reply.refresh_from_db() or not reply.is_open)
        assert self.results(reply) == ["I know.", "I know."]

    def test_a_thread_that_is_late_is_left_behind(self):
        toolbox.doors["slow"] = threading.Event()
        reply = self.reply(ToolCallDelta(index=0, id="c1", name="slow_thread"), functions=[toolbox.slow_in_a_thread])
        assert self.results(reply) == ["The tool took longer than 0.05 seconds."]
        assert toolbox.called == []
        toolbox.doors["slow"].set()
        wait_for(lambda: toolbox.called == [("slow",)])
        reply.refresh_from_db()
        assert reply.content == "Fine."

    def test_whatever_a_thread_raises_is_told(self):
        reply = self.reply(
            ToolCallDelta(index=0, id="c1", name="fail", arguments='{"how": "exit"}'), functions=[toolbox.fail]
        )
        assert self.results(reply) == ["SystemExit: enough"]


def wait_for(condition) -> None:
    patience = threading.Event()
    for _ in range(1000):
        if condition():
            return
        patience.wait(0.01)
    raise AssertionError("It did not happen.")
