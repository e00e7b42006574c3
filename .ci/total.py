"""Sum up the reports of several runs of pytest: python .ci/total.py report.xml …"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

total = {"passed": 0, "failed": 0, "skipped": 0}


def line(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


for report in map(Path, sys.argv[1:]):
    suite = ElementTree.parse(report).getroot()[0]
    failed, skipped = int(suite.get("failures", 0)) + int(suite.get("errors", 0)), int(suite.get("skipped", 0))
    counts = {"passed": int(suite.get("tests", 0)) - failed - skipped, "failed": failed, "skipped": skipped}
    total = {outcome: count + counts[outcome] for outcome, count in total.items()}
    print(f"{report.stem}: {line(counts)}")
print(f"total: {line(total)}")
