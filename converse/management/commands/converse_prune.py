from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.text import get_text_list

from converse.attachments import storage
from converse.models import Conversation
from converse.upkeep import prune_attachments, prune_calls, prune_chunks, stray_files, unsent, with_old_chunks


class Command(BaseCommand):
    help = (
        "Remove for good the conversations that were deleted some time ago, with all they hold, and the attachments "
        "that nobody sent within a day."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, required=True, help="How many days ago, at least.")
        parser.add_argument(
            "--chunks",
            action="store_true",
            help="Remove as well the chunks of messages closed as long ago, in all conversations. The messages keep "
            "their text; readers that come back to them begin afresh.",
        )
        parser.add_argument(
            "--files",
            action="store_true",
            help="Remove as well the stored files that belong to no attachment; lists all that the storage has.",
        )
        parser.add_argument(
            "--calls",
            action="store_true",
            help="Remove as well the calls of providers that ended as long ago, and with them what they cost.",
        )
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be removed.")

    def handle(
        self, *args: Any, days: int, chunks: bool, files: bool, calls: bool, dry_run: bool, **options: Any
    ) -> None:
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
        yesterday = timezone.now() - timedelta(days=1)
        left = unsent(yesterday).count() if dry_run else prune_attachments(yesterday)
        what = [
            f"{removed} conversations",
            *([f"{left} attachments that were never sent"] if left else []),
            *([f"{pruned} chunks of others"] if chunks else []),
            *([f"{self._remove_files(yesterday, dry_run=dry_run)} stray files"] if files else []),
            *([f"{prune_calls(before, dry_run=dry_run)} calls of providers"] if calls else []),
        ]
        self.stdout.write(f"{'Would remove' if dry_run else 'Removed'} {get_text_list(what, 'and')}.")

    def _remove_files(self, before: datetime, *, dry_run: bool) -> int:
        try:
            names = list(stray_files(before))
        except NotImplementedError as exc:
            raise CommandError("The storage of CONVERSE_ATTACHMENT_STORAGE cannot list its files.") from exc
        if not dry_run:
            for name in names:
                storage.delete(name)
        return len(names)
