"""Real processes for tests: web servers, a Redis of one's own, and a second process of the same site."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[1]
PATIENCE = 30  # seconds for a process to come up or to answer


def free_port() -> int:
    """Give a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Look again and again until a condition holds; fail after a while."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, f"{what}: not within {seconds} s"
        sleep(0.02)


class Process:
    """A program that a test starts and ends; what it says on standard error is kept."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, **pipes: Any) -> None:
        self.command = command
        self.environment = environment
        self.log = log
        self.pipes = pipes
        self.start()

    def start(self) -> None:
        """Start it, and again after it has ended."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env={**os.environ, **self.environment}, cwd=ROOT, stderr=log, **self.pipes
            )

    def wait_for_port(self, port: int) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, f"{self.command[0]} ended: {self.said()}"
            return listening(port)

        wait_until(ready, f"listening on {port}")

    def said(self) -> str:
        """Give what it wrote to standard error."""
        return self.log.read_text(errors="replace")

    def complaints(self) -> list[str]:
        """Give what it reported as an error, but for Redis's absence."""
        lines = self.said().splitlines()
        return [line for line in lines if line.startswith("ERROR") and not line.startswith("ERROR channels_redis")]

    @property
    def memory(self) -> int:
        """Give the bytes that it holds in memory."""
        return psutil.Process(self.process.pid).memory_info().rss

    def kill(self) -> None:
        """End it with SIGKILL, on the spot."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.thaw()
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class Redis(Process):
    """A Redis that may be killed: nobody else's."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__([*command, "--dir", str(directory)], {}, directory / "redis.log", stdout=subprocess.DEVNULL)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        super().start()
        self.wait_for_port(self.port)


class Server(Process):
    """A web server in front of ``tests.asgi``: ``daphne`` or ``uvicorn``."""

    def __init__(self, kind: str, environment: Mapping[str, str], log: Path) -> None:
        self.kind = kind
        self.port = free_port()
        options = {
            "daphne": ["-b", "127.0.0.1", "-p", str(self.port), "-v", "0"],
            "uvicorn": ["--port", str(self.port), "--log-level", "warning"],
        }[kind]
        super().__init__([sys.executable, "-m", kind, *options, "tests.asgi:application"], environment, log)

    def start(self) -> None:
        super().start()
        self.wait_for_port(self.port)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/converse/ws/"


class Shell(Process):
    """Another process of the same site, which does what it is told: a function of ``tests.faults.acts`` at a time."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "tests.faults.shell"]
        super().__init__(command, environment, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def begin(self, act: str, **arguments: Any) -> None:
        """Tell it what to do, without waiting."""
        self.process.stdin.write(json.dumps([act, arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """Wait for the answer to what was begun."""
        answer = json.loads(self.process.stdout.readline() or json.dumps({"error": f"it ended: {self.said()}"}))
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def do(self, act: str, **arguments: Any) -> Any:
        """Have something done."""
        self.begin(act, **arguments)
        return self.end()

    def stop(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()
        super().stop()
