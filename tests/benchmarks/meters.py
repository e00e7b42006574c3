"""Processor time, wall time, and two things compared."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import psutil
import redis

from tests.benchmarks.services import NAME, REDIS_URL, Missing

try:
    import uvloop
except ImportError:
    uvloop = None


def prefer_fast_loops() -> None:
    """Have every event loop of this process, ours and the rivals', be of the faster kind where there is one."""
    if uvloop:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


class Meter:
    """What a block costs in seconds: ``wall``, and ``cpu`` of this process, our database connections and Redis."""

    def __enter__(self) -> Self:
        self._servers = _servers()
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu + _servers() - self._servers


def _servers() -> float:
    used = redis.Redis.from_url(REDIS_URL).info("cpu")
    times = [process.cpu_times() for process in _connections()]
    return sum(t.user + t.system for t in times) + float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def _connections() -> Iterator[psutil.Process]:
    """Find the server's processes that serve our database: their titles name it."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if (process.info["name"] or "").startswith("postgres") and NAME in " ".join(process.info["cmdline"] or ()):
            yield process


def demand_visible_servers() -> None:
    """Raise Missing where PostgreSQL's processes cannot be seen: their time would count as nothing."""
    if not any(_connections()):
        raise Missing("The processes of PostgreSQL cannot be seen from here, so their time cannot be counted.")


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that a share of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Compared(NamedTuple):
    """Two things measured in turn: the median of each, and of their ratios."""

    one: float
    other: float
    ratio: float


def compare(rounds: int, one: Callable[[], float], other: Callable[[], float]) -> Compared:
    """Measure two things in turn, each first as often as the other."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            second = other()
            pairs.append((one(), second))
        else:
            first = one()
            pairs.append((first, other()))
    first, second = (statistics.median(values) for values in zip(*pairs, strict=True))
    return Compared(first, second, statistics.median(first / second for first, second in pairs))
