from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.core.management.base import BaseCommand, CommandError, CommandParser

from converse.accounting import GROUPS
from converse.models import Conversation, ProviderCall

FIGURES = ("calls", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "cost", "unpriced")


class Command(BaseCommand):
    help = "Show what the calls of providers took, in tokens, and what they cost, in US dollars."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--by",
            action="append",
            choices=sorted(GROUPS),
            help="Give a line for each of these; may be repeated. By default for each provider and model.",
        )
        parser.add_argument("--since", metavar="DAY", help="The first day, such as 2026-11-01.")
        parser.add_argument("--until", metavar="DAY", help="The last day.")

    def handle(self, *args: Any, by: list[str] | None, since: str | None, until: str | None, **options: Any) -> None:
        calls = ProviderCall.objects.all()
        if since:
            calls = calls.since(_day("--since", since))
        if until:
            calls = calls.until(_day("--until", until))
        groups = by or ["provider", "model"]
        rows = _named(list(calls.usage(by=groups)))
        total = {**dict.fromkeys(groups, ""), groups[0]: "total", **calls.usage()}
        columns = (*groups, *FIGURES)
        lines = [[name.replace("_", " ") for name in columns]]
        lines += [[_text(row[name]) for name in columns] for row in (*rows, total)]
        for line in _aligned(lines, len(groups)):
            self.stdout.write(line)


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} takes a day such as 2026-11-01, not {text!r}.") from None


def _named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name conversations and owners as people know them."""
    conversations = Conversation.all_objects.in_bulk({row.get("conversation") for row in rows} - {None})
    for row in rows:
        if found := conversations.get(row.get("conversation")):
            row["conversation"] = found.uuid
        if kind := row.get("owner_type"):
            row["owner"] = f"{ContentType.objects.get_for_id(kind).model} {row['owner_id']}"
    return [{"owner": None, **row} for row in rows]


def _text(value: Any) -> str:
    match value:
        case None:
            return "-"
        case Decimal():
            return f"{value:,.6f}"
        case int():
            return f"{value:,}"
    return str(value)


def _aligned(lines: Sequence[list[str]], texts: int) -> Iterator[str]:
    """Align the first columns on the left and the figures on the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if place < texts else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
