from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from django.test import SimpleTestCase
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.servers import Server

SETTINGS = {"CONVERSE_TEST_DATABASE": "sqlite", "CONVERSE_TEST_LAYER": "memory"}


class DrainTests(SimpleTestCase):
    """What clients are told when a real server is told to end."""

    async def code_of(self, socket):
        try:
            async with asyncio.timeout(20):
                while True:
                    await socket.recv()
        except ConnectionClosed as exc:
            return exc.rcvd and exc.rcvd.code

    async def drained(self, kind):
        with TemporaryDirectory() as folder:
            environment = {**SETTINGS, "CONVERSE_TEST_DATABASE_FILE": f"{folder}/db.sqlite3"}
            with Server(kind, environment, Path(folder) / "server.log") as server:
                url = f"ws://127.0.0.1:{server.port}/app/converse?protocol=7"
                sockets = [await connect(url) for _ in range(20)]
                for socket in sockets:
                    assert json.loads(await socket.recv())["event"] == "pusher:connection_established"
                server.process.terminate()
                codes = [await self.code_of(socket) for socket in sockets]
                server.process.wait(20)
                assert not server.complaints()
                return set(codes)

    async def test_daphne_sends_its_clients_elsewhere_before_it_ends(self):
        assert await self.drained("daphne") == {4200}

    async def test_uvicorn_sends_its_clients_elsewhere_before_it_ends(self):
        assert await self.drained("uvicorn") == {4200}
