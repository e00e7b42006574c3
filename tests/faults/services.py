"""The services that these tests need."""

from __future__ import annotations

import shutil

import pytest

from tests.servers import listening

PORTS = {"postgresql": 5432, "mariadb": 3306}


def require(service: str) -> None:
    """Skip the running test without a service, which CONVERSE_REQUIRE_SERVICES forbids: see tests.conftest."""
    if not (listening(PORTS[service]) if service in PORTS else shutil.which(service)):
        pytest.skip(f"no {service}")
    if service == "mariadb":
        # Its driver has to be compiled, so it is an extra of its own, and not what a newcomer's tests need.
        pytest.importorskip("MySQLdb", reason="without the extra mariadb")
