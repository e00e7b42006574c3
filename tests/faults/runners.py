from __future__ import annotations

from converse.runners import Run


class NoRunner:
    """Leaves every reply pending."""

    def start(self, run: Run, message_id: int) -> None:
        pass
