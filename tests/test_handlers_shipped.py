"""The handlers that come with Converse: counts, figures, buffers, judges."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.test import SimpleTestCase, TestCase, TransactionTestCase
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from converse.exceptions import InvalidMessage, Stopped, Vetoed
from converse.handlers import (
    Analytics,
    Buffered,
    CharacterCount,
    Ending,
    Handlers,
    Limit,
    Moderation,
    Progress,
    WordCount,
)
from converse.handlers.pipeline import arun, run
from converse.models import Conversation, Message
from converse.testing import scripted

quiet = patch.object(logging.getLogger("converse.handlers.callbacks"), "disabled", True)


def message(**fields):
    return Message(started_at=timezone.now(), **fields)


def watched(handler, *texts, status="completed", to=None, **ending):
    """Let a handler watch texts, without a database; give its result."""
    handlers, to = Handlers({"it": handler}), to or message()
    for text in texts:
        run(handlers.take(to, text))
    run(handlers.end(to, Ending(status=status, **ending)))
    assert not handlers.errors, handlers.errors
    return handlers.results["it"]


class CountTests(SimpleTestCase):
    @given(st.lists(st.text(st.sampled_from("ab \n\t"), min_size=1)))
    def test_words_and_characters_are_counted_wherever_the_text_is_cut(self, texts):
        whole = "".join(texts)
        assert watched(WordCount(), *texts) == len(whole.split())
        assert watched(CharacterCount(), "", *texts) == (len(whole) or None)

    def test_figures_tell_how_soon_it_began_how_fast_it_went_and_how_it_ended(self):
        began = timezone.now() - timedelta(seconds=2)
        figures = watched(
            Analytics(), "four", "eleven here", to=Message(started_at=began), finish_reason="stop", model="m-1"
        )
        assert 2000 <= figures.pop("first_token_ms") < 10_000
        assert 2 <= figures.pop("seconds") < 10
        assert 0 < figures.pop("deltas_per_second") <= 1
        assert 1 < figures.pop("characters_per_second") <= 7.5
        assert figures == {
            "deltas": 2,
            "characters": 15,
            "average_delta_size": 7.5,
            "finish_reason": "stop",
            "model": "m-1",
        }

    def test_figures_of_a_stream_that_said_nothing(self):
        figures = watched(Analytics(), to=Message(started_at=None, created_at=timezone.now() + timedelta(seconds=60)))
        assert figures == {
            "first_token_ms": None,
            "deltas": 0,
            "characters": 0,
            "seconds": 0,
            "deltas_per_second": None,
            "characters_per_second": None,
            "average_delta_size": None,
            "finish_reason": "",
            "model": "",
        }

    def test_progress_is_reported_every_so_many_characters_and_at_the_end(self):
        reports = []
        result = watched(Progress(reports.append, every=10), "a" * 9, "b", "c" * 25, "d")
        assert [(report["deltas"], report["characters"]) for report in reports] == [(2, 10), (3, 35), (4, 36)]
        assert all(report["seconds"] >= 0 for report in reports)
        assert (result["deltas"], result["characters"]) == (4, 36)

    async def test_progress_may_be_reported_to_what_is_awaited_and_by_a_class_of_ones_own(self):
        reports = []

        class Own(Progress):
            every = 1

            async def report(self, figures):
                reports.append(figures["characters"])

        handlers, to = Handlers([Own]), message()
        await arun(handlers.take(to, "abc"))
        await arun(handlers.end(to, Ending(status="completed")))
        assert reports == [3, 3]
        assert handlers.results["Own"]["characters"] == 3

    def test_progress_needs_nobody_to_report_to(self):
        assert watched(Progress(every=1), "abc")["characters"] == 3

    def test_what_makes_no_sense_is_refused(self):
        for make in (
            lambda: Progress(every=0),
            lambda: Buffered(size=0),
            lambda: Buffered(seconds=-1),
            lambda: Limit(characters=0),
            lambda: Limit(deltas=0),
            Limit,
            lambda: Moderation(window=0),
            lambda: Moderation(every=0),
        ):
            with pytest.raises(InvalidMessage):
                make()


class ReplyTests(TestCase):
    def test_the_figures_of_a_reply_are_in_its_metadata(self):
        with scripted(["Once ", "upon"]):
            reply = Conversation.objects.start().ask("Tell me.", handlers=["converse.handlers.Analytics"])
        figures = reply.metadata["handlers"]["Analytics"]
        assert (figures["deltas"], figures["characters"], figures["finish_reason"]) == (2, 9, "stop")


class BufferedInALoopTests(SimpleTestCase):
    """In an async stream."""

    def setUp(self):
        self.enterContext(quiet)
        self.flushed = []

    async def take(self, handlers, *texts):
        for text in texts:
            await arun(handlers.take(self.message, text))

    async def end(self, handlers):
        await arun(handlers.end(self.message, Ending(status="completed")))

    message = message()

    async def test_text_is_handed_on_by_size_and_the_rest_at_the_end(self):
        handlers = Handlers({"it": Buffered(self.flushed.append, size=5, seconds=None)})
        await self.take(handlers, "abc", "de", "f", "ghijklmn", "0")
        assert self.flushed == ["abcde", "fghijklmn"]
        await self.end(handlers)
        assert self.flushed == ["abcde", "fghijklmn", "0"]
        assert handlers.results == {"it": 3}

    async def test_without_anything_left_nothing_is_handed_on_at_the_end(self):
        handlers = Handlers({"it": Buffered(self.flushed.append, size=1)})
        await self.take(handlers, "a")
        await self.end(handlers)
        assert self.flushed == ["a"]

    async def test_text_is_handed_on_by_time_though_nothing_further_comes(self):
        arrived = asyncio.Event()

        async def flush(text):
            self.flushed.append(text)
            arrived.set()

        handlers = Handlers({"it": Buffered(flush, size=100, seconds=0.01)})
        await self.take(handlers, "a", "b")
        await arrived.wait()
        assert self.flushed == ["ab"]
        arrived.clear()
        await self.take(handlers, "c")
        await arrived.wait()
        assert self.flushed == ["ab", "c"]
        await self.end(handlers)
        assert handlers.results == {"it": 2}

    async def test_calls_do_not_overlap_and_the_stream_waits_for_a_slow_one(self):
        running, gate = [], asyncio.Event()

        async def flush(text):
            assert not running
            running.append(text)
            await gate.wait()
            self.flushed.append(running.pop())

        handlers = Handlers({"it": Buffered(flush, size=2, seconds=0)})
        await self.take(handlers, "a")  # its time is up at once
        while not running:
            await asyncio.sleep(0)
        taking = asyncio.ensure_future(self.take(handlers, "bc"))
        await asyncio.sleep(0.01)
        assert not taking.done()
        gate.set()
        await taking
        await self.end(handlers)
        assert self.flushed == ["a", "bc"]

    async def test_a_cancelled_stream_does_not_cut_a_call_short_and_the_rest_comes_after_it(self):
        began, gate = asyncio.Event(), asyncio.Event()

        async def flush(text):
            began.set()
            await gate.wait()
            self.flushed.append(text)

        handlers = Handlers({"it": Buffered(flush, size=2, seconds=None)})
        taking = asyncio.ensure_future(self.take(handlers, "ab"))
        await began.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        ending = asyncio.ensure_future(self.end(handlers))
        gate.set()
        await ending
        assert self.flushed == ["ab"]

    async def test_a_callback_that_fails_is_recorded_whenever_it_did(self):
        async def flush(text):
            raise RuntimeError("no")

        now = Handlers({"it": Buffered(flush, size=1)})
        await self.take(now, "a", "b")
        assert now.errors == {"it": "RuntimeError: no"}
        for after in (self.take, None):
            later = Handlers({"it": Buffered(flush, size=100, seconds=0)})
            await self.take(later, "a")
            await asyncio.sleep(0.01)
            if after:
                await after(later, "b")
            await self.end(later)
            assert later.errors == {"it": "RuntimeError: no"}

    async def test_a_class_of_ones_own_needs_no_callback(self):
        flushed = self.flushed

        class Own(Buffered):
            size = 3

            def flush(self, text):
                flushed.append(text)

        handlers = Handlers([Own])
        await self.take(handlers, "abc", "d")
        await self.end(handlers)
        assert flushed == ["abc", "d"]

    async def test_without_anybody_to_hand_on_to_nothing_happens(self):
        handlers = Handlers([Buffered])
        await self.take(handlers, "abc")
        await self.end(handlers)
        assert handlers.results == {"Buffered": 1}


class BufferedInAThreadTests(SimpleTestCase):
    """In a sync stream."""

    def setUp(self):
        self.enterContext(quiet)
        self.flushed = []

    def test_text_is_handed_on_by_size_and_the_rest_at_the_end(self):
        assert watched(Buffered(self.flushed.append, size=5, seconds=None), "abc", "de", "f", "0") == 2
        assert self.flushed == ["abcde", "f0"]

    def test_what_is_left_at_the_end_does_not_wait_for_its_time(self):
        threads = threading.active_count()
        watched(Buffered(self.flushed.append, size=5, seconds=60), "a", "b", "cdefg", "h")
        assert self.flushed == ["abcdefg", "h"]
        for _ in range(1000):
            if threading.active_count() <= threads:
                break
            time.sleep(0.001)
        assert threading.active_count() <= threads

    def test_text_is_handed_on_by_time_though_nothing_further_comes(self):
        arrived = threading.Event()

        async def flush(text):
            self.flushed.append((text, threading.current_thread() is threading.main_thread()))
            arrived.set()

        handlers, to = Handlers({"it": Buffered(flush, size=100, seconds=0.01)}), message()
        run(handlers.take(to, "a"))
        assert arrived.wait(10)
        assert [text for text, _ in self.flushed] == ["a"]
        run(handlers.take(to, "b"))
        run(handlers.end(to, Ending(status="completed")))
        assert [text for text, _ in self.flushed] == ["a", "b"]

    def test_a_callback_that_fails_is_recorded_whenever_it_did(self):
        failed = threading.Event()

        def flush(text):
            failed.set()
            raise RuntimeError("no")

        for more in (True, False):
            failed.clear()
            handlers, to = Handlers({"it": Buffered(flush, size=100, seconds=0)}), message()
            run(handlers.take(to, "a"))
            assert failed.wait(10)
            while handlers.entries[0].take.__self__._buffer.failure is None:
                time.sleep(0.001)
            if more:
                run(handlers.take(to, "b"))
            run(handlers.end(to, Ending(status="completed")))
            assert handlers.errors == {"it": "RuntimeError: no"}


class LimitTests(SimpleTestCase):
    def test_a_limit_of_characters_keeps_as_many(self):
        limit = Handlers({"it": Limit(characters=5)})
        assert run(limit.take(message(), "abc")) == ("abc", None)
        assert run(limit.take(message(), "de")) == ("de", None)
        left, stop = run(limit.take(message(), "fg"))
        assert (left, isinstance(stop, Stopped)) == ("", True)
        limit = Handlers({"it": Limit(characters=5)})
        left, stop = run(limit.take(message(), "abcdefg"))
        assert (left, str(stop), stop.handler) == ("abcde", "There are 5 characters.", "it")

    def test_a_limit_of_deltas_keeps_as_many(self):
        limit = Handlers({"it": Limit(deltas=2)})
        assert [run(limit.take(message(), text))[0] for text in "abc"] == ["a", "b", ""]
        run(limit.end(message(), Ending(status="cancelled")))
        assert limit.report == {"it": {"characters": 2, "deltas": 2}}

    def test_after_a_stop_others_see_what_is_left_of_the_text_or_nothing(self):
        seen = []
        both = Handlers({"see": lambda result, text: seen.append(text), "limit": Limit(characters=2)})
        run(both.take(message(), "abc"))
        run(both.take(message(), "d"))
        assert seen == ["ab"]


class ModerationTests(SimpleTestCase):
    def setUp(self):
        self.enterContext(quiet)
        self.asked = []

    def judged(self, *texts, ruling=None, status="completed", **options):
        def check(text):
            self.asked.append(text)
            if isinstance(ruling, Exception):
                raise ruling
            return ruling(text) if callable(ruling) else ruling

        handlers = Handlers({"it": Moderation(check, **options)})
        for text in texts:
            run(handlers.take(message(), text))
        veto = run(handlers.end(message(), Ending(status=status)))
        if veto:
            raise veto
        return handlers

    def test_it_is_asked_about_the_text_so_far_before_it_is_stored(self):
        handlers = self.judged("a", "b", "c")
        assert self.asked == ["a", "ab", "abc"]
        assert handlers.results == {"it": 3}

    def test_it_is_asked_about_a_window_that_has_all_that_is_new(self):
        self.judged("abcd", "ef", "ghijklm", window=3)
        assert self.asked == ["abcd", "def", "ghijklm"]

    def test_it_may_be_asked_once_for_so_many_characters_and_about_the_rest_at_the_end(self):
        self.judged("ab", "cd", "ef", "g", every=4)
        assert self.asked == ["abcd", "abcdefg"]

    def test_what_it_says_is_why(self):
        with pytest.raises(Vetoed, match=r"^too rude$"):
            self.judged("a", "rude", ruling=lambda text: "too rude" if "rude" in text else "")
        with pytest.raises(Vetoed, match=r"^too rude$"):
            self.judged("rude", every=100, ruling="too rude")

    def test_it_may_raise_what_it_likes_better(self):
        with pytest.raises(Vetoed) as caught:
            self.judged("a", ruling=Vetoed("rude", public="Let us be polite."))
        assert caught.value.public == "Let us be polite."
        handlers = Handlers({"it": Moderation(lambda text: (_ for _ in ()).throw(Stopped("enough")))})
        assert run(handlers.take(message(), "a"))[1].handler == "it"

    def test_what_could_not_be_judged_does_not_pass(self):
        for ruling in (RuntimeError("down"), True, 5):
            with pytest.raises(Vetoed, match="could not be judged"):
                self.judged("a", ruling=ruling)

    def test_unless_it_is_not_strict(self):
        handlers = self.judged("a", "b", ruling=RuntimeError("down"), strict=False)
        assert handlers.errors == {"it": "RuntimeError: down"}
        assert self.asked == ["a"]

    async def test_it_may_be_asynchronous(self):
        async def check(text):
            if text == "down":
                raise RuntimeError("down")
            return "rude" if "rude" in text else None

        handlers = Handlers({"it": Moderation(check)})
        assert await arun(handlers.take(message(), "fine ")) == ("fine ", None)
        with pytest.raises(Vetoed, match=r"^rude$"):
            await arun(handlers.take(message(), "and rude"))
        with pytest.raises(Vetoed, match="could not be judged"):
            await arun(Handlers({"it": Moderation(check)}).take(message(), "down"))

    def test_without_anybody_to_ask_nothing_is_begun(self):
        class Strict(Moderation):
            window = 10

        for make in (Moderation, Strict, lambda: Moderation("app.check"), lambda: Moderation(5)):
            with pytest.raises(InvalidMessage) as caught:
                make()
            assert caught.value.field == "handlers"

        class Polite(Moderation):
            def check(self, text):
                return None

        assert watched(Polite(), "a") == 1


class SyncStreamTests(TransactionTestCase):
    """A buffer's callback that uses the database from its own thread."""

    def test_it_sees_what_is_committed_and_leaves_no_connection_behind(self):
        conversation = Conversation.objects.start()
        arrived = threading.Event()

        def flush(text):
            found.append(Message.objects.filter(conversation=conversation).count())
            arrived.set()

        found = []
        with conversation.stream_reply(handlers={"live": Buffered(flush, seconds=0.01)}) as stream:
            stream.append("a")
            assert arrived.wait(10)
        assert found == [1]
        assert stream.message.metadata["handlers"] == {"live": 1}
