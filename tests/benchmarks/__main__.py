from __future__ import annotations
import logging
from tests.benchmarks import services
services.choose()
import django
import sys
django.setup()
from django.core.management import call_command
from tests.benchmarks import meters
meters.prefer_fast_loops()
with services.database():
    call_command("migrate", verbosity=0)
    from tests.benchmarks import writing
    for n in sys.argv[1:]:
        for _ in range(2):
            print(n, getattr(writing, n)(True))
