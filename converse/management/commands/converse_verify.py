from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser

from converse.models import Conversation
from converse.upkeep import mend, problems


class Command(BaseCommand):
    help = (
        "Compare closed messages with the chunks they were put together from, and look for gaps and misplaced offsets. "
        "Ends with 1 when something is wrong and was not mended."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("uuids", nargs="*", type=UUID, metavar="uuid", help="Conversations to look at; else all.")
        parser.add_argument(
            "--repair", action="store_true", help="Put content together from its chunks again, where none is missing."
        )

    def handle(self, *args: Any, uuids: list[UUID], repair: bool, **options: Any) -> None:
        looked = mended = left = 0
        for conversation in self.chosen(uuids):
            looked += 1
            for problem in problems(conversation):
                repaired = repair and problem.mendable
                if repaired:
                    mend(problem.message)
                mended += repaired
                left += not repaired
                outcome = " (mended)" if repaired else ""
                self.stdout.write(
                    f"Conversation {conversation.uuid}: message {problem.message.uuid} {problem.text}{outcome}"
                )
        if left:
            raise CommandError(f"Conversations looked at: {looked}. Mended: {mended}. Wrong still: {left}.")
        self.stdout.write(f"Conversations looked at: {looked}. Mended: {mended}. All is well.")

    def chosen(self, uuids: list[UUID]) -> Any:
        conversations = Conversation.all_objects.order_by("pk")
        if not uuids:
            return conversations.iterator()
        found = conversations.in_bulk(uuids, field_name="uuid")
        if missing := [str(uuid) for uuid in uuids if uuid not in found]:
            raise CommandError(f"There is no conversation {', '.join(missing)}.")
        return found.values()
