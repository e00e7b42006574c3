"""Tools that misbehave, models that call them as they should not, processes that die under them."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import threading
from collections.abc import Sequence
from time import monotonic, sleep
from typing import Any

from django.test import TransactionTestCase

from converse.deltas import TextDelta, ToolCallDelta
from converse.loops import background
from converse.models import Conversation, Message, ProviderCall
from converse.providers.base import Prompt, Provider
from converse.testing import call, ends, scripted
from tests.faults import tools
from tests.faults.conftest import World
from tests.faults.readers import following, report
from tests.faults.test_approvals import AGENT, until
from tests.readers import Assembled, catch_up
from tests.servers import wait_until

PATIENCE = 20
LEASE = 1.0


class Case(TransactionTestCase):
    """Replies run where they do in production: in the background, each synchronous tool in a thread of its own."""

    def setUp(self) -> None:
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)
        self.conversation = Conversation.objects.start(title="Attacked")

    def reply(self, *steps: Any, then: Sequence[Any] = ("Done.",), functions: Sequence[Any], **kwargs: Any) -> Message:
        """Have a model say this, and then that; give the reply once it is closed or waits."""
        with scripted(list(steps), list(then)) as self.script:
            self.message = self.conversation.reply("Hi", tools=functions, **kwargs)
            return self.settled(self.message)

    def settled(self, message: Message) -> Message:
        deadline = monotonic() + PATIENCE
        while (found := Message.all_objects.get(pk=message.pk)).is_open and found.status != "waiting":
            assert monotonic() < deadline, f"the reply is {found.status} still"
            sleep(0.01)
        assert not found.calls.filter(outcome="running").exists()
        return found

    def result(self, name: str, /, *, functions: Sequence[Any], **arguments: Any) -> tuple[str, bool]:
        """Give the one result that a call has, after which the model went on."""
        reply = self.reply(call(name, arguments), functions=functions)
        assert (reply.status, reply.content) == ("completed", "Done."), reply.error_detail
        [result] = results(reply)
        return result


def results(reply: Message) -> list[tuple[str, bool]]:
    return [(part["output"], part.get("is_error", False)) for part in reply.parts if part["type"] == "tool_result"]


class BadToolTests(Case):
    def test_whatever_a_tool_raises_is_a_result_and_ends_nothing_else(self):
        for function in (tools.throw, tools.throw_async):
            for what, text in (
                ("exit", "SystemExit: bye"),
                ("interrupt", "KeyboardInterrupt: ^C"),
                ("generator", "GeneratorExit: over"),
                ("group", "BaseExceptionGroup: several (2 sub-exceptions)"),
                ("stop", "RuntimeError: coroutine raised StopIteration"),
                ("cancel", "CancelledError: the tool cancelled itself."),
                ("silent", "_Silent"),
            ):
                assert self.result(function.__name__, functions=[function], what=what) == (text, True)

    def test_where_it_cannot_be_told_whether_somebody_has_to_approve_somebody_has_to(self):
        for what in ("exit", "interrupt", "generator", "group", "cancel", "silent"):
            reply = self.reply(call("throw_before", what=what), functions=[tools.throw_before])
            assert reply.status == "waiting"
            assert reply.stop()

    def test_arguments_whose_reading_would_end_the_process_do_not(self):
        for what in ("exit", "interrupt", "generator"):
            output, is_error = self.result("picky", functions=[tools.picky], what=what)
            assert is_error
            assert output.startswith("The arguments could not be read: ")

    def test_fifty_megabytes_are_cut_and_hold_nobody_up(self):
        latest, longest = [monotonic()], [0.0]
        over = threading.Event()

        async def beat() -> None:
            while not over.is_set():
                longest[0] = max(longest[0], monotonic() - latest[0])
                latest[0] = monotonic()
                await asyncio.sleep(0.01)

        beating = asyncio.run_coroutine_threadsafe(beat(), background())
        output, is_error = self.result("flood", functions=[tools.flood], megabytes=50)
        over.set()
        beating.result(5)
        assert not is_error
        assert output.startswith("a\ufffd\ufffdé")
        assert output.endswith("[The result was cut: these are the first 50000 of 50000000 characters.]")
        assert len(output) < 51_000
        assert longest[0] < 2, longest

    def test_what_json_cannot_say_is_a_result_that_can_be_stored(self):
        assert self.result("odd", functions=[tools.odd], what="nan") == ("[null,null]", False)
        assert self.result("odd", functions=[tools.odd], what="nothing") == ("null", False)
        for what in ("surrogate", "bytes", "endless"):
            output, is_error = self.result("odd", functions=[tools.odd], what=what)
            assert is_error
            output.encode()

    def test_a_tool_that_hears_nothing_is_left_behind(self):
        assert self.result("deaf", functions=[tools.deaf]) == ("The tool took longer than 0.3 seconds.", True)

    def test_a_reply_is_stopped_though_its_tool_hears_nothing(self):
        with scripted([call("stone_deaf")], ["Never."]):
            reply = self.conversation.reply("Hi", tools=[tools.stone_deaf])
            wait_until(tools.hearing.is_set, "the tool's start")
            assert reply.stop()
            assert self.conversation.ask("And now?").status == "completed"
        tools.hearing.clear()

    def test_a_thread_may_use_the_asynchronous_orm_in_a_loop_of_its_own(self):
        assert self.result("bridge", functions=[tools.bridge]) == ("2", False)

    def test_two_hundred_calls_at_once_are_run_some_at_a_time_and_leave_no_connection(self):
        tools.crowd.update(now=0, most=0)
        calls = [call("rename", title=str(number)) for number in range(200)]
        reply = self.reply(*calls, functions=[tools.rename])
        assert reply.status == "completed"
        assert results(reply) == [(f"{number}, autocommit True", False) for number in range(200)]
        assert 1 < tools.crowd["most"] <= 16
        wait_until(lambda: not [t for t in threading.enumerate() if t.name == "converse-apart"], "the threads' end")

    def test_a_tool_may_write_to_the_very_conversation(self):
        assert self.result("note", functions=[tools.note], text="By the way") == ("user", False)
        turn, reply, note = self.conversation.messages.order_by("offset")
        assert (reply.follows, note.follows, note.current) == (turn.offset, reply.offset, True)
        asked = self.result("ask_again", functions=[tools.ask_again], text="And you?")
        assert (asked[0].partition(":")[0], asked[1]) == ("ConversationBusy", True)

    def test_a_tool_that_stops_its_own_reply_or_deletes_it_has_done_so(self):
        for function in (tools.give_up, tools.give_up_async, tools.delete_all):
            reply = self.reply(call(function.__name__), functions=[function])
            assert (reply.status, results(reply), len(self.script.prompts)) == ("cancelled", [], 1)
        assert Conversation.all_objects.get(pk=self.conversation.pk).deleted_at

    def test_a_tool_that_removes_its_conversation_for_good_leaves_an_account(self):
        with scripted([call("purge_all")], ["Never."]):
            self.conversation.reply("Hi", tools=[tools.purge_all])
            wait_until(lambda: not Message.all_objects.exists(), "the purge")
            wait_until(lambda: ProviderCall.objects.filter(outcome="completed", message=None).count() == 1, "the end")
        again = Conversation.objects.start()
        with scripted(["Fine."]):
            assert again.ask("Hi").content == "Fine."


class BadModelTests(Case):
    def test_arguments_that_are_none_are_told_to_the_model_and_poison_nothing(self):
        for arguments, problem in (
            ("[" * 100_000, "recursion limit"),
            ('{"text":' * 50_000, "recursion limit"),
            ('{"text": "a"', "EOF"),
            ("null", "should be an object"),
            ('{"text": "\\ud800"}', "hex escape"),
            ('{"text": NaN}', "valid string"),
            ('{"a\\u0000": 1, "text": "b"}', "not permitted"),
        ):
            reply = self.reply(call("say", arguments), functions=[tools.say])
            [(output, is_error)] = results(reply)
            assert (reply.status, is_error) == ("completed", True)
            assert problem in output

    def test_the_last_of_two_arguments_of_one_name_counts(self):
        reply = self.reply(call("say", '{"text": "a", "text": "b"}'), functions=[tools.say])
        assert results(reply) == [("b", False)]

    def test_five_megabytes_of_arguments_reach_the_tool_and_the_next_prompt(self):
        reply = self.reply(call("say", text="x" * 5_000_000), functions=[tools.say])
        [(output, _)] = results(reply)
        assert output.endswith("these are the first 50000 of 5000000 characters.]")
        [*_, said, _] = self.script.prompt.messages
        assert len(said.parts[0].arguments) > 5_000_000

    def test_calls_of_one_id_and_of_unknown_tools_have_a_result_each(self):
        reply = self.reply(
            call("say", id="a", text="1"), call("say", id="a", text="2"), call("nosuch", id="a"), functions=[tools.say]
        )
        assert results(reply) == [("1", False), ("2", False), ("There is no tool 'nosuch', only say.", True)]
        ids = [part["id"] for part in reply.parts if part["type"] == "tool_call"]
        assert len(set(ids)) == 3
        assert [part["id"] for part in reply.parts if part["type"] == "tool_result"] == ids

    def test_a_model_that_calls_for_ever_comes_to_its_last_step(self):
        reply = self.reply(then=[call("say", text="again")], functions=[tools.say], max_steps=4)
        assert (reply.status, reply.finish_reason) == ("completed", "stop")
        again = self.reply(call("say", text="x"), then=[call("say", text="x")], functions=[tools.say], max_steps=4)
        assert (again.status, again.finish_reason, len(results(again))) == ("completed", "steps", 4)

    def test_arguments_between_which_something_is_said_are_put_together_by_everybody(self):
        reader = Assembled()
        asyncio.run(catch_up(self.conversation, reader))
        reply = self.reply(
            ToolCallDelta(index=0, id="a", name="say", arguments='{"text"'),
            ToolCallDelta(index=1, id="b", name="say", arguments='{"text": '),
            "words",
            ToolCallDelta(index=1, arguments='"y"}'),
            ToolCallDelta(index=0, arguments=': "x"}'),
            ends("tool_calls"),
            functions=[tools.say],
        )
        assert results(reply) == [("x", False), ("y", False)]
        asyncio.run(catch_up(self.conversation, reader))
        assert reader.parts[str(reply.uuid)] == reply.public_parts(reply.parts)

    def test_a_provider_that_would_end_the_process_ends_its_own_reply_only(self):
        backend = {"BACKEND": "tests.faults.test_tools.EndingProvider"}
        with self.settings(CONVERSE_PROVIDERS={"default": backend}):
            for _ in range(2):
                reply = self.settled(self.conversation.reply("Hi"))
                assert (reply.status, reply.content) in (("failed", "Bye"), ("cancelled", "Bye"))
        with scripted(["Fine."]):
            assert self.settled(self.conversation.reply("Hi")).content == "Fine."
        gc.collect()  # the tasks that ended so are complained about now, when nobody listens


class EndingProvider(Provider):
    async def astream(self, prompt: Prompt):
        yield TextDelta("Bye")
        raise KeyboardInterrupt if len(prompt.messages) == 1 else SystemExit


# Processes.

TOOLS = [f"tests.faults.tools.{name}" for name in ("say", "nap", "doze", "pay")]


def agent(*steps: list[list[Any]]) -> str:
    return json.dumps({"steps": steps})


def test_a_process_killed_in_the_middle_of_a_tool_leaves_what_came_and_the_next_turn_works(world: World) -> None:
    [conversation] = world.conversations(1)
    first = world.open_shell(**AGENT, CONVERSE_LEASE=LEASE)
    said = [["text", "Once"], ["call", ["say", {"text": "a"}]], ["call", ["nap", {"seconds": 60}]]]
    reply = first.do("reply", conversation=conversation, content=agent(said), tools=TOOLS)
    wait_until(lambda: "tool_result" in kinds(world, reply), "the first result")
    first.kill()
    wait_until(lambda: world.shell.do("settle", conversation=conversation), "the end of the lease", 5 * LEASE)
    facts = world.shell.do("message", message=reply)
    assert (facts["status"], facts["error_type"], facts["content"]) == ("failed", "interrupted", "Once ")
    parts = world.shell.do("parts", conversation=conversation)[reply]
    assert [part["type"] for part in parts] == ["text", "tool_call", "tool_call", "tool_result"]
    assert [call["outcome"] for call in world.shell.do("calls", message=reply)] == ["completed"]
    second = world.open_shell(**AGENT)
    following = second.do("reply", conversation=conversation, content=agent([["text", "On."]]), tools=TOOLS)
    until(world, following, status="completed", content="On. ")
    assert second.complaints() == []


def kinds(world: World, message: str) -> list[str]:
    return world.shell.do("kinds", message=message)


def test_a_stop_from_elsewhere_ends_tools_that_run_and_drops_what_they_give(world: World) -> None:
    [conversation] = world.conversations(1)
    producer = world.open_shell(**AGENT)
    calls = [["call", ["doze", {"seconds": 30}]], *[["call", ["nap", {"seconds": 1}]]] * 4]
    reply = producer.do("reply", conversation=conversation, content=agent(calls, [["text", "Never."]]), tools=TOOLS)
    wait_until(lambda: producer.do("threads") == 4, "the tools")
    assert world.shell.do("stop", message=reply)
    wait_until(lambda: producer.do("at_rest"), "the end of the reply", 4)
    wait_until(lambda: producer.do("threads") == 0, "what the threads give")
    assert kinds(world, reply) == ["tool_call"] * 5
    assert world.shell.do("message", message=reply)["status"] == "cancelled"
    assert producer.complaints() == []


MANY_KINDS = agent(
    [
        ["think", "Hm. " * 20],
        ["text", "Let me look that up. " * 10],
        ["source", "https://example.com/a"],
        ["call", ["say", {"text": "é漢🙂" * 20}]],
        ["call", ["doze", {"seconds": 0.05}]],
    ],
    [
        ["raw", "nobody's business"],
        ["text", "Now for the payment. " * 10],
        ["call", ["pay", {"amount": 1}]],
        ["call", ["pay", {"amount": 2}]],
    ],
    [["file", "a note"], ["think", "So be it. " * 10], ["text", "Done. " * 50], ["source", "https://example.com/b"]],
)


async def test_every_kind_of_part_reaches_every_reader_whatever_the_layer_and_the_sockets_do(
    world: World, kind: str
) -> None:
    rule = {"CONVERSE_CLIENT_REPLY": "tests.faults.rules.paying"}
    server = world.serve(kind, {"drop": 0.3, "double": 0.1, "late": 0.1}, **AGENT, **rule)
    conversations = world.conversations(3)
    readers = [world.reader(server, [uuid], aborts=0.5, seed=seed) for seed, uuid in enumerate(conversations * 3)]
    async with following([*readers, world.reader(server, conversations)]) as readers:
        replies = {}
        for uuid in conversations:
            answer = await readers[-1].ask("send", conversation=uuid, content=MANY_KINDS)
            replies[uuid] = answer["reply"]
        for uuid, reply in replies.items():
            copy = readers[-1].copies[uuid]
            await readers[-1].until(lambda copy=copy: copy.replies and copy.replies[-1].data["status"] == "waiting")
            for waiting in world.shell.do("waits", message=reply):
                answer = await readers[-1].ask("approve", message=reply, call=waiting, reason="Why not?")
                assert answer["type"] == "decided"
        await asyncio.gather(*(reader.until_closed() for reader in readers))
        report(f"parts, {kind}, {world.stack.name}", readers)
        await world.check(readers)
        parts = readers[-1].copies[conversations[0]].replies[-1].parts
    told = [part["type"] for part in parts]
    assert told == [
        *("reasoning", "text", "source", "tool_call", "tool_call", "tool_result", "tool_result"),
        *("raw", "text", "tool_call", "tool_call", "approval", "approval", "tool_result", "tool_result"),
        *("file", "reasoning", "text", "source"),
    ]
    seen = json.dumps(parts)
    assert not [private for private in ("secret", "nobody's business", "signature", "origin") if private in seen]
    assert str([part for part in parts if part["type"] == "approval"]).count("'by'") == 0
    assert sum(reader.reconnects for reader in readers) > 0
    assert server.complaints() == []


async def test_a_call_of_megabytes_passes_every_server(world: World, kind: str) -> None:
    rule = {"CONVERSE_CLIENT_REPLY": "tests.faults.rules.paying", "CONVERSE_SWEEP_INTERVAL": 0.2}
    bulky = {"CONVERSE_PROVIDERS": {"default": {"BACKEND": "tests.faults.providers.BulkyProvider"}}}
    server = world.serve(kind, **bulky, **rule)
    [conversation] = world.conversations(1)
    async with following([world.reader(server, [conversation])]) as [live]:
        await live.ask("send", conversation=conversation, content="Hi")
        await live.until_closed()
        await world.check([live])
        async with following([world.reader(server, [conversation])]) as [late]:
            pass
    [_, reply] = live.copies[conversation].messages.values()
    [latest] = late.copies[conversation].messages.values()  # more does not go into a snapshot
    assert len(reply.parts[0]["arguments"]) > 2_000_000
    assert latest.parts == reply.parts
    assert 200_000 < max(live.largest, late.largest) < 2**20
    assert live.reconnects == 0
    assert server.complaints() == []
