"""Settings of the site that the clients visit."""

from __future__ import annotations

import os

from tests.faults.settings import *  # noqa: F403

ROOT_URLCONF = "tests.clients.urls"
CONVERSE_PROVIDERS = {"default": {"BACKEND": "tests.clients.providers.ObedientProvider"}}
CONVERSE_CLIENT_REPLY = "tests.faults.rules.paying"
CONVERSE_FRAME_RATE = 1000.0
CONVERSE_ECHO_SECRET = "a-secret-that-the-suites-know"
PAGES = os.environ.get("CONVERSE_TEST_PAGES", "")
DATABASES["default"]["CONN_MAX_AGE"] = 0  # noqa: F405
