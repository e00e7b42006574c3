"""Structured answers: what is asked for, what is taken for it, what can be told before the end."""

from __future__ import annotations

import datetime
import json
import socket
import sys
from typing import Annotated, Any, Literal
from unittest.mock import patch

import pytest
from django.test import SimpleTestCase, TestCase
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from converse import outputs
from converse.choices import ErrorType
from converse.exceptions import InvalidMessage, ProviderError
from converse.models import Conversation
from converse.testing import answers, call, captured_events, ends, refuses, scripted, spends
from tests.watchers import WEATHER, Address, Node, Point, Recipe, Recipes, Renamed, Step

SOUP = {"name": "Soup", "steps": [{"text": "Cook.", "minutes": 5}], "on": "2026-01-02"}


def read(output: Any, text: str) -> Any:
    return outputs.validated(outputs.plan(output), text)


def refused(output: Any, text: str) -> str:
    with pytest.raises(ProviderError) as caught:
        read(output, text)
    assert (caught.value.type, caught.value.retryable) == (ErrorType.INVALID_OUTPUT, False)
    return str(caught.value)


class FormTests(SimpleTestCase):
    """What may be asked for, and what a provider is told."""

    def test_a_model_is_known_by_its_dotted_path_in_every_process(self):
        plan = outputs.plan(Recipe)
        assert plan == outputs.plan("tests.watchers.Recipe") == {"type": "tests.watchers.Recipe"}
        spec = outputs.spec(json.loads(json.dumps(plan)))
        assert spec.name == "Recipe"
        assert spec.schema == Recipe.model_json_schema()

    def test_what_is_no_object_is_asked_for_within_one(self):
        spec = outputs.spec(outputs.plan(list[Recipe]))
        assert spec.name == "list_of_Recipe"
        assert spec.schema["required"] == ["value"]
        assert spec.schema["properties"]["value"] == {"type": "array", "items": {"$ref": "#/$defs/Recipe"}}
        assert set(spec.schema["$defs"]) == {"Recipe", "Step"}

    def test_a_type_made_of_others_is_stored_as_what_it_is_made_of(self):
        for output in (
            list[Recipe],
            dict[str, list[int]],
            tuple[int, ...],
            Recipe | None,
            Literal["yes", "no"],
            list[Literal[1, 2] | Point],
            datetime.date,
        ):
            plan = json.loads(json.dumps(outputs.plan(output)))
            assert outputs.spec(plan), output
            assert outputs.plan(output) == plan

    def test_a_recursive_model_has_a_root_that_is_no_reference(self):
        schema = outputs.spec(outputs.plan(Node)).schema
        assert schema["type"] == "object"
        assert "$ref" not in schema
        assert read(Node, '{"name": "a", "children": [{"name": "b"}]}')["children"][0]["name"] == "b"

    def test_a_named_alias_and_a_named_schema_are_found_by_their_paths(self):
        assert outputs.spec(outputs.plan("tests.watchers.Recipes")).schema == outputs.spec(outputs.plan(Recipes)).schema
        assert outputs.spec(outputs.plan("tests.watchers.WEATHER")).name == "Weather"

    def test_nothing_was_asked_for(self):
        assert outputs.spec(None) is None
        assert outputs.value(None, None) is None

    def test_what_cannot_be_asked_for_is_refused_with_the_fix(self):
        class Local:
            pass

        for output, words in (
            (Local, "cannot be imported by name"),
            (5, "cannot be imported by name"),
            (Annotated[int, Field(gt=1)], "cannot be imported by name"),
            ("tests.watchers.Nowhere", "cannot be imported: "),
            ("nowhere at all", "cannot be imported: "),
            ("tests.watchers.NOTHING", "no type that pydantic can read"),
            ("tests.watchers.on_token", "it is a function"),
            (print, "it is a function"),
            (socket.socket, "no type that pydantic can read"),
            ({"type": "object"}, "needs a title"),
            ({"title": " "}, "needs a title"),
            ({"title": "X", "type": "strin"}, "is no JSON Schema"),
            ({"title": "X", "default": {1, 2}}, "must be JSON"),
            ({"title": "X\x00"}, "NUL"),
        ):
            with pytest.raises(InvalidMessage) as caught:
                outputs.plan(output)
            assert caught.value.field == "output"
            assert words in caught.value.reason, (output, caught.value.reason)

    def test_a_missing_library_is_named_with_the_command_that_installs_it(self):
        with (
            patch.dict(sys.modules, {"jsonschema": None}),
            pytest.raises(InvalidMessage, match=r"pip install 'django-converse\[jsonschema\]'"),
        ):
            outputs.plan({"title": "Unheard of"})


class AnswerTests(SimpleTestCase):
    """What is taken for an answer."""

    def test_an_answer_is_stored_as_its_type_writes_it(self):
        assert read(Recipe, '{"name": "Soup", "steps": [{"text": "Cook."}], "on": "2026-01-02"}') == SOUP
        assert read(list[Step], '{"value": [{"text": "Cook."}]}') == [{"text": "Cook.", "minutes": 5}]
        assert read(Point, '{"x": 1, "y": 2}') == {"x": 1, "y": 2}
        assert read(Address, '{"street": "Elm", "number": 1}') == {"street": "Elm", "number": 1}
        assert read(WEATHER, '{"city": "Paris", "degrees": 20.5, "wind": 1}') == {
            "city": "Paris",
            "degrees": 20.5,
            "wind": 1,
        }

    def test_a_bare_list_is_taken_though_an_object_was_asked_for(self):
        assert read(list[int], "[1, 2]") == [1, 2]
        assert read({"title": "Numbers", "type": "array", "items": {"type": "integer"}}, '{"value": [1]}') == [1]

    def test_an_object_that_happens_to_have_a_value_is_not_unwrapped(self):
        assert read(dict[str, int], '{"value": 1}') == {"value": 1}

    def test_a_fence_around_it_does_no_harm(self):
        for text in (
            '```json\n{"x": 1, "y": 2}\n```',
            'Here it is:\n\n```\n{"x": 1, "y": 2}\n```\nAnything else?',
            '```json {"x": 1, "y": 2}```',
            '  ```JSON\n {"x": 1,\n "y": 2}',
            '\n{"x": 1, "y": 2}\n',
        ):
            assert read(Point, text) == {"x": 1, "y": 2}, text

    def test_a_fence_within_a_text_is_text(self):
        assert read(Step, json.dumps({"text": "```json\n{}\n```"}))["text"] == "```json\n{}\n```"

    def test_what_is_wrong_is_told_by_its_place(self):
        told = refused(Recipe, '{"name": "S", "steps": [{"minutes": 5}]}')
        assert told == (
            "The answer does not have the form of Recipe: name: String should have at least 2 characters; "
            "steps.0.text: Field required"
        )
        assert refused(WEATHER, '{"city": 5, "degrees": "cold"}').endswith(
            "Weather: city: 5 is not of type 'string'; degrees: 'cold' is not of type 'number'"
        )
        assert refused(WEATHER, "[]").endswith("[] is not of type 'object'")

    def test_at_most_a_few_problems_are_told(self):
        told = refused(list[int], json.dumps({"value": ["x"] * 50}))
        assert told.count("valid integer") == 5

    def test_what_is_no_json_is_no_answer(self):
        for text in ("", "  ", "Sorry, no.", '{"x": 1', '{"x": 1} {"y": 2}', "```json\n```", "NaN"):
            assert "does not have the form of Point" in refused(Point, text)

    def test_what_no_database_can_store_is_no_answer(self):
        assert "NUL" in refused(Step, '{"text": "a\\u0000b"}')
        assert refused(dict[str, float], '{"a": NaN}')
        assert refused({"title": "Free"}, '{"a": 1e999}')
        assert refused({"title": "Free"}, '{"a": "\\ud800"}')

    def test_formats_are_looked_at(self):
        schema = {"title": "Day", "type": "object", "properties": {"on": {"type": "string", "format": "date"}}}
        assert read(schema, '{"on": "2026-01-02"}') == {"on": "2026-01-02"}
        assert "is not a 'date'" in refused(schema, '{"on": "tomorrow"}')

    def test_a_schema_that_refers_to_what_is_not_there_fails_the_answer(self):
        schema = {"title": "Lost", "type": "object", "properties": {"a": {"$ref": "#/$defs/Nowhere"}}}
        assert "refers to what is not there" in refused(schema, '{"a": 1}')

    def test_what_a_type_writes_differently_than_it_reads_is_stored_as_it_came(self):
        assert read(Renamed, '{"called": "Ada"}') == {"called": "Ada"}
        assert outputs.value(outputs.plan(Renamed), {"called": "Ada"}).name == "Ada"

    def test_a_stored_answer_comes_back_as_what_was_asked_for(self):
        assert outputs.value(outputs.plan(Recipe), SOUP) == Recipe(
            name="Soup", steps=[Step(text="Cook.")], on=datetime.date(2026, 1, 2)
        )
        assert outputs.value(outputs.plan(list[Point]), [{"x": 1, "y": 2}]) == [Point(1, 2)]
        assert outputs.value(outputs.plan(tuple[int, ...]), [1, 2]) == (1, 2)
        assert outputs.value(outputs.plan(WEATHER), {"city": "Paris"}) == {"city": "Paris"}

    def test_a_model_is_told_what_is_wrong_with_its_answer(self):
        with pytest.raises(ProviderError) as caught:
            read(Point, '{"x": 1}')
        assert outputs.complaint(caught.value).startswith(
            "The answer does not have the form of Point: y: Field required\nAnswer again"
        )


def begins(partial: Any, whole: Any) -> bool:
    """Say whether a value is what another one begins with."""
    if isinstance(partial, str) and isinstance(whole, str):
        return whole.startswith(partial)
    if isinstance(partial, list) and isinstance(whole, list):
        return len(partial) <= len(whole) and all(begins(*pair) for pair in zip(partial, whole, strict=False))
    if isinstance(partial, dict) and isinstance(whole, dict):
        return all(key in whole and begins(value, whole[key]) for key, value in partial.items())
    return type(partial) is type(whole) and partial == whole


texts = st.text(st.characters(exclude_categories=["Cs"]))
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


class PartialTests(SimpleTestCase):
    """What can be told of an answer that is still coming."""

    @given(documents, st.booleans(), st.sampled_from(["", "```json\n", "So:\n```\n"]), st.integers(0, 1))
    def test_every_beginning_of_an_answer_gives_what_the_whole_begins_with(self, document, ascii, fence, indent):
        text = fence + json.dumps(document, ensure_ascii=ascii, indent=indent or None)
        last = None
        for end in range(len(text) + 1):
            partial = outputs.partial(text[:end])
            assert partial is None or begins(partial, document), text[:end]
            assert last is None or begins(last, partial), text[:end]
            last = partial
        if isinstance(document, dict | list | str):
            assert outputs.partial(text + ("\n```" if fence else "")) == document

    @given(st.text())
    def test_it_never_raises(self, text):
        outputs.partial(text)

    def test_it_begins_with_nothing_and_grows(self):
        for text, partial in (
            ("", None),
            ("{", {}),
            ('{"name"', {}),
            ('{"name": "So', {"name": "So"}),
            ('{"name": "Soup", "steps": [{"text": "Cook', {"name": "Soup", "steps": [{"text": "Cook"}]}),
            ('{"steps": [{"text": "Cook.", "minutes": 1', {"steps": [{"text": "Cook."}]}),  # it may become 15
            ('{"steps": [{"text": "Cook.", "minutes": 15}', {"steps": [{"text": "Cook.", "minutes": 15}]}),
        ):
            assert outputs.partial(text) == partial, text

    def test_an_answer_within_an_object_is_taken_out_of_it(self):
        plan = outputs.plan(list[int])
        assert [outputs.partial(text, plan) for text in ("", "{", '{"value": [1, 2', "[3, 4", '{"value": [1]}')] == [
            None,
            None,
            [1],
            [3],
            [1],
        ]


class ReplyTests(TestCase):
    """A reply with an output, from the question to the reader."""

    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def test_the_answer_is_stored_told_to_readers_and_comes_back_as_a_model(self):
        with scripted(answers(SOUP, fragments=5)) as script, captured_events(self.conversation) as events:
            reply = self.conversation.ask("What shall I cook?", output=Recipe)
        assert script.prompt.output == outputs.spec(outputs.plan(Recipe))
        assert reply.is_completed
        assert reply.structured == SOUP
        assert reply.output == Recipe(**SOUP)
        assert reply.partial_output == SOUP
        [completed] = events.of("MessageCompleted")
        assert completed.structured == SOUP
        assert json.loads(reply.text) == SOUP

    def test_a_json_schema_is_asked_for_and_held_against_the_answer(self):
        with scripted(answers({"city": "Paris", "degrees": 20})):
            reply = self.conversation.ask("How warm is it?", output=WEATHER)
        assert reply.output == reply.structured == {"city": "Paris", "degrees": 20}

    def test_a_list_of_models_comes_back_as_one(self):
        with scripted(answers({"value": [{"x": 1, "y": 2}]})):
            reply = self.conversation.ask("Where?", output=list[Point])
        assert reply.structured == [{"x": 1, "y": 2}]
        assert reply.output == [Point(1, 2)]

    def test_an_answer_of_another_form_fails_the_reply_and_its_text_stays(self):
        with scripted(['{"name": "Soup", "steps": 5}'], ['{"name": "Soup", "steps": 5}']):
            reply = self.conversation.ask("What shall I cook?", output=Recipe)
        assert (reply.status, reply.error_type) == ("failed", "invalid_output")
        assert "steps: Input should be a valid" in reply.error_detail
        assert "steps" not in reply.error_message
        assert '"steps": 5' in reply.content
        assert reply.structured is None
        assert reply.output is None

    def test_with_tools_it_is_the_final_answer_that_has_the_form(self):
        with scripted(["Let me see.", call("weather", city="Paris")], [answers({"x": 1, "y": 2}), spends(1, 2)]):
            reply = self.conversation.ask("Where?", output=Point, tools=["tests.watchers.weather"])
        assert reply.error_detail == ""
        assert reply.output == Point(1, 2)
        assert reply.partial_output == {"x": 1, "y": 2}

    def test_a_refusal_is_no_answer_and_no_failure(self):
        with scripted([refuses("I would rather not.")]):
            reply = self.conversation.ask("Where?", output=Point)
        assert (reply.status, reply.refusal, reply.structured) == ("completed", "I would rather not.", None)
        with scripted(['{"x": 1', ends("content_filter")]):
            reply = self.conversation.ask("Where?", output=Point)
        assert reply.structured is None

    def test_what_cannot_be_asked_for_stores_nothing(self):
        before = self.conversation.messages.count()
        with pytest.raises(InvalidMessage):
            self.conversation.reply("Where?", output=5)
        assert self.conversation.messages.count() == before

    async def test_what_has_come_so_far_can_be_read_while_it_is_coming(self):
        message = await self.conversation.astart_streaming_assistant()
        message.plan = {"output": outputs.plan(Recipe)}
        assert await message.apartial_output() is None
        await message.aappend_chunk('{"name": "So')
        assert await message.apartial_output() == {"name": "So"}
        await message.acomplete_streaming()
        assert await message.apartial_output() == {"name": "So"}

    def test_an_answer_that_its_type_does_not_take_any_more_says_so(self):
        message = self.conversation.create_assistant_message("x")
        message.plan, message.structured = {"output": outputs.plan(Recipe)}, {"title": "Soup"}
        with pytest.raises(ValidationError):
            _ = message.output
