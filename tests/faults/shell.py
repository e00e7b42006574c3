"""The process behind ``tests.servers.Shell``: it reads what to do, a line of JSON each, and answers with another."""

from __future__ import annotations

import json
import os
import sys
import traceback

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.faults.settings")
django.setup()

from tests.faults import acts  # noqa: E402 - the apps must be loaded first


def answer(request: str) -> dict[str, object]:
    act, arguments = json.loads(request)
    try:
        return {"result": getattr(acts, act)(**arguments)}
    except Exception:
        return {"error": traceback.format_exc()}


for request in sys.stdin:
    print(json.dumps(answer(request)), flush=True)
