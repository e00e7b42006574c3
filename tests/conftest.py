from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from django.db import connection
from django.test import TransactionTestCase
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis

if TYPE_CHECKING:
    from pytest_django.plugin import DjangoDbBlocker

# A machine that is busy with other things must not fail a test.
examples = int(os.environ.get("CONVERSE_TEST_EXAMPLES", "100"))
hypothesis.register_profile(
    "converse", deadline=None, max_examples=examples, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis.load_profile("converse")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what meets the database that the settings name: ``-m database``. The faults have databases of their own."""
    for item in items:
        if isinstance(item, pytest.Function) and item.cls and issubclass(item.cls, TransactionTestCase):
            item.add_marker("database")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Let go of the test database at the end: PostgreSQL drops none that a thread still has a connection to."""
    yield
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )


@pytest.fixture(autouse=True)
def unmeasured_faults(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the many processes of the fault tests out of coverage, which slows them: what they run others run too."""
    if "faults" in request.path.parts:
        monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[pytest.TestReport]:
    """With CONVERSE_REQUIRE_SERVICES a test must not be skipped because something is missing."""
    report = yield
    if report.skipped and os.environ.get("CONVERSE_REQUIRE_SERVICES") == "1" and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith("no "):
            report.outcome = "failed"
            report.longrepr = f"There is {reason}, and CONVERSE_REQUIRE_SERVICES is set."
    return report
