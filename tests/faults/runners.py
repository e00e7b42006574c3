from __future__ import annotations

from converse.runners import Run


class NoRunner:
    """Leaves every reply pending."""

    def start(self, run: Run, message_id: int) -> None:
        pass


class CountingRunner:
    """Notes which replies are started, and leaves them pending."""

    started: list[int] = []

    def start(self, run: Run, message_id: int) -> None:
        self.started.append(message_id)
