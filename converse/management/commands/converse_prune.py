from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from converse.models import Conversation
from converse.upkeep import prune_chunks, with_old_chunks


class Command(BaseCommand):
    help = "Remove for good the conversations that were deleted some time ago, with all they hold."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, required=True, help="How many days ago, at least.")
        parser.add_argument(
            "--chunks",
            action="store_true",
            help="Remove as well the chunks of messages closed as long ago, in all conversations. The messages keep "
            "their text; readers that come back to them begin afresh.",
        )
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be removed.")

    def handle(self, *args: Any, days: int, chunks: bool, dry_run: bool, **options: Any) -> None:
        if days < 0:
            raise CommandError("--days takes a number of days from 0.")
        before = timezone.now() - timedelta(days=days)
        deleted = Conversation.all_objects.filter(deleted_at__lt=before).order_by("pk")
        removed = 0
        for conversation in deleted:
            self.stdout.write(f"Conversation {conversation.uuid}, deleted on {conversation.deleted_at:%Y-%m-%d}.")
            if not dry_run:
                conversation.purge()
            removed += 1
        pruned = 0
        if chunks:
            for conversation in with_old_chunks(before).exclude(deleted_at__lt=before).order_by("pk"):
                pruned += prune_chunks(conversation, before, dry_run=dry_run)
        self.stdout.write(
            f"{'Would remove' if dry_run else 'Removed'} {removed} conversations"
            + (f" and {pruned} chunks of others." if chunks else ".")
        )
