"""Settings of the processes that the fault tests start: those of the tests, and what a test wants besides."""

from __future__ import annotations

import json
import os

from tests.settings import *  # noqa: F403
from tests.settings import CHANNEL_LAYERS

CONVERSE_PROVIDERS = {"default": {"BACKEND": "tests.faults.providers.ScriptedProvider"}}
CONVERSE_FLUSH_INTERVAL = 0.005  # more events for the same text

if faults := json.loads(os.environ.get("CONVERSE_TEST_FAULTS", "{}")):
    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "tests.faults.layers.LossyLayer",
            "CONFIG": {"inner": CHANNEL_LAYERS["default"], **faults},
        }
    }

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}

globals().update(json.loads(os.environ.get("CONVERSE_TEST_SETTINGS", "{}")))
