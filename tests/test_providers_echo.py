from __future__ import annotations

import asyncio
from unittest import mock

from django.test import SimpleTestCase
from hypothesis import given
from hypothesis import strategies as st

from converse.choices import FinishReason
from converse.deltas import Finish, Started, TextDelta, Usage
from converse.providers import Prompt, PromptMessage
from converse.providers.echo import EchoProvider
from tests.recordings import ask, listen


class EchoProviderTests(SimpleTestCase):
    async def test_the_users_last_words_come_back_one_by_one(self):
        turns = [
            PromptMessage(role="system", text="Be kind."),
            PromptMessage(role="user", text="First"),
            PromptMessage(role="user", text="Hello,  wide\nworld! "),
            PromptMessage(role="assistant", text="Oh."),
        ]
        heard = await listen(EchoProvider(delay=0), Prompt(messages=turns))
        words = ["Hello,", "  wide", "\nworld!", " "]
        assert heard.deltas == [
            Started(model="echo"),
            *map(TextDelta, words),
            Usage(input=7, output=4, raw={"input_words": 7, "output_words": 4}),
            Finish(reason=FinishReason.STOP, raw="stop"),
        ]

    @given(st.text())
    def test_the_echo_equals_the_text_to_the_byte(self, text):
        assert asyncio.run(listen(EchoProvider(delay=0), ask(text))).text == text

    async def test_without_a_user_there_is_nothing_to_say(self):
        heard = await listen(EchoProvider(model="parrot"), Prompt(messages=[]))
        assert heard.text == ""
        assert heard.deltas[0] == Started(model="parrot")
        assert heard.finish == Finish(reason=FinishReason.STOP, raw="stop")

    async def test_the_prompt_may_name_another_model(self):
        heard = await listen(EchoProvider(delay=0), ask("Hi", model="canyon"))
        assert heard.deltas[0] == Started(model="canyon")

    async def test_each_word_takes_its_time(self):
        with mock.patch("converse.providers.echo.asyncio.sleep") as sleep:
            await listen(EchoProvider(delay=0.5), ask("one two three"))
        assert [call.args for call in sleep.await_args_list] == [(0.5,)] * 3
