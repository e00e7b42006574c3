"""The stacks that the fault tests run on, and the processes of one test."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.faults.readers import Copy, Reader
from tests.faults.services import require
from tests.servers import Redis, Server, Shell

STACKS = {
    "postgresql-redis": ("postgresql", "redis"),
    "sqlite-memory": ("sqlite", "memory"),
    "mariadb-memory": ("mariadb", "memory"),
}


# Each server is run on one of them, and each of them with one server; CONVERSE_TEST_PAIRS=all runs each on each.
PAIRS = {("daphne", "postgresql-redis"), ("uvicorn", "sqlite-memory")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the pairs of a server and a stack that are not asked for."""
    if os.environ.get("CONVERSE_TEST_PAIRS") == "all":
        return
    left_out = [item for item in items if _pair(item) not in {None, *PAIRS}]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _pair(item: pytest.Item) -> tuple[str, str] | None:
    """Give the server and the stack of a test that has both, and no other stack."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if "kind" not in params or params.get("stack") not in {stack for _, stack in PAIRS}:
        return None
    return params["kind"], params["stack"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine, in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


class Stack:
    """A database and a channel layer, for all tests of a run."""

    def __init__(self, name: str, directory: Path, exits: ExitStack) -> None:
        engine, layer = STACKS[name]
        self.name = name
        self.directory = directory
        self.crosses_processes = layer == "redis"
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.faults.settings",
            "CONVERSE_TEST_DATABASE": engine,
            "CONVERSE_TEST_DATABASE_NAME": f"converse_faults_{uuid4().hex[:8]}",
            "CONVERSE_TEST_DATABASE_FILE": str(directory / "faults.sqlite3"),
            "CONVERSE_TEST_LAYER": layer,
        }
        self.redis = None
        if layer == "redis":
            self.redis = exits.enter_context(Redis(directory))
            environment["CONVERSE_TEST_REDIS"] = self.redis.url
        self.shell = exits.enter_context(Shell(environment, directory / "shell.log"))
        name = self.shell.do("create_database")
        exits.callback(self.shell.do, "destroy_database")
        self.environment = {
            **environment,
            "CONVERSE_TEST_DATABASE_NAME": name,
            "CONVERSE_TEST_DATABASE_FILE": name,
        }


class World:
    """The processes of one test, and what it has made in the database."""

    def __init__(self, stack: Stack, exits: ExitStack) -> None:
        self.stack = stack
        self.redis = stack.redis
        self.exits = exits
        self.shell = stack.shell
        account = self.shell.do("sign_in")
        self.user, self.session = account["user"], account["session"]

    def environment(self, faults: dict[str, Any] | None = None, **settings: Any) -> dict[str, str]:
        return {
            **self.stack.environment,
            "CONVERSE_TEST_FAULTS": json.dumps(faults or {}),
            "CONVERSE_TEST_SETTINGS": json.dumps(settings),
        }

    def serve(self, kind: str, faults: dict[str, Any] | None = None, **settings: Any) -> Server:
        """Start a web server, with faults in its layer and settings of its own."""
        log = self.stack.directory / f"{kind}-{uuid4().hex}.log"
        return self.exits.enter_context(Server(kind, self.environment(faults, **settings), log))

    def open_shell(self, **settings: Any) -> Shell:
        """Start another process of the site."""
        log = self.stack.directory / f"shell-{uuid4().hex}.log"
        return self.exits.enter_context(Shell(self.environment(**settings), log))

    def conversations(self, count: int) -> list[str]:
        return self.shell.do("start_conversations", user=self.user, count=count)

    def reader(self, server: Server, conversations: list[str], **options: Any) -> Reader:
        return Reader(server, self.session, conversations, **options)

    @contextmanager
    def committing_fails_beyond(self, sequence: int) -> Iterator[None]:
        """Have no chunk of a higher sequence be committed, though it was written."""
        self.shell.do("refuse_chunks", beyond=sequence)
        try:
            yield
        finally:
            self.shell.do("accept_chunks")

    async def check(self, readers: Iterable[Reader]) -> None:
        """Assert that everybody gets exactly what is stored, and got it in order."""
        readers = list(readers)
        uuids = {uuid for reader in readers for uuid in reader.copies}
        stored = {uuid: await asyncio.to_thread(self.shell.do, "stored", conversation=uuid) for uuid in uuids}
        for reader in readers:
            for uuid, copy in reader.copies.items():
                await reader.until(partial(reached, copy, stored[uuid]["head"]))
                told = [[uuid, message.data["status"], message.text] for uuid, message in copy.messages.items()]
                assert told == stored[uuid]["messages"]
                assert {key: copy.messages[key].parts for key in stored[uuid]["parts"]} == stored[uuid]["parts"]
            assert reader.violations == []
            assert reader.errors == []


def reached(copy: Copy, head: int) -> bool:
    return copy.offset is not None and copy.offset >= head


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Stack]]:
    with ExitStack() as exits:

        class Stacks(dict[str, Stack]):
            def __missing__(self, name: str) -> Stack:
                self[name] = Stack(name, tmp_path_factory.mktemp(name), exits)
                return self[name]

        yield Stacks()


@pytest.fixture(params=["postgresql-redis", "sqlite-memory"])
def stack(request: pytest.FixtureRequest, stacks: dict[str, Stack]) -> Stack:
    engine, layer = STACKS[request.param]
    if engine != "sqlite":
        require(engine)
    if layer == "redis":
        require("redis-server")
    return stacks[request.param]


@pytest.fixture
def world(stack: Stack) -> Iterator[World]:
    with ExitStack() as exits:
        yield World(stack, exits)


@pytest.fixture(params=["daphne", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param
