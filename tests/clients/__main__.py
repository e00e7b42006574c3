"""Run the conformance suites of all clients: ``python -m tests.clients [suite …] [--server …] [--layer …]``.

The clients are the real packages of npm, in Node and in Chromium, unmodified; the site is a real Daphne or uvicorn,
with the layer in memory or Redis. Each file of ``suites`` is run by ``node --test`` against each site. It imports
``site.mjs``, which tells what it can do. What is printed last is a table; the exit code says whether all passed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import NamedTuple

from tests.servers import ROOT, Redis, Server

HERE = Path(__file__).parent
PATIENCE = 300  # seconds for one suite on one site
COUNT = re.compile(r"^# (pass|fail|cancelled|skipped) (\d+)$", re.MULTILINE)
QUIETLY = {"npm_config_loglevel": "error", "npm_config_audit": "false", "npm_config_fund": "false"}


class Outcome(NamedTuple):
    passed: int
    failed: int
    skipped: int
    said: str

    def __str__(self) -> str:
        return f"{self.passed} passed" + (f", {self.failed} FAILED" if self.failed else "")


def install() -> None:
    """Fetch the clients, as package.json pins them."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("The clients need Node and npm.")
    subprocess.run([npm, "install", "--no-package-lock"], cwd=HERE, env={**os.environ, **QUIETLY}, check=True)


@contextmanager
def site(server: str, layer: str) -> Iterator[tuple[str, Path]]:
    """Serve the clients' site; give its origin and the folder of its pages."""
    with TemporaryDirectory() as folder:
        directory = Path(folder)
        pages = directory / "pages"
        pages.mkdir()
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.clients.settings",
            "CONVERSE_TEST_DATABASE": "sqlite",
            "CONVERSE_TEST_DATABASE_FILE": str(directory / "clients.sqlite3"),
            "CONVERSE_TEST_LAYER": layer,
            "CONVERSE_TEST_PAGES": str(pages),
        }
        if layer == "redis":
            with Redis(directory) as redis:
                yield from _serve(server, {**environment, "CONVERSE_TEST_REDIS": redis.url}, directory, pages)
        else:
            yield from _serve(server, environment, directory, pages)


def _serve(server: str, environment: dict[str, str], directory: Path, pages: Path) -> Iterator[tuple[str, Path]]:
    migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    subprocess.run(migrate, cwd=ROOT, env={**os.environ, **environment}, check=True)
    with Server(server, environment, directory / "server.log") as running:
        yield running.origin, pages
        for complaint in running.complaints():
            print(f"The server said: {complaint}", file=sys.stderr)


def run(suite: Path, origin: str, pages: Path) -> Outcome:
    """Run a suite against a site."""
    command = ["node", "--test", "--test-reporter=tap", f"--test-timeout={PATIENCE * 1000}", str(suite)]
    environment = {**os.environ, "CONVERSE_SITE": origin, "CONVERSE_PAGES": str(pages)}
    try:
        done = subprocess.run(
            command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=PATIENCE + 30, check=False
        )
    except subprocess.TimeoutExpired as exc:
        return Outcome(0, 1, 0, f"not within {exc.timeout} s")
    counts = {name: int(count) for name, count in COUNT.findall(done.stdout)}
    failed = counts.get("fail", 0) + counts.get("cancelled", 0)
    ran = counts.get("pass", 0)
    unaccounted = done.returncode != 0 or ran == 0
    return Outcome(ran, failed or int(unaccounted), counts.get("skipped", 0), done.stdout + done.stderr)


def table(outcomes: dict[tuple[str, str], Outcome], suites: list[str], sites: list[str]) -> str:
    """Draw who passed where."""
    rows = [["", *sites], *([suite, *(str(outcomes[suite, where]) for where in sites)] for suite in suites)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def main() -> int:
    known = {path.name.removesuffix(".test.mjs"): path for path in sorted((HERE / "suites").glob("*.test.mjs"))}
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__.splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--server", choices=["daphne", "uvicorn"], action="append", help="both by default")
    parser.add_argument("--layer", choices=["memory", "redis"], action="append", help="both by default")
    parser.add_argument("--once", action="store_true", help="run each server, and each layer, once only")
    chosen = parser.parse_args()
    suites = chosen.suites or list(known)
    if unknown := set(suites) - set(known):
        parser.error(f"there is no suite {', '.join(unknown)}")
    install()
    servers, layers = chosen.server or ["daphne", "uvicorn"], chosen.layer or ["memory", "redis"]
    stacks = list(zip(servers, layers, strict=False) if chosen.once else product(servers, layers))
    outcomes: dict[tuple[str, str], Outcome] = {}
    for server, layer in stacks:
        with site(server, layer) as (origin, pages):
            for name in suites:
                start = monotonic()
                outcome = outcomes[name, f"{server}, {layer}"] = run(known[name], origin, pages)
                print(f"{name} on {server}, {layer}: {outcome} ({monotonic() - start:.0f} s)", flush=True)
                if outcome.failed:
                    print(outcome.said, flush=True)
    print(f"\n{table(outcomes, suites, [f'{server}, {layer}' for server, layer in stacks])}\n")
    total = [sum(outcome[column] for outcome in outcomes.values()) for column in range(3)]
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped")
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main())
