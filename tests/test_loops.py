from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures.thread import _global_shutdown_lock
from contextvars import ContextVar
from functools import partial

import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, Error, connection, connections, transaction
from django.test import SimpleTestCase, TransactionTestCase

from converse import loops
from converse.loops import DatabaseThread, PerLoop, background, home, run_in, settle
from tests.readers import until

place: ContextVar[str] = ContextVar("place", default="nowhere")


class BackgroundTests(SimpleTestCase):
    def test_there_is_one_living_loop_in_the_background(self):
        loop = background()
        assert loop is background()
        assert loop.is_running()

    def test_work_is_started_from_any_thread_in_a_context_of_its_own(self):
        done: list[tuple[str, str]] = []
        over = threading.Event()

        async def work():
            done.append((threading.current_thread().name, place.get()))
            over.set()

        place.set("here")
        run_in(background(), work())
        assert over.wait(10)
        assert done == [("converse", "nowhere")]

    def test_work_that_runs_is_held_and_let_go_when_it_is_done(self):
        async def main():
            gate = asyncio.Event()
            run_in(asyncio.get_running_loop(), gate.wait())
            await until(lambda: loops._tasks)
            gate.set()
            await until(lambda: not loops._tasks)

        asyncio.run(main())

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking beside threads: what a preforking server does
    def test_a_forked_process_has_a_loop_of_its_own(self):
        before = background()
        child = os.fork()
        if not child:
            os._exit(0 if background() is not before and background().is_running() else 1)
        assert os.waitpid(child, 0)[1] == 0


class HomeTests(SimpleTestCase):
    def test_home_is_where_the_readers_are_as_long_as_that_loop_runs(self):
        async def main():
            settle()
            assert home() is asyncio.get_running_loop()

        asyncio.run(main())
        assert home() is background()


class PerLoopTests(SimpleTestCase):
    def test_each_loop_has_one_of_its_own_and_a_closed_one_has_none(self):
        class Thing:
            def __init__(self):
                self.loop = asyncio.get_running_loop()

        async def main():
            assert things() is things()
            assert things().loop is asyncio.get_running_loop()

        things = PerLoop(Thing)
        for _ in range(3):
            asyncio.run(main())
        assert len(things._made) == 1


class DatabaseThreadTests(TransactionTestCase):
    def test_it_is_one_thread_apart_with_a_connection_of_its_own(self):
        def where():
            ContentType.objects.count()
            return threading.get_ident(), id(connection.connection)

        async def main():
            thread = DatabaseThread()
            places = {await thread.run(where) for _ in range(3)}
            await thread.run(connections.close_all)
            return places

        [(thread, handle)] = asyncio.run(main())
        assert thread != threading.get_ident()
        assert handle != id(connection.connection)

    async def test_under_a_test_it_is_the_tests_own_thread(self):
        assert await DatabaseThread().run(threading.get_ident) == threading.main_thread().ident

    def test_a_connection_that_broke_is_replaced(self):
        def break_it():
            connection.ensure_connection()
            connection.connection.close()
            ContentType.objects.count()

        async def main():
            thread = DatabaseThread()
            with pytest.raises(Error):
                await thread.run(break_it)
            assert await thread.run(ContentType.objects.count) > 0
            await thread.run(connections.close_all)

        asyncio.run(main())

    def test_an_error_in_a_transaction_leaves_the_connection_to_the_transaction(self):
        def fail():
            with transaction.atomic(), connection.cursor() as cursor:
                with pytest.raises(DatabaseError):
                    cursor.execute("nonsense")
                transaction.set_rollback(True)
            return connection.connection is not None

        async def main():
            thread = DatabaseThread()
            assert await thread.run(fail)
            await thread.run(connections.close_all)

        asyncio.run(main())

    def test_a_thread_that_is_let_go_ends_whatever_lock_is_held_by_what_the_collector_comes_upon(self):
        async def used() -> DatabaseThread:
            thread = DatabaseThread()
            await thread.run(ContentType.objects.count)
            return thread

        others = set(threading.enumerate())
        thread = asyncio.run(used())
        [worker] = set(threading.enumerate()) - others
        with _global_shutdown_lock:  # in the midst of an executor's submit()
            del thread
        worker.join(5)
        assert not worker.is_alive()

    def test_what_is_cancelled_before_its_turn_is_not_done(self):
        door, done = threading.Event(), []

        async def main() -> None:
            thread = DatabaseThread()
            first = asyncio.create_task(thread.run(partial(door.wait, 5)))
            second = asyncio.create_task(thread.run(partial(done.append, "second")))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.sleep(0)
            door.set()
            assert await first
            await thread.run(connections.close_all)

        asyncio.run(main())
        assert done == []


class ApartTests(SimpleTestCase):
    def test_a_thread_that_nobody_waits_for_any_more_ends_in_peace(self):
        door = threading.Event()

        async def leave() -> None:
            waiting = asyncio.create_task(loops.apart(lambda: door.wait(5)))
            await asyncio.sleep(0)
            waiting.cancel()

        asyncio.run(leave())
        [thread] = [thread for thread in threading.enumerate() if thread.name == "converse-apart"]
        door.set()
        thread.join(5)
        assert not thread.is_alive()
