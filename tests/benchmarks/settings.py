"""The tests' settings for measuring: kept connections, and a layer that notes what it publishes."""

from __future__ import annotations

from tests.settings import *  # noqa: F403
from tests.settings import CHANNEL_LAYERS, DATABASES

# A new connection for every query would hide what is measured here.
DATABASES["default"]["CONN_MAX_AGE"] = None
CHANNEL_LAYERS["default"]["BACKEND"] = "tests.benchmarks.layers.ObservedLayer"
