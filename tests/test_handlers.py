"""Handlers and callbacks of a stream: what they see, what they may do, and that a failing one harms nobody."""

from __future__ import annotations

import asyncio
import logging
import sys
from unittest.mock import patch

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.db import DatabaseError
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from converse import closing, handlers, journal, loops
from converse.checks import check_settings
from converse.closing import settle_abandoned
from converse.deltas import ReasoningDelta, TextDelta, ToolCallDelta
from converse.driving import run
from converse.exceptions import AnotherWriter, InvalidMessage, MessageClosed, Stopped, Vetoed
from converse.handlers import CharacterCount, Handler, Handlers, Limit, WordCount, html
from converse.models import Conversation, Message
from converse.testing import call, captured_events, scripted, thinks
from tests import watchers
from tests.watchers import AsyncWatcher, AtTheEnd, Broken, Watcher

immediately = override_settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner")
quiet = patch.object(logging.getLogger("converse.handlers.callbacks"), "disabled", True)


def stop_elsewhere(message):
    """Stop a message as another process does, which knows no object of this one."""
    Message.objects.get(pk=message.pk).stop()


class Case(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()

    def setUp(self):
        watchers.told.clear()
        self.enterContext(quiet)


class SyncStreamTests(Case):
    def test_each_handler_has_a_result_of_its_own_and_the_message_keeps_them(self):
        with self.conversation.stream_reply(handlers={"words": WordCount(), "letters": watchers.letters}) as stream:
            stream.append("Once ").append("upon a time")
            assert stream.handlers.results == {"words": 4, "letters": 16}
        assert stream.message.metadata["handlers"] == {"words": 4, "letters": 16}
        assert stream.message.content == "Once upon a time"

    def test_handlers_see_what_is_appended_in_order_from_the_start_to_the_end(self):
        watcher, text = Watcher(), AsyncWatcher()
        text.kinds = ("text",)
        with self.conversation.stream_reply(handlers={"all": watcher, "text": text}) as stream:
            stream.append(ReasoningDelta(text="Hm.")).append("a").append("").append(TextDelta("b"))
            stream.append(ToolCallDelta(index=0, id="1", name="weather"))
        assert watcher.seen == [
            ("start", None, "assistant"),
            ("take", ReasoningDelta(text="Hm.")),
            ("take", "a"),
            ("take", "b"),
            ("take", ToolCallDelta(index=0, id="1", name="weather")),
            ("end", "completed"),
        ]
        assert stream.handlers.results["text"] == ["a", "b"]

    def test_a_handler_sees_a_piece_before_it_is_stored(self):
        stored = []
        message = self.conversation.start_streaming_assistant()
        message.stream.handlers.add("look", lambda result, text: stored.append(message.text))
        message.append_chunk("a")
        message.append_chunk("b")
        assert stored == ["", "a"]

    def test_a_failing_handler_is_recorded_and_left_out_and_nobody_else_is_harmed(self):
        for where, calls in (
            ("start", ["start"]),
            ("take", ["start", "take"]),
            ("end", ["start", "take", "take", "end"]),
        ):
            broken = Broken(where)
            with self.conversation.stream_reply(handlers={"broken": broken, "words": WordCount()}) as stream:
                stream.append("one ").append("two")
            assert broken.calls == calls
            assert stream.handlers.errors == {"broken": "RuntimeError: it broke"}
            assert stream.message.metadata["handlers"] == {"broken": {"error": "RuntimeError: it broke"}, "words": 2}
            assert stream.message.is_completed
            assert stream.message.content == "one two"

    def test_so_is_an_async_one_in_a_sync_stream(self):
        class Breaks(AsyncWatcher):
            async def take(self, result, delta):
                raise RuntimeError("it broke too")

        with self.conversation.stream_reply(handlers=[Breaks, WordCount], on_error=None) as stream:
            stream.append("one two")
        assert stream.message.metadata["handlers"] == {
            "Breaks": {"error": "RuntimeError: it broke too"},
            "WordCount": 2,
        }

    def test_whatever_an_error_says_it_can_be_stored(self):
        with self.conversation.stream_reply(handlers={"broken": Broken(exc=ValueError("\x00\ud800"))}) as stream:
            stream.append("x")
        assert stream.message.metadata["handlers"]["broken"]["error"] == "ValueError: \ufffd\ufffd"

    def test_an_iterator_that_runs_out_in_a_handler_is_an_error_like_any_other(self):
        with self.conversation.stream_reply(handlers={"next": lambda result, text: next(iter(()))}) as stream:
            stream.append("x")
        assert stream.message.metadata["handlers"]["next"] == {"error": "StopIteration: "}

    def test_a_result_that_is_no_json_is_recorded_as_an_error(self):
        with self.conversation.stream_reply(handlers={"set": lambda result, text: {text}, "none": len_none}) as stream:
            stream.append("x")
        assert "must be JSON" in stream.message.metadata["handlers"]["set"]["error"]
        assert "none" not in stream.message.metadata["handlers"]
        assert stream.handlers.results["set"] == {"x"}

    def test_a_veto_keeps_the_piece_unseen_and_fails_the_message(self):
        watcher = Watcher()
        with (
            captured_events(self.conversation) as events,
            pytest.raises(Vetoed, match="a bad word"),
            self.conversation.stream_reply(handlers={"watch": watcher, "moderation": watchers.Profanity}) as stream,
        ):
            stream.append("This is ").append("darned good")
        message = Message.objects.get(pk=stream.message.pk)
        assert (message.status, message.error_type, message.content) == ("failed", "content_blocked", "This is ")
        assert message.error_message == "The assistant declined to answer this."
        assert message.error_detail == "Vetoed: a bad word"
        assert message.metadata["ended_by"] == "moderation"
        assert [seen for seen in watcher.seen if seen[0] == "take"] == [("take", "This is ")]
        assert watcher.seen[-1] == ("end", "failed")
        assert events.text() == "This is "

    def test_a_stop_leaves_the_block_quietly_and_what_came_stays(self):
        with self.conversation.stream_reply(handlers={"limit": Limit(characters=6), "words": WordCount()}) as stream:
            stream.append("four ").append("letters").append("never")
        message = Message.objects.get(pk=stream.message.pk)
        assert (message.status, message.content) == ("cancelled", "four l")
        assert message.metadata["ended_by"] == "limit"
        assert message.metadata["ended_because"] == "There are 6 characters."
        assert message.metadata["handlers"] == {"limit": {"characters": 6, "deltas": 2}, "words": 2}

    def test_without_a_block_a_veto_or_stop_closes_the_message_too(self):
        for handler, status in ((watchers.Profanity, "failed"), (Limit(deltas=1), "cancelled")):
            message = self.conversation.start_streaming_assistant()
            message.stream.handlers.add("judge", handler)
            message.append_chunk("fine ")
            with pytest.raises((Vetoed, Stopped)):
                message.append_chunk("darn")
            assert (message.status, message.content) == (status, "fine ")

    def test_a_stop_of_an_observer_lets_the_whole_piece_be_stored(self):
        with self.conversation.stream_reply(handlers={"stop": Broken("take", Stopped("enough"))}) as stream:
            stream.append(TextDelta("all of it"))
        assert (stream.message.status, stream.message.content) == ("cancelled", "all of it")

    def test_a_stop_may_come_of_something_that_is_no_text(self):
        stopping = Broken("take", Stopped("no thinking", keep=""))
        stopping.kinds = ("reasoning",)
        with self.conversation.stream_reply(handlers={"stop": stopping}) as stream:
            stream.append("a").append(ReasoningDelta(text="Hm.")).append("b")
        assert (stream.message.status, stream.message.content, stream.message.reasoning) == ("cancelled", "a", "Hm.")

    def test_a_veto_at_the_end_turns_completion_into_failure(self):
        watcher = Watcher()
        with (
            pytest.raises(Vetoed, match="not with me"),
            self.conversation.stream_reply(handlers={"watch": watcher, "judge": AtTheEnd()}) as stream,
        ):
            stream.append("x")
        message = Message.objects.get(pk=stream.message.pk)
        assert (message.status, message.error_message, message.content) == ("failed", "This was taken back.", "x")
        assert watcher.seen[-1] == ("end", "failed")

    def test_a_veto_or_stop_at_the_end_of_what_failed_changes_nothing(self):
        with (
            pytest.raises(ZeroDivisionError),
            self.conversation.stream_reply(handlers=[AtTheEnd, watchers.StopsAtTheEnd]) as stream,
        ):
            stream.append(str(1 / 0))
        assert (stream.message.status, stream.message.error_type) == ("failed", "error")

    def test_a_stream_that_says_nothing_starts_and_ends_its_handlers_all_the_same(self):
        watcher = Watcher()
        message = self.conversation.start_streaming_assistant()
        message.stream.handlers.add("watch", watcher)
        message.fail_streaming("nothing came")
        assert watcher.seen == [("start", None, "assistant"), ("end", "failed")]

    def test_a_message_closed_by_somebody_else_ends_the_handlers_and_keeps_their_results(self):
        watcher = Watcher()
        with (
            pytest.raises(MessageClosed),
            self.conversation.stream_reply(
                handlers={"watch": watcher, "words": WordCount()}, on_cancel=watchers.on_cancel
            ) as stream,
        ):
            stream.append("one ")
            stop_elsewhere(stream.message)
            stream.append("two")
        assert watcher.seen[-1] == ("end", "cancelled")
        message = Message.objects.get(pk=stream.message.pk)
        assert message.metadata["handlers"] == {"watch": ["one ", "two"], "words": 2}
        assert watchers.told == [("cancel", "one ")]

    def test_a_stop_that_is_found_out_at_the_end_only_is_told_as_one(self):
        message = self.conversation.start_streaming_assistant()
        message.stream.handlers.add("words", WordCount()).listen(
            on_complete=watchers.on_complete, on_cancel=watchers.on_cancel
        )
        message.append_chunk("one")
        stop_elsewhere(message)
        with pytest.raises(MessageClosed):
            message.complete_streaming()
        assert watchers.told == [("cancel", "one")]
        assert Message.objects.get(pk=message.pk).metadata["handlers"] == {"words": 1}

    def test_a_message_that_is_gone_was_cancelled(self):
        message = self.conversation.start_streaming_assistant()
        message.stream.handlers.add("words", WordCount()).listen(on_cancel=watchers.breaks)
        message.append_chunk("one")
        Message.objects.get(pk=message.pk).purge()
        with pytest.raises(MessageClosed):
            message.append_chunk("two")
        assert message.is_cancelled

    def test_another_writer_ends_the_handlers_of_the_one_that_lost(self):
        watcher = Watcher()
        message = self.conversation.start_streaming_assistant()
        message.stream.handlers.add("watch", watcher).listen(on_error=watchers.on_error)
        message.append_chunk("mine")
        Message.objects.get(pk=message.pk).append_chunk(" not mine")
        with pytest.raises(AnotherWriter):
            message.append_chunk(" mine again")
        assert watcher.seen[-1] == ("end", "failed")
        assert watchers.told == [("error", "")]
        assert Message.objects.get(pk=message.pk).is_open
        message.complete_streaming()
        assert watchers.told == [("error", "")]

    def test_what_the_caller_writes_into_the_metadata_stays(self):
        with self.conversation.stream_reply({"request": 7}, handlers={"words": WordCount()}) as stream:
            stream.append("one")
            stream.metadata["step"] = 1
        assert stream.message.metadata["request"] == 7
        assert stream.message.metadata["step"] == 1


def len_none(result, text):
    return None


class AsyncStreamTests(Case):
    async def test_sync_and_async_handlers_work_side_by_side(self):
        slow = AsyncWatcher()
        async with self.conversation.astream_reply(handlers={"slow": slow, "words": WordCount()}) as stream:
            await stream.aappend("Once ")
            await stream.aappend("upon")
        assert stream.message.metadata["handlers"] == {"slow": ["Once ", "upon"], "words": 2}
        assert slow.seen[-1] == ("end", "completed")
        assert stream.message.content == "Once upon"

    async def test_handlers_may_be_added_while_it_streams(self):
        async with self.conversation.astream_reply() as stream:
            await stream.aappend("one ")
            stream.handlers.add("words", WordCount())
            await stream.aappend("two")
        assert stream.message.metadata["handlers"] == {"words": 1}

    async def test_a_slow_handler_slows_the_stream_and_nothing_overtakes_it(self):
        order = []

        class Slow(Handler):
            async def take(self, result, text):
                order.append(f"{text} begins")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                order.append(f"{text} ends")

        async with self.conversation.astream_reply(handlers=[Slow]) as stream:
            await stream.aappend("a")
            await stream.aappend("b")
        assert order == ["a begins", "a ends", "b begins", "b ends"]

    async def test_a_veto_and_a_stop_close_the_message(self):
        with pytest.raises(Vetoed):
            async with self.conversation.astream_reply(handlers=[watchers.Profanity]) as stream:
                await stream.aappend("This is ")
                await stream.aappend("darn good")
        assert (stream.message.status, stream.message.content) == ("failed", "This is ")
        async with self.conversation.astream_reply(handlers=[watchers.Short]) as stream:
            await stream.aconsume(words("Once ", "upon ", "a time"))
        assert (stream.message.status, stream.message.content) == ("cancelled", "Once upon ")

    async def test_without_a_block_they_do_so_too(self):
        for handler, status in ((watchers.Profanity, "failed"), (Limit(deltas=1), "cancelled")):
            message = await self.conversation.astart_streaming_assistant()
            message.stream.handlers.add("judge", handler)
            await message.stream.aappend("fine ")
            with pytest.raises((Vetoed, Stopped)):
                await message.stream.aappend("darn")
            assert (message.status, message.content) == (status, "fine ")

    async def test_a_veto_at_the_end_fails_the_message(self):
        with pytest.raises(Vetoed):
            async with self.conversation.astream_reply(handlers=[AtTheEnd]) as stream:
                await stream.aappend("x")
        assert stream.message.is_failed

    async def test_a_cancelled_stream_ends_its_handlers(self):
        watcher, reached = AsyncWatcher(), asyncio.Event()

        async def write():
            async with self.conversation.astream_reply(
                handlers={"watch": watcher}, on_cancel=watchers.on_cancel
            ) as stream:
                await stream.aappend("half")
                reached.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(write())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert watcher.seen[-1] == ("end", "cancelled")
        assert watchers.told == [("cancel", "half")]

    async def test_a_handler_that_does_not_end_is_not_waited_for_for_ever(self):
        class Stuck(Handler):
            async def end(self, result, ending):
                await asyncio.Event().wait()

        with patch("converse.handlers.pipeline.PATIENCE", 0.05):
            async with self.conversation.astream_reply(handlers=[Stuck]) as stream:
                await stream.aappend("x")
        assert stream.message.is_completed
        assert stream.message.metadata["handlers"]["Stuck"] == {"error": "TimeoutError: "}

    async def test_without_a_block_a_stop_elsewhere_is_told_when_it_is_found_out(self):
        message = await self.conversation.astart_streaming_assistant()
        message.stream.handlers.add("words", WordCount()).listen(on_cancel=watchers.on_cancel)
        await message.stream.aappend("one ")
        await message.stream.adrain()
        await sync_to_async(stop_elsewhere)(message)
        await message.stream.aappend("two ")
        with pytest.raises(MessageClosed):
            await message.stream.adrain()
        with pytest.raises(MessageClosed):
            await message.stream.aappend("three")
        assert watchers.told == [("cancel", "one ")]
        stored = await Message.objects.aget(pk=message.pk)
        assert stored.metadata["handlers"] == {"words": 3}

    async def test_completing_what_was_stopped_elsewhere_tells_of_the_stop(self):
        for close in ("acomplete", "afail"):
            watchers.told.clear()
            message = await self.conversation.astart_streaming_assistant()
            message.stream.handlers.listen(on_complete=watchers.on_complete, on_cancel=watchers.on_cancel)
            await message.stream.aappend("one")
            await message.stream.adrain()
            await sync_to_async(stop_elsewhere)(message)
            await message.stream.aappend(" two")
            with pytest.raises(MessageClosed):
                await getattr(message.stream, close)(*(["why"] if close == "afail" else []))
            assert watchers.told == [("cancel", "one")]

    async def test_a_body_that_overhears_the_stop_is_told_of_it_again_and_the_callback_once(self):
        with pytest.raises(MessageClosed):
            async with self.conversation.astream_reply(on_cancel=watchers.on_cancel) as stream:
                await stream.aappend("one")
                await stream.adrain()
                await sync_to_async(stop_elsewhere)(stream.message)
                try:
                    await stream.aappend(" two")
                    await stream.adrain()
                except (MessageClosed, asyncio.CancelledError):
                    pass
                await stream.aappend(" three")
        assert watchers.told == [("cancel", "one")]

    async def test_what_the_database_refuses_does_not_end_the_handlers(self):
        watcher = Watcher()
        message = await self.conversation.astart_streaming_assistant()
        message.stream.handlers.add("watch", watcher)
        refused = InvalidMessage("the database refused it")
        with patch.object(journal.Journal, "drain", side_effect=refused), pytest.raises(InvalidMessage):
            await message.stream.acomplete()
        assert watcher.seen == []
        await message.stream.afail(refused)
        assert watcher.seen[-1] == ("end", "failed")

    async def test_text_that_cannot_be_stored_fails_as_without_handlers(self):
        message = await self.conversation.astart_streaming_assistant()
        message.stream.handlers.add("words", WordCount())
        with pytest.raises(InvalidMessage):
            await message.stream.aappend("\x00")
        await message.stream.afail("unfit")
        assert message.metadata["handlers"] == {"words": 1}


async def words(*texts):
    for text in texts:
        yield text


class NamingTests(SimpleTestCase):
    def test_a_handler_in_a_list_is_called_what_its_class_or_function_is(self):
        made = Handlers([WordCount, CharacterCount(), watchers.letters, "tests.watchers.Short"])
        assert set(made.results) == {"WordCount", "CharacterCount", "letters", "Short"}

    def test_what_is_no_handler_is_refused_by_name(self):
        for given, words in (
            ("tests.watchers.Short", "must be a dict or a list"),
            (5, "must be a dict or a list"),
            ({"": WordCount()}, "'' is no name"),
            ({5: WordCount()}, "5 is no name"),
            ([WordCount, WordCount], "two called 'WordCount'"),
            ({"five": 5}, "'five' is no handler"),
            (["tests.watchers.NOTHING"], "'NOTHING' is no handler"),
            (["tests.watchers.Nowhere"], "cannot be imported"),
            ([Limit], "a limit needs"),
        ):
            with pytest.raises(InvalidMessage) as caught:
                Handlers(given)
            assert caught.value.field == "handlers"
            assert words in caught.value.reason

    def test_what_is_no_callback_is_refused_by_name(self):
        for given, words in (
            ({"on_tokens": print}, "on_tokens: is none of on_token, on_complete, on_error, on_cancel"),
            ({"on_error": 5}, "on_error: must be a function"),
            ({"on_error": Broken}, "on_error: must be a function"),
            ({"on_cancel": "tests.watchers.Nowhere"}, "on_cancel: 'tests.watchers.Nowhere' cannot be imported"),
        ):
            with pytest.raises(InvalidMessage) as caught:
                Handlers().listen(**given)
            assert words in str(caught.value)

    def test_the_plan_of_a_reply_has_dotted_paths_and_nothing_else(self):
        assert handlers.plan() == {}
        plan = handlers.plan({"words": WordCount, "short": "tests.watchers.Short"}, on_error=watchers.on_error)
        assert plan == {
            "handlers": {"words": "converse.handlers.counts.WordCount", "short": "tests.watchers.Short"},
            "callbacks": {"on_error": "tests.watchers.on_error"},
        }
        for given, words in (
            ([WordCount()], "takes classes, functions or their dotted paths"),
            (["converse.handlers.Moderation"], "needs a function check"),
            (["tests.watchers.Demanding"], "'Demanding' cannot be made without arguments"),
            ([lambda result, text: None], "cannot be imported by name"),
        ):
            with pytest.raises(InvalidMessage, match=words):
                handlers.plan(given)

    def test_nothing_is_spent_on_handlers_where_there_are_none(self):
        assert not handlers.of({})
        assert handlers.of({"callbacks": {"on_error": "tests.watchers.on_error"}})

    def test_the_check_finds_what_is_no_handler_and_what_cannot_be_made(self):
        def found(value):
            with override_settings(CONVERSE_HANDLERS=value):
                return [message.msg for message in check_settings() if message.id == "converse.E050"]

        assert found(["tests.watchers.Short", "tests.watchers.letters"]) == []
        assert "must be a list or tuple of texts" in found("tests.watchers.Short")[0]
        assert "'tests.watchers.Nowhere' cannot be imported" in found(["tests.watchers.Nowhere"])[0]
        two = found(["tests.watchers.Short", "converse.handlers.Moderation", "tests.watchers.Demanding"])
        assert ["'converse.handlers.Moderation'" in two[0], "'tests.watchers.Demanding'" in two[1]] == [True, True]
        assert "two called 'Short'" in found(["tests.watchers.Short"] * 2)[0]
        with patch.dict(sys.modules, {"nh3": None}):
            html._parser.cache_clear()
            assert "pip install" in found(["converse.handlers.SafeHTML"])[0]

    @override_settings(CONVERSE_HANDLERS=["tests.watchers.Profanity"])
    def test_the_handlers_of_all_replies_come_first_and_keep_their_names(self):
        made = handlers.of({"handlers": {"Profanity": "tests.watchers.letters", "words": "tests.watchers.letters"}})
        assert set(made.results) == {"Profanity", "tests.watchers.letters", "words"}


class CallbackTests(Case):
    def on(self):
        return {name: getattr(watchers, name) for name in ("on_token", "on_complete", "on_error", "on_cancel")}

    def test_each_text_is_told_and_the_end_once(self):
        with self.conversation.stream_reply(**self.on()) as stream:
            stream.append("a").append(ReasoningDelta(text="Hm.")).append("b")
        assert watchers.told == [("token", "a"), ("token", "b"), ("complete", "ab")]
        watchers.told.clear()
        with pytest.raises(ZeroDivisionError), self.conversation.stream_reply(**self.on()):
            _ = 1 / 0
        assert watchers.told == [("error", "error")]
        watchers.told.clear()
        self.conversation.start_streaming_assistant().stream.cancel()
        message = self.conversation.start_streaming_assistant()
        message.stream.handlers.listen(**self.on())
        message.stream.cancel()
        assert watchers.told == [("cancel", "")]

    async def test_in_an_async_stream_a_sync_callback_may_use_the_database(self):
        def count(message):
            watchers.told.append(("stored", Message.objects.get(pk=message.pk).content))

        async with self.conversation.astream_reply(on_complete=count, on_token=watchers.on_token) as stream:
            await stream.aappend("a")
        assert watchers.told == [("token", "a"), ("stored", "a")]

    def test_a_callback_that_breaks_is_recorded_and_breaks_nothing(self):
        def token(message, text):
            raise RuntimeError("not that token")

        with self.conversation.stream_reply(on_token=token, on_complete=watchers.breaks) as stream:
            stream.append("a").append("b")
        message = Message.objects.get(pk=stream.message.pk)
        assert message.content == "ab"
        assert message.is_completed
        assert message.metadata["handlers"] == stream.message.metadata["handlers"]
        assert message.metadata["handlers"] == {
            "on_token": {"error": "RuntimeError: not that token"},
            "on_complete": {"error": "RuntimeError: the callback broke"},
        }

    async def test_an_async_one_may_break_too(self):
        async def breaks(message):
            raise RuntimeError("it too")

        async with self.conversation.astream_reply(on_complete=breaks) as stream:
            await stream.aappend("a")
        stored = await Message.objects.aget(pk=stream.message.pk)
        assert stored.metadata["handlers"] == {"on_complete": {"error": "RuntimeError: it too"}}

    def test_a_report_that_cannot_be_stored_harms_nobody(self):
        with self.assertLogs("converse.closing", "ERROR"):
            message = self.conversation.start_streaming_assistant()
            message.stream.handlers.add("words", WordCount()).listen(on_complete=watchers.breaks)
            message.append_chunk("a")
            with patch("converse.closing.writing", side_effect=[closing.writing(self.conversation.pk), DatabaseError]):
                message.complete_streaming()
        assert message.is_completed

    def test_an_object_that_is_called_is_a_callback_too(self):
        class Told:
            async def __call__(self, message):
                watchers.told.append(("object", message.content))

        with self.conversation.stream_reply(on_complete=Told()) as stream:
            stream.append("a")
        assert watchers.told == [("object", "a")]

    def test_a_callback_of_a_deleted_message_may_break_without_telling_readers(self):
        message = self.conversation.start_streaming_assistant()
        message.stream.handlers.listen(on_cancel=watchers.breaks)
        message.append_chunk("a")
        Message.objects.get(pk=message.pk).delete()
        with captured_events(self.conversation) as events, pytest.raises(MessageClosed):
            message.append_chunk("b")
        assert events.names == []
        assert "on_cancel" in Message.all_objects.get(pk=message.pk).metadata["handlers"]


class ReplyTests(Case):
    """Handlers of a provider's reply, which another process may have to drive: by dotted path."""

    PATHS = {name: f"tests.watchers.{name}" for name in ("on_token", "on_complete", "on_error", "on_cancel")}

    def test_a_reply_is_watched_by_what_its_plan_names(self):
        with scripted(["Once ", "upon"]):
            reply = self.conversation.ask(
                "Tell me.", handlers={"words": WordCount, "letters": "tests.watchers.letters"}, **self.PATHS
            )
        assert reply.metadata["handlers"] == {"words": 2, "letters": 9}
        assert watchers.told == [("token", "Once "), ("token", "upon"), ("complete", "Once upon")]

    @override_settings(CONVERSE_HANDLERS=["tests.watchers.Profanity", "converse.handlers.CharacterCount"])
    def test_every_reply_is_watched_by_what_the_setting_names(self):
        with scripted(["Oh, ", "darn it."]) as script:
            reply = self.conversation.ask("Say it.", **self.PATHS)
        assert (reply.status, reply.error_type, reply.content) == ("failed", "content_blocked", "Oh, ")
        assert reply.metadata["handlers"]["CharacterCount"] == 4
        assert watchers.told == [("token", "Oh, "), ("error", "content_blocked")]
        script.assert_asked(times=1)
        assert script.closed == 1

    def test_a_limit_ends_the_reply_and_the_providers_connection(self):
        with scripted([*["word "] * 100]) as script:
            reply = self.conversation.ask("Go on.", handlers=["tests.watchers.Short"], **self.PATHS)
        assert (reply.status, reply.content) == ("cancelled", "word word ")
        assert script.closed == 1
        assert watchers.told[-1] == ("cancel", "word word ")
        [made] = reply.calls.all()
        assert made.outcome == "cancelled"

    def test_reasoning_and_calls_can_be_watched(self):
        with scripted([thinks("Hm."), call("weather", city="Paris")], ["Warm."]):
            reply = self.conversation.ask("How is it?", tools=[watchers.weather], handlers=[Watcher])
        assert len(reply.metadata["handlers"]["Watcher"]) == 3

    def test_a_handler_that_is_not_there_any_more_fails_the_reply(self):
        with scripted(["Hello."]), patch.object(watchers, "letters", watchers.letters):
            with self.captureOnCommitCallbacks() as started:
                reply = self.conversation.reply("Hello?", handlers=["tests.watchers.letters"])
            del watchers.letters
            async_to_sync(run)(reply.pk)
        reply.refresh_from_db()
        assert (reply.status, reply.error_type) == ("failed", "error")
        assert "tests.watchers.letters" in reply.error_detail
        assert started

    def test_a_stopped_reply_that_nobody_writes_is_told_by_who_stopped_it(self):
        reply = self.conversation.reply("Hello?", **self.PATHS)
        with self.captureOnCommitCallbacks(execute=True):
            reply.stop()
        assert watchers.told == [("cancel", "")]

    def test_an_abandoned_reply_is_told_by_who_settled_it(self):
        reply = self.conversation.reply("Hello?", on_error="tests.watchers.breaks")
        Message.objects.filter(pk=reply.pk).update(lease_expires_at=reply.created_at)
        with self.captureOnCommitCallbacks(execute=True):
            settle_abandoned()
        reply.refresh_from_db()
        assert reply.error_type == "interrupted"
        assert reply.metadata["handlers"] == {"on_error": {"error": "RuntimeError: the callback broke"}}

    def test_a_callback_that_is_not_there_any_more_is_recorded(self):
        with patch.object(watchers, "breaks", watchers.breaks):
            reply = self.conversation.reply("Hello?", on_cancel="tests.watchers.breaks")
            del watchers.breaks
            with self.captureOnCommitCallbacks(execute=True):
                reply.stop()
        reply.refresh_from_db()
        assert "cannot be imported" in reply.metadata["handlers"]["on_cancel"]["error"]

    def test_another_attempt_is_watched_in_the_same_way(self):
        with scripted(["one two"], ["one two three"]):
            first = self.conversation.ask("Count.", handlers=[WordCount])
            with immediately, self.captureOnCommitCallbacks(execute=True):
                second = first.retry()
        second.refresh_from_db()
        assert second.metadata["handlers"] == {"WordCount": 3}

    def test_a_reply_that_waits_for_a_person_goes_on_with_the_results_so_far(self):
        with scripted(["Let me ", call("delete", path="x")], ["Done now."]):
            reply = self.conversation.ask(
                "Clean up.",
                tools=[watchers.delete],
                handlers={"words": WordCount, "watch": Watcher, "failed": "tests.watchers.Broken"},
                **self.PATHS,
            )
            assert reply.status == "waiting"
            assert reply.metadata["handlers"]["words"] == 2
            assert watchers.told == [("token", "Let me ")]
            with immediately, self.captureOnCommitCallbacks(execute=True):
                reply.approve(reply.undecided[0]["id"])
        reply.refresh_from_db()
        assert reply.is_completed, reply.error_detail
        assert reply.metadata["handlers"]["words"] == 4
        assert reply.metadata["handlers"]["watch"][0] == "Let me "
        assert reply.metadata["handlers"]["watch"][-1] == "Done now."
        assert reply.metadata["handlers"]["failed"] == {"error": "RuntimeError: it broke"}
        assert watchers.told == [("token", "Let me "), ("token", "Done now."), ("complete", "Let me Done now.")]

    def test_a_reply_that_waits_without_any_result_has_none(self):
        with scripted([call("delete", path="x")]):
            reply = self.conversation.ask("Clean up.", tools=[watchers.delete], on_token="tests.watchers.on_token")
        assert reply.status == "waiting"
        assert "handlers" not in reply.metadata

    def test_a_veto_before_a_reply_waits_fails_it(self):
        with scripted(["Let me ", call("delete", path="x")]):
            reply = self.conversation.ask("Clean up.", tools=[watchers.delete], handlers=[AtTheEnd])
        assert (reply.status, reply.error_type) == ("failed", "content_blocked")

    def test_what_cannot_be_found_again_stores_nothing(self):
        before = self.conversation.messages.count()
        for wrong in (
            {"handlers": [WordCount()]},
            {"handlers": ["tests.watchers.Nowhere"]},
            {"on_token": lambda message, text: None},
            {"on_error": "tests.watchers.Nowhere"},
        ):
            with pytest.raises(InvalidMessage):
                self.conversation.reply("Hello?", **wrong)
        assert self.conversation.messages.count() == before


class TwoProcessTests(TransactionTestCase):
    """Whoever closes a reply tells its callbacks, once, whoever writes it."""

    def setUp(self):
        watchers.told.clear()

    def test_a_reply_that_is_stopped_elsewhere_while_it_streams_is_told_once(self):
        conversation = Conversation.objects.start()
        paths = ReplyTests.PATHS
        with scripted(["Half ", 60]):
            reply = conversation.reply("Go on.", handlers=["converse.handlers.WordCount"], **paths)
            while not reply.chunks.exists():
                pass
            stop_elsewhere(reply)
            loops.finish()
        reply.refresh_from_db()
        assert reply.is_cancelled
        assert watchers.told == [("token", "Half "), ("cancel", "Half ")]
        assert reply.metadata["handlers"] == {"WordCount": 1}

    def test_a_stream_by_hand_that_is_stopped_elsewhere_is_told_once(self):
        conversation = Conversation.objects.start()
        watcher = AsyncWatcher()

        async def write():
            async with conversation.astream_reply(
                handlers={"watch": watcher}, on_token=watchers.on_token, on_cancel=watchers.on_cancel
            ) as stream:
                await stream.aappend("Half ")
                await stream.adrain()
                await sync_to_async(stop_elsewhere)(stream.message)
                await asyncio.sleep(30)

        with pytest.raises(MessageClosed):
            asyncio.run(write())
        assert watchers.told == [("token", "Half "), ("cancel", "Half ")]
        assert watcher.seen[-1] == ("end", "cancelled")
        message = conversation.last_message
        assert message.metadata["handlers"] == {"watch": ["Half "]}
