"""The demo as a stranger starts it: a process of its own in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Self

from tests.services import free_port

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0  # seconds, for a machine that is busy with other things
OURS = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "PROVIDER", "POSTGRES_DB", "REDIS_URL", "DJANGO_SETTINGS_MODULE"}
# Measuring slows a demo, and what it runs of Converse other tests run, too.
UNMEASURED = {"COVERAGE_PROCESS_START"}


def environment(folder: str | Path, **variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in OURS | UNMEASURED}
    return {**inherited, "EXAMPLE_DATA_DIR": str(folder), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **variables}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "manage.py"), "demo", *arguments]


class Demo:
    """A running demo. May be stopped and started again: port, folder and what was said stay."""

    def __init__(self, *arguments: str, folder: str | Path | None = None, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.said = ""
        self.code: int | None = None
        self._arguments = arguments
        self._variables = variables
        self._folder = TemporaryDirectory()
        self.folder = Path(folder or self._folder.name)

    def start(self) -> None:
        self.said = ""
        self._process = subprocess.Popen(
            command("--port", str(self.port), *self._arguments),
            cwd=self._folder.name,
            env=environment(self.folder, **self._variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        patience = Timer(PATIENCE, self._process.kill)
        patience.start()
        for line in self._process.stdout:
            self.said += line
            if "Ctrl-C" in line:
                break
        patience.cancel()
        patience.join()
        if "Ctrl-C" not in self.said:
            self.stop()
            self._folder.cleanup()
            raise AssertionError(self.said)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self.said += self._process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.said += self._process.communicate()[0]
        self.code = self._process.returncode

    def says(self, name: str) -> str:
        """Give what the welcome says of something, as the password."""
        return next(line.split(name)[1].strip() for line in self.said.splitlines() if line.strip().startswith(name))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._folder.cleanup()
