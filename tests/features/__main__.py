"""Run the features and write what came out: ``python -m tests.features [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "features.md"
HEAD = """# Providers and features

Written by `python -m tests.features`, from tests that ran: each cell is a conversation with the real adapter over a
real socket. A dash is what the API itself does not have.

"""


class Outcomes:
    """Listens to pytest: how each feature ended with each provider."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], str] = {}
        self.providers: dict[str, str] = {}
        self.features: list[str] = []
        self.notes: dict[str, None] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for item in items:
            self.providers[item.cls.__name__] = item.cls.__doc__
            # In the order in which they are written down, not in pytest's.
            self.features = [name for name in vars(item.cls.__bases__[0]) if name.startswith("test_")]

    def pytest_runtest_logreport(self, report: Any) -> None:
        _, cls, name = report.nodeid.split("::")
        if report.skipped:
            self.cells[name, cls] = "–"
            self.notes[report.longrepr[2].removeprefix("Skipped: ")] = None
        elif report.failed:
            self.cells[name, cls] = "fails"
        elif report.when == "call":
            self.cells[name, cls] = "yes"

    def table(self) -> str:
        providers = list(self.providers)
        lines = ["| | " + " | ".join(self.providers.values()) + " |", "|---|" + "---|" * len(providers)]
        for name in self.features:
            said = name.removeprefix("test_").replace("_", " ")
            lines.append(f"| {said} | " + " | ".join(self.cells.get((name, cls), "") for cls in providers) + " |")
        return HEAD + "\n".join([*lines, "", *(f"- {note}" for note in sorted(self.notes))]) + "\n"


def main() -> int:
    outcomes = Outcomes()
    path = str(Path(__file__).parent / "test_features.py")
    status = pytest.main([path, "-q", "-p", "no:randomly", "-p", "no:cacheprovider"], plugins=[outcomes])
    table = outcomes.table()
    if "--check" in sys.argv:
        if TABLE.read_text() != table:
            print(f"{TABLE.name} is not what the tests say; write it anew with: python -m tests.features")
            return 1
    else:
        TABLE.write_text(table)
        print(table)
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
