"""What the measurements need around them: a database of their own, and Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import redis

NAME = f"converse_benchmark_{os.getpid()}"
REDIS_URL = os.environ.get("CONVERSE_TEST_REDIS", "redis://127.0.0.1:6379/0")


class Missing(Exception):
    """A service that the measurements need is not there."""


def choose() -> None:
    """Have the tests' settings use PostgreSQL, Redis and names of our own; children inherit it."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.benchmarks.settings"
    os.environ["CONVERSE_TEST_DATABASE"] = "postgresql"
    os.environ["CONVERSE_TEST_DATABASE_NAME"] = NAME
    os.environ["CONVERSE_TEST_LAYER"] = "redis"
    os.environ["CONVERSE_TEST_PREFIX"] = NAME


@contextmanager
def database() -> Iterator[None]:
    """Create the database of ``choose()`` and drop it at the end; raise Missing where a service is."""
    try:
        redis.Redis.from_url(REDIS_URL).ping()
    except redis.RedisError as exc:
        raise Missing(f"Redis does not answer at {REDIS_URL}: {exc}") from exc
    _on_server(f"CREATE DATABASE {NAME}")
    try:
        yield
    finally:
        _on_server(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")


def _on_server(statement: str) -> None:
    user = os.environ.get("PGUSER", "postgres")
    try:
        with psycopg.connect(host="127.0.0.1", user=user, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)
    except psycopg.OperationalError as exc:
        raise Missing(f"PostgreSQL does not answer at 127.0.0.1 for {user}: {exc}") from exc
