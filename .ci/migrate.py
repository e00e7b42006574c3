"""Migrate a new database of the kind that CONVERSE_TEST_DATABASE names, forth and back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

from django.core.management import call_command  # noqa: E402 - the apps must be loaded first
from django.db import connection  # noqa: E402

former = connection.settings_dict["NAME"]
connection.creation.create_test_db(verbosity=0, autoclobber=True)
try:
    call_command("migrate", "converse", "zero", verbosity=0)
    call_command("migrate", "converse", verbosity=0)
finally:
    connection.creation.destroy_test_db(former, verbosity=0)
print(f"{connection.vendor} {'.'.join(map(str, connection.get_database_version()))}: forth and back")
