"""Run the features and write what came out: ``python -m tests.features [--check] [--report JUNIT_XML]``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import django

TABLE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "features.md"
HEAD = """# Providers and features

Written by `python -m tests.features`, from tests that ran: each cell is a conversation with the real adapter over a
real socket. A dash is what the API itself does not have.

"""


class Outcomes:
    """How each feature ended with each provider."""

    def __init__(self, report: Path) -> None:
        self.cells: dict[tuple[str, str], str] = {}
        self.notes: set[str] = set()
        for case in ElementTree.parse(report).iter("testcase"):
            module, _, cls = case.get("classname", "").rpartition(".")
            if module == "tests.features.test_features":
                self.cells[case.get("name", ""), cls] = self._said_of(case)

    def _said_of(self, case: ElementTree.Element) -> str:
        if (skipped := case.find("skipped")) is not None:
            self.notes.add(skipped.get("message", ""))
            return "–"
        return "yes" if case.find("failure") is None and case.find("error") is None else "fails"

    def table(self) -> str:
        from tests.features.test_features import Features  # its models want Django to be set up

        providers = {cls.__name__: cls.__doc__ for cls in Features.__subclasses__()}
        features = [name for name in vars(Features) if name.startswith("test_")]
        lines = ["| | " + " | ".join(map(str, providers.values())) + " |", "|---|" + "---|" * len(providers)]
        for name in features:
            said = name.removeprefix("test_").replace("_", " ")
            lines.append(f"| {said} | " + " | ".join(self.cells.get((name, cls), "") for cls in providers) + " |")
        return HEAD + "\n".join([*lines, "", *(f"- {note}" for note in sorted(self.notes))]) + "\n"


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.features", description=__doc__)
    arguments.add_argument("--check", action="store_true", help="write nothing, and fail where the table is another")
    arguments.add_argument("--report", type=Path, help="what pytest --junitxml wrote of a run that had the features")
    given = arguments.parse_args()
    if given.report:
        outcomes = Outcomes(given.report)
    else:
        with TemporaryDirectory() as folder:
            report = Path(folder, "report.xml")
            run = ["pytest", str(Path(__file__).parent), "-q", f"--junitxml={report}", "-p", "no:cacheprovider"]
            if subprocess.run([sys.executable, "-m", *run]).returncode not in (0, 1):
                return 1
            outcomes = Outcomes(report)
    table = outcomes.table()
    if given.check:
        if TABLE.read_text() != table:
            print(f"{TABLE.name} is not what the tests say; write it anew with: python -m tests.features")
        return int(TABLE.read_text() != table)
    TABLE.write_text(table)
    print(table)
    return int("fails" in outcomes.cells.values())


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    sys.exit(main())
