from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import close_old_connections

from converse import calls, loops
from converse.closing import settle_abandoned
from converse.replies import start_queued


class Command(BaseCommand):
    help = (
        "Close the replies whose writer is gone, keeping what they have, and start those whose turn has come in a "
        "queue. Processes with readers do this by themselves; run it where replies are made and nobody may be watching."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--loop", type=float, metavar="SECONDS", help="Go on until interrupted, so many seconds after each sweep."
        )

    def handle(self, *args: Any, loop: float | None, **options: Any) -> None:
        if loop is not None and loop <= 0:
            raise CommandError("--loop takes a number of seconds above 0.")
        self.sweep(quiet=False)
        try:
            while loop is not None:
                time.sleep(loop)
                close_old_connections()
                self.sweep(quiet=True)
        except KeyboardInterrupt:
            self.stdout.write("Waiting for the replies that run here. Interrupt again to leave them unfinished.")
        loops.finish()

    def sweep(self, *, quiet: bool) -> None:
        closed = 0
        while settled := settle_abandoned():
            for message in settled:
                self.stdout.write(f"Closed {message.uuid}, whose writer is gone.")
            closed += len(settled)
        calls.settle()
        started = start_queued()
        if closed or started or not quiet:
            self.stdout.write(f"Closed {closed}, started {started}.")
