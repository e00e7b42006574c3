"""Measure, and print what came of it."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Iterator

import django

from tests.benchmarks import services

services.choose()
django.setup()

from django.core.management import call_command  # noqa: E402 - the settings must be chosen first

from tests.benchmarks import meters, reading, writing  # noqa: E402
from tests.benchmarks.figures import Figure  # noqa: E402

RATIOS = {measure.__name__: measure for measure in (*writing.RATIOS, *reading.RATIOS)}
MEASUREMENTS = {**RATIOS, **{measure.__name__: measure for measure in writing.FURTHER}}


def main() -> int:
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is cleaned up, too
    logging.getLogger("converse").setLevel(logging.ERROR)
    meters.prefer_fast_loops()
    figures = []
    try:
        for figure in measured(arguments.names, arguments.quick):
            figures.append(figure)
            print(figure, file=sys.stderr if arguments.json else sys.stdout, flush=True)
    except services.Missing as exc:
        print(f"Nothing can be measured. {exc}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps({figure.key: round(figure.value, 4) for figure in figures}))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure Converse's speed.")
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(MEASUREMENTS))
    parser.add_argument("--json", action="store_true", help="print one JSON object of names and numbers")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, and no more than the ratios")
    arguments = parser.parse_args()
    arguments.names = arguments.names or list(RATIOS if arguments.quick else MEASUREMENTS)
    if unknown := set(arguments.names) - set(MEASUREMENTS):
        parser.error(f"no measurement is called {', '.join(unknown)}")
    return arguments


def measured(names: list[str], quick: bool) -> Iterator[Figure]:
    """Measure one after the other in a database of its own."""
    with services.database():
        call_command("migrate", verbosity=0)
        meters.demand_visible_servers()
        for name in names:
            yield from MEASUREMENTS[name](quick)


if __name__ == "__main__":
    sys.exit(main())
