from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import contextmanager
from unittest import mock

from django.test import SimpleTestCase, override_settings

from converse.transports.pusher import drains
from converse.transports.pusher.drains import Drain
from tests.pushers import Pusher


class Line:
    def __init__(self, hangs=False):
        self.codes = []
        self.hangs = hangs

    async def close(self, code):
        self.codes.append(code)
        if self.hangs:
            await asyncio.Event().wait()


@contextmanager
def handled(handler):
    """Have a server's handler of SIGTERM."""
    former = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


class DrainTests(SimpleTestCase):
    def end(self, *lines):
        """Have a process of a loop with these lines told to end; give what its server heard, and when."""
        heard = []

        async def scene():
            drain = Drain()
            drain.lines.update(lines)
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(10):
                while not heard:
                    await asyncio.sleep(0.001)
            assert drain.draining

        with handled(lambda number, frame: heard.append((number, [line.codes for line in lines]))):
            asyncio.run(scene())
        return heard

    def test_clients_are_told_before_the_server_is(self):
        assert self.end(Line(), Line()) == [(signal.SIGTERM, [[4200], [4200]])]

    def test_a_server_without_clients_ends_at_once(self):
        assert self.end() == [(signal.SIGTERM, [])]

    def test_a_client_that_does_not_take_it_holds_nobody_up(self):
        with mock.patch.object(drains, "PATIENCE", 0.01):
            assert self.end(Line(hangs=True)) == [(signal.SIGTERM, [[4200]])]

    def test_a_second_signal_goes_to_the_server_itself(self):
        heard = []

        async def scene():
            drain = Drain()
            drain.draining = True
            os.kill(os.getpid(), signal.SIGTERM)

        with handled(lambda number, frame: heard.append(number)):
            asyncio.run(scene())
            os.kill(os.getpid(), signal.SIGTERM)  # and so it does when the loop is gone
        assert heard == [signal.SIGTERM] * 2

    def test_where_nobody_handles_the_signal_nothing_is_changed(self):
        async def scene():
            Drain()

        with handled(signal.SIG_DFL):
            asyncio.run(scene())
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def test_a_loop_in_another_thread_cannot_and_does_not(self):
        with handled(print):
            thread = threading.Thread(target=lambda: asyncio.run(self._nothing()))
            thread.start()
            thread.join()
            assert signal.getsignal(signal.SIGTERM) is print

    async def _nothing(self):
        Drain()

    @override_settings(ALLOWED_HOSTS=["testserver"])
    async def test_who_comes_while_the_server_ends_is_told_to_come_in_a_second(self):
        drains.drain().draining = True
        async with Pusher() as client:
            assert await client.closed() == 4100
