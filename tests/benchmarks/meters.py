"""Processor time, wall time, and their comparison."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import psutil
import redis

from tests.benchmarks.services import NAME, REDIS_URL, Missing

try:
    import uvloop
except ImportError:
    uvloop = None

R = TypeVar("R")


def run(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine in a loop of its own, the faster kind where there is one."""
    return asyncio.run(coroutine)


def prefer_fast_loops() -> None:
    """Have every loop of this process, ours and theirs, be of the faster kind."""
    if uvloop:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


class Meter:
    """What a block costs: ``cpu`` of this process, our PostgreSQL connections and Redis together, and ``wall``; seconds."""

    def __enter__(self) -> Self:
        self._servers = (_postgresql(), _redis())
        self._began = (time.process_time(), time.perf_counter())
        return self

    def __exit__(self, *exc_info: object) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.wall = wall - self._began[1]
        self.own = cpu - self._began[0]
        self.servers = (_postgresql() - self._servers[0], _redis() - self._servers[1])
        self.cpu = self.own + sum(self.servers)


def _postgresql() -> float:
    """Sum the time of the server processes that serve our database; their titles name it."""
    total = 0.0
    for process in psutil.process_iter(["name", "cmdline", "cpu_times"]):
        if (process.info["name"] or "").startswith("postgres") and NAME in " ".join(process.info["cmdline"] or ()):
            total += process.info["cpu_times"].user + process.info["cpu_times"].system
    return total


def _redis() -> float:
    used = redis.Redis.from_url(REDIS_URL).info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def demand_visible_servers() -> None:
    """Raise Missing where the processes of PostgreSQL cannot be seen, for their time would count as nothing."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if (process.info["name"] or "").startswith("postgres") and NAME in " ".join(process.info["cmdline"] or ()):
            return
    raise Missing("PostgreSQL's processes cannot be seen from here, so their processor time cannot be counted.")


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that a share of all values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Compared(NamedTuple):
    """Two things measured in turn: their medians, and the median of their ratios."""

    ours: float
    theirs: float
    ratio: float


def compare(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> Compared:
    """Measure two things in turn, each first as often as the other."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            other = theirs()
            pairs.append((ours(), other))
        else:
            mine = ours()
            pairs.append((mine, theirs()))
    mine, other = (statistics.median(values) for values in zip(*pairs, strict=True))
    return Compared(mine, other, statistics.median(mine / other for mine, other in pairs))
