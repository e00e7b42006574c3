"""Each feature with each provider: a conversation, the real adapter, a real socket."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import ClassVar

from django.core.files.base import ContentFile
from django.test import TestCase, override_settings
from pydantic import BaseModel

from converse.models import Conversation, Message
from tests.features import tools
from tests.features.dialects import (
    Answer,
    Anthropic,
    BreakOff,
    Call,
    Chat,
    Cite,
    Decline,
    Dialect,
    Fail,
    Gemini,
    Hold,
    Make,
    Mistral,
    Own,
    Refuse,
    Responses,
    Say,
    Silence,
    Think,
)
from tests.features.service import Service

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"
WAV = (
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00data"
)

TEMPERATURE = "tests.features.tools.temperature"
POPULATION = "tests.features.tools.population"
PARIS = Call("call00001", "temperature", {"city": "Paris"})
CROWD = Call("call00002", "population", {"city": "Paris"})


class Report(BaseModel):
    city: str
    celsius: int


class Features:
    """What a person using any provider sees; a class for each provider says what its API does not have, and why."""

    dialect: ClassVar[Dialect]
    absent: ClassVar[dict[str, str]] = {}

    def setUp(self):
        self.conversation = Conversation.objects.start(context={"system_prompt": "Be brief."})
        if reason := self.absent.get(self._testMethodName):
            self.skipTest(reason)

    @asynccontextmanager
    async def service(self, *answers, **options):
        async with Service(self.dialect, answers) as service:
            with override_settings(
                CONVERSE_PROVIDERS={"default": service.config(**options)}, CONVERSE_RETRY_DELAY=0.01
            ):
                yield service

    async def ask(self, *answers, content="Well?", **kwargs):
        """Ask once; give the reply and the requests' bodies."""
        async with self.service(*answers) as service:
            reply = await self.conversation.aask(content, **kwargs)
        return reply, service.bodies

    # Answers.

    async def test_text_streams(self):
        reply, (body,) = await self.ask(Answer(Say("It is "), Say("sunny.")))
        assert (reply.status, reply.content, reply.finish_reason) == ("completed", "It is sunny.", "stop")
        assert reply.model == "m-1-dated"
        assert self.dialect.system(body) == ["Be brief."]
        assert self.dialect.says(body, "Well?")

    async def test_text_in_every_script(self):
        text = "Grüße, 世界 👩‍👩‍👧 \u2028 ‏שלום"
        reply, _ = await self.ask(Answer(Say(text)))
        assert reply.content == text

    async def test_reasoning_is_shown(self):
        reply, _ = await self.ask(Answer(Think("Let me see."), Say("21.")))
        assert (reply.reasoning, reply.content) == ("Let me see.", "21.")

    async def test_reasoning_goes_back_as_it_was_signed(self):
        reply, bodies = await self.ask(
            Answer(Think("I need it.", "c2lnbmVkIQ=="), PARIS), Answer(Say("21.")), tools=[TEMPERATURE]
        )
        assert reply.status == "completed"
        assert self.dialect.says(bodies[1], "c2lnbmVkIQ==")

    async def test_blocks_of_the_provider_go_back_to_it(self):
        reply, bodies = await self.ask(Answer(Own(), PARIS), Answer(Say("21.")), tools=[TEMPERATURE])
        assert reply.status == "completed"
        assert any(self.dialect.says(bodies[1], own) for own in ("T1dO", "ws_1", "print('own')"))
        assert not any("data" in part for part in Message.public_parts(reply.parts))

    async def test_refusals_are_told(self):
        reply, _ = await self.ask(Answer(Decline("I cannot."), reason=self.refused))
        assert (reply.status, reply.finish_reason) == ("completed", "refusal")
        assert "I cannot." in (reply.refusal, reply.content)

    refused = "stop"

    async def test_sources_are_kept(self):
        reply, _ = await self.ask(Answer(Say("So it is."), Cite("https://example.org/a", "A")))
        [source] = [part for part in reply.parts if part["type"] == "source"]
        assert (source["url"], source["title"]) == ("https://example.org/a", "A")

    async def test_files_come_out(self):
        reply, _ = await self.ask(Answer(Make(PNG)))
        [part] = [part for part in reply.parts if part["type"] == "file"]
        attachment = await reply.attachments.aget(uuid=part["attachment"])
        assert (attachment.mime_type, attachment.file.read()) == ("image/png", PNG)

    # Tools.

    async def test_tools_are_called_and_their_results_read(self):
        reply, (first, second) = await self.ask(
            Answer(Say("A moment. "), PARIS), Answer(Say("21 degrees.")), tools=[TEMPERATURE, POPULATION]
        )
        assert (reply.status, reply.content) == ("completed", "A moment. 21 degrees.")
        assert self.dialect.tools(first) == self.dialect.tools(second) == ["temperature", "population"]
        assert self.dialect.calls(second) == ["call00001"]
        [(call_id, result)] = self.dialect.results(second)
        assert (call_id, '"celsius":21' in result.replace(" ", "")) == ("call00001", True)

    async def test_tools_run_in_parallel_and_answer_in_order(self):
        _, (_, body) = await self.ask(Answer(PARIS, CROWD), Answer(Say("Both.")), tools=[TEMPERATURE, POPULATION])
        assert self.dialect.calls(body) == [call_id for call_id, _ in self.dialect.results(body)]
        assert [result for _, result in self.dialect.results(body)][1] == "5000"

    async def test_failures_of_tools_are_read_by_the_model(self):
        call = Call("call00003", "broken", {"city": "Paris"})
        reply, (_, body) = await self.ask(Answer(call), Answer(Say("Sorry.")), tools=["tests.features.tools.broken"])
        [(_, result)] = self.dialect.results(body)
        assert (reply.status, "no such city: Paris" in result) == ("completed", True)

    async def test_a_tool_can_be_demanded(self):
        _, bodies = await self.ask(
            Answer(PARIS), Answer(Say("21.")), tools=[TEMPERATURE, POPULATION], tool_choice="temperature"
        )
        assert [self.dialect.choice(body) for body in bodies] == ["temperature", "auto"]

    async def test_a_tool_waits_for_approval(self):
        call = Call("call00004", "book", {"city": "Paris"})
        async with self.service(Answer(call), Answer(Say("Done."))) as service:
            reply = await self.conversation.aask("Book!", tools=["tests.features.tools.book"])
            assert reply.status == "waiting"
            with override_settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner"):
                await reply.aapprove("call00004")
            await self.finished(reply)
        assert (reply.status, reply.content) == ("completed", "Done.")
        assert self.dialect.results(service.bodies[1]) == [("call00004", "booked Paris")]

    async def finished(self, reply):
        from converse.driving import run

        await run(reply.pk)
        await reply.arefresh_from_db()

    async def test_an_answer_has_the_form_asked_for(self):
        reply, (body,) = await self.ask(Answer(Say('{"city": "Paris", "celsius": 21}')), output=Report)
        assert reply.structured == {"city": "Paris", "celsius": 21}
        assert set(self.dialect.schema(body)["properties"]) == {"city", "celsius"}

    # Attachments.

    async def attach(self, name, data):
        return await self.conversation.aattach(ContentFile(data, name))

    async def sees(self, name, data):
        attachment = await self.attach(name, data)
        reply, (body,) = await self.ask(Answer(Say("I see.")), attachments=[attachment])
        assert reply.status == "completed"
        import base64

        return self.dialect.says(body, base64.b64encode(data).decode())

    async def test_images_go_in(self):
        assert await self.sees("dot.png", PNG)

    async def test_documents_go_in(self):
        assert await self.sees("page.pdf", PDF)

    async def test_audio_goes_in(self):
        assert await self.sees("sound.wav", WAV)

    # Accounts and ends.

    async def test_usage_is_counted(self):
        reply, _ = await self.ask(Answer(Say("Hi."), usage=(10, 4, 7)))
        assert (reply.input_tokens, reply.cached_input_tokens, reply.output_tokens) == (10, 4, 7)
        call = await reply.calls.aget()
        assert (call.outcome, call.input_tokens, call.output_tokens) == ("completed", 10, 7)

    async def test_a_length_limit_is_told(self):
        reply, _ = await self.ask(Answer(Say("It is"), reason="length"))
        assert (reply.status, reply.finish_reason, reply.content) == ("completed", "length", "It is")

    async def test_a_content_filter_is_told(self):
        reply, _ = await self.ask(Answer(Say("It is"), reason="content_filter"))
        assert (reply.finish_reason, reply.content) == ("content_filter", "It is")

    async def fail(self, *answers, **kwargs):
        async with self.service(*answers):
            return await self.conversation.aask("Well?", **kwargs)

    async def test_a_refused_key_is_told(self):
        reply = await self.fail(Refuse(401, "sk-feature is wrong"))
        assert (reply.status, reply.error_type) == ("failed", "authentication")
        assert "sk-feature" not in reply.error_detail
        assert "sk-feature" not in reply.error_message

    async def test_a_rate_limit_is_waited_for(self):
        async with self.service(Refuse(429, headers={"retry-after": "0"}), Answer(Say("Now."))):
            reply = await self.conversation.aask("Well?")
        assert (reply.status, reply.content) == ("completed", "Now.")
        outcomes = [call.outcome async for call in reply.calls.order_by("number")]
        assert outcomes == ["failed", "completed"]

    async def test_a_failure_in_the_middle_keeps_what_came(self):
        reply = await self.fail(Answer(Say("It is"), Fail()))
        assert (reply.status, reply.content) == ("failed", "It is")
        assert reply.error_type in ("overloaded", "server")

    async def test_a_reply_without_its_end_is_not_complete(self):
        reply = await self.fail(Answer(Say("It is"), BreakOff()))
        assert (reply.status, reply.error_type, reply.content) == ("failed", "truncated", "It is")

    async def test_another_provider_takes_over(self):
        async with self.service(Refuse(503, "down")) as down, Service(self.dialect, [Answer(Say("Here."))]) as other:
            providers = {"default": {**down.config(), "FALLBACKS": ["other"]}, "other": other.config()}
            with override_settings(CONVERSE_PROVIDERS=providers, CONVERSE_RETRIES=0):
                reply = await self.conversation.aask("Well?")
        assert (reply.status, reply.content, reply.provider) == ("completed", "Here.", "other")

    async def test_a_conversation_moves_here_in_the_middle_of_tool_use(self):
        for other in OTHERS:
            conversation = await Conversation.objects.astart()
            async with Service(other, [Answer(Think("Hm."), Own(), PARIS, CROWD), Answer(Say("Both."))]) as service:
                answers = (
                    service.answers if not isinstance(other, Chat) else [Answer(PARIS, CROWD), Answer(Say("Both."))]
                )
                service.answers = answers
                with override_settings(CONVERSE_PROVIDERS={"default": service.config()}):
                    await conversation.aask("Paris?", tools=[TEMPERATURE, POPULATION])
            # and once more, broken off in the middle of a call
            async with Service(other, [Answer(Say("Again. "), PARIS, BreakOff())]) as service:
                with override_settings(CONVERSE_PROVIDERS={"default": service.config()}):
                    await conversation.aask("And again?", tools=[TEMPERATURE, POPULATION])
            async with self.service(Answer(Say("Hello from here."))) as service:
                reply = await conversation.aask("Still there?", tools=[TEMPERATURE, POPULATION])
            [body] = service.bodies
            assert reply.status == "completed", type(other).__name__
            ids = self.dialect.calls(body)
            assert len(ids) == 2, type(other).__name__
            assert ids == [call_id for call_id, _ in self.dialect.results(body)], type(other).__name__
            foreign = type(other).__name__ != type(self.dialect).__name__
            assert not (foreign and self.dialect.says(body, "c2lnbmVk")), type(other).__name__

    # Stops.

    async def stopped(self, answer, *, tools=(), holding=None):
        """Stop a reply where its answer stands still; give the reply. The next turn has to work."""
        async with self.service(answer, Answer(Say("Again."))) as service:
            asked = asyncio.create_task(self.conversation.aask("Well?", tools=list(tools)))
            async with asyncio.timeout(10):
                await (holding or service.held).wait()
            reply = await self.conversation.messages.open().aget()
            await self.until_stored(reply, answer)
            await reply.astop()
            if holding is None:
                async with asyncio.timeout(1):
                    await service.gone.wait()
            await asked
            again = await self.conversation.aask("Once more?", tools=list(tools))
            body = service.bodies[-1]
        assert (again.status, again.content) == ("completed", "Again.")
        assert self.dialect.calls(body) == [call_id for call_id, _ in self.dialect.results(body)]
        await reply.arefresh_from_db()
        assert reply.status == "cancelled"
        return reply

    async def until_stored(self, reply, answer):
        """Wait until what was sent before the hold is stored."""
        said = isinstance(answer, Answer) and any(isinstance(item, Say | Think) for item in answer.items)
        async with asyncio.timeout(5):
            while said and not await reply.chunks.aexists():
                await asyncio.sleep(0.01)

    async def test_a_stop_before_the_headers(self):
        reply = await self.stopped(Silence())
        assert reply.content == ""

    async def test_a_stop_in_the_reasoning(self):
        reply = await self.stopped(Answer(Think("Let me see."), Hold()))
        assert reply.reasoning == "Let me see."

    async def test_a_stop_in_the_text(self):
        reply = await self.stopped(Answer(Say("It is"), Hold()))
        assert reply.content == "It is"

    async def test_a_stop_in_the_arguments_of_a_call(self):
        call = Call("call00001", "temperature", {"city": "Paris"}, hold=True)
        reply = await self.stopped(Answer(Say("A moment."), call), tools=[TEMPERATURE])
        assert reply.content == "A moment."

    async def test_a_stop_while_a_tool_runs(self):
        tools.running = asyncio.Event()
        call = Call("call00001", "endless", {"city": "Paris"})
        reply = await self.stopped(
            Answer(Say("A moment."), call), tools=["tests.features.tools.endless"], holding=tools.running
        )
        assert reply.content == "A moment."

    async def test_a_stop_while_a_call_waits_for_approval(self):
        call = Call("call00004", "book", {"city": "Paris"})
        async with self.service(Answer(Say("A moment."), call), Answer(Say("Again."))) as service:
            reply = await self.conversation.aask("Book!", tools=["tests.features.tools.book"])
            assert reply.status == "waiting"
            assert await reply.astop()
            again = await self.conversation.aask("Once more?", tools=["tests.features.tools.book"])
            body = service.bodies[-1]
        assert (again.status, again.content) == ("completed", "Again.")
        assert self.dialect.calls(body) == [call_id for call_id, _ in self.dialect.results(body)]
        await reply.arefresh_from_db()
        assert (reply.status, reply.content) == ("cancelled", "A moment.")


NO_SIGNATURE = "Chat Completions has no signed reasoning."
NO_OWN = "Chat Completions has no blocks of the provider's own."
CHAT = {
    "test_reasoning_goes_back_as_it_was_signed": NO_SIGNATURE,
    "test_blocks_of_the_provider_go_back_to_it": NO_OWN,
}


class OpenAIChatTests(Features, TestCase):
    """OpenAI Chat Completions, and servers compatible with it"""

    dialect = Chat()
    absent = CHAT


class OpenAIResponsesTests(Features, TestCase):
    """OpenAI Responses"""

    dialect = Responses()
    absent: ClassVar = {"test_audio_goes_in": "Responses takes no audio."}


class AnthropicTests(Features, TestCase):
    """Anthropic Messages"""

    dialect = Anthropic()
    refused = "refusal"
    absent: ClassVar = {
        "test_files_come_out": "Messages gives no files inline.",
        "test_audio_goes_in": "Messages takes no audio.",
        "test_a_content_filter_is_told": "Messages tells a refusal instead.",
    }


class GeminiTests(Features, TestCase):
    """Gemini"""

    dialect = Gemini()
    absent: ClassVar = {
        "test_refusals_are_told": "Gemini tells a content filter instead.",
        "test_a_stop_in_the_arguments_of_a_call": "Gemini sends a call whole.",
    }


class MistralTests(Features, TestCase):
    """Mistral"""

    dialect = Mistral()
    absent: ClassVar = {
        **CHAT,
        "test_refusals_are_told": "Mistral has no refusals of their own.",
        "test_files_come_out": "Mistral gives no files in an answer.",
    }


OTHERS = [Chat(), Responses(), Anthropic(), Gemini(), Mistral()]
