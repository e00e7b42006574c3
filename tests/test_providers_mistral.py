from __future__ import annotations

import os
import re
from unittest import mock

from django.test import SimpleTestCase

from converse.deltas import ReasoningDelta
from converse.parts import File, Text, ToolCall, ToolResult
from converse.providers import Prompt, PromptMessage
from converse.providers.mistral import MistralProvider
from tests.recordings import RecordingServer, ask, listen, sse


def turn(role, *parts):
    return PromptMessage(role=role, parts=parts)


def messages(*turns):
    return MistralProvider(model="m").request(Prompt(messages=turns))["messages"]


def call(call_id):
    return ToolCall(id=call_id, name="f", arguments="{}")


def result(call_id):
    return ToolResult(id=call_id, name="f", output="1")


class MistralTests(SimpleTestCase):
    def test_ids_of_other_providers_become_such_as_it_takes_and_its_own_stay(self):
        own, foreign = "gdRdrvnHh", ("call_E9m0fralKLjUmND1MuTXjnqm", "toolu_01", "12345678", "gdRdrvnH!")
        sent = messages(
            turn("assistant", call(own), *map(call, foreign)), turn("tool_result", result(own), *map(result, foreign))
        )
        [said, *results] = sent
        ids = [called["id"] for called in said["tool_calls"]]
        assert ids[0] == own
        assert all(re.fullmatch("[a-zA-Z0-9]{9}", found) for found in ids)
        assert len(set(ids)) == 5
        assert [found["tool_call_id"] for found in results] == ids

    def test_a_user_who_goes_on_after_results_is_answered_first(self):
        sent = messages(
            turn("assistant", call("a")),
            turn("tool_result", result("a")),
            turn("user", Text("And?")),
            turn("assistant", call("b")),
            turn("tool_result", result("b")),
            turn("assistant", Text("So.")),
            turn("user", Text("Ah.")),
        )
        assert [message["role"] for message in sent] == [
            *("assistant", "tool", "assistant", "user"),
            *("assistant", "tool", "assistant", "user"),
        ]
        assert sent[2]["content"] == "OK."

    def test_system_messages_come_first_in_their_order(self):
        turns = [turn("user", Text("1")), turn("system", Text("A")), turn("assistant", Text("2"))]
        sent = messages(*turns, turn("system", Text("B")), turn("user", Text("3")))
        assert [message["content"] for message in sent] == ["A", "B", "1", "2", "3"]

    def test_words_and_calls_of_one_step_are_two_messages(self):
        sent = messages(turn("assistant", Text("Let me see."), call("gdRdrvnHh")))
        assert [(message["content"], len(message.get("tool_calls", ()))) for message in sent] == [
            ("Let me see.", 0),
            (None, 1),
        ]

    def test_a_document_goes_as_mistral_wants_it(self):
        [sent] = messages(turn("user", File(name="a.pdf", mime_type="application/pdf", data=b"data")))
        url = "data:application/pdf;base64,ZGF0YQ=="
        assert sent["content"] == [{"type": "document_url", "document_url": url, "document_name": "a.pdf"}]

    def test_it_is_not_asked_for_counts_that_it_sends_anyway(self):
        body = MistralProvider(model="m", max_tokens=5).request(ask())
        assert (body["max_tokens"], "stream_options" in body) == (5, False)

    def test_its_key_is_that_of_the_environment_unless_it_goes_elsewhere(self):
        with mock.patch.dict(os.environ, {"MISTRAL_API_KEY": "ours"}):
            assert MistralProvider().client_options()["api_key"] == "ours"
            assert MistralProvider(api_key="mine").client_options()["api_key"] == "mine"
            elsewhere = MistralProvider(base_url="http://there.test").client_options()
        assert (elsewhere["api_key"], elsewhere["base_url"]) == ("none", "http://there.test")

    async def test_thoughts_and_words_in_one_list_are_told_apart(self):
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
        delta = {"content": [thought, {"type": "text", "text": "Yes"}]}
        chunk = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}
        async with RecordingServer(sse(chunk, "[DONE]")) as server:
            heard = await listen(MistralProvider(model="m", base_url=server.base_url))
        assert (heard.of(ReasoningDelta), heard.text) == ([ReasoningDelta(text="Hm")], "Yes")
