"""The documentation as tests see it: pages, and the blocks of code in them.

A comment in the line above a block says what a test does with it: ``<!-- runs -->`` executes it, after those before it
on the page, ``<!-- compiles -->`` is a reminder that it cannot; ``<!-- run -->`` is a command of the tutorial, and
``<!-- file: path -->`` and ``<!-- append: path -->`` are its files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"

BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^>]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block of code: what it is, what its mark says, where it stands."""

    language: str
    mark: str
    code: str
    place: str
    line: int


def pages() -> list[Path]:
    return [README, *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]


def blocks(page: Path, language: str = "") -> Iterator[Block]:
    text = page.read_text()
    for found in BLOCK.finditer(text):
        if language in ("", found["language"]):
            line = text[: found.start("code")].count("\n")
            yield Block(found["language"], found["mark"] or "", found["code"], str(page.relative_to(ROOT)), line)


def section(page: Path, heading: str) -> str:
    """Return the text under a heading, up to the next one of its level or above."""
    text = page.read_text()
    start = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    if start is None:
        raise LookupError(f"{page.name} has no section {heading!r}")
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """Return the cells of the tables in a text, without their heads."""
    found: list[list[str]] = []
    rule = False
    for line in text.splitlines():
        if not line.startswith("|"):
            rule = False
        elif re.fullmatch(r"[|\s:-]+", line):
            rule = True
        elif rule:
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))])
    return found


def names(text: str) -> list[str]:
    """Return the words in backticks."""
    return re.findall(r"`([^`]+)`", text)
