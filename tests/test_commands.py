from __future__ import annotations

import asyncio
from datetime import timedelta
from io import StringIO
from unittest.mock import patch
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F
from django.test import SimpleTestCase, TestCase, override_settings
from django.utils import timezone

from converse import loops
from converse.choices import ErrorType
from converse.deltas import ReasoningDelta, ToolCallDelta
from converse.events import Replay, Snapshot
from converse.models import Conversation, Message, MessageChunk
from converse.replays import read
from converse.signals import message_updated

SWEEP = "converse.management.commands.converse_sweep"


def run(name: str, *args: object, **options: object) -> str:
    out = StringIO()
    call_command(name, *args, stdout=out, **options)
    return out.getvalue()


def age(message: Message, days: int = 10) -> None:
    Message.all_objects.filter(pk=message.pk).update(finished_at=F("finished_at") - timedelta(days=days))


class CommandTestCase(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.conversation = Conversation.objects.start()
        cls.asked = cls.conversation.create_user_message("Where?")
        cls.message = cls.streamed("On ", "the ", "plain")

    @classmethod
    def streamed(cls, *pieces: object) -> Message:
        message = cls.conversation.start_streaming_assistant()
        for piece in pieces:
            message.stream.append(piece)
        return message.stream.complete()

    def chunk(self, sequence: int) -> object:
        return MessageChunk.objects.filter(message=self.message, sequence=sequence)

    def set(self, **columns: object) -> None:
        Message.all_objects.filter(pk=self.message.pk).update(**columns)


class SweepTests(CommandTestCase):
    def abandoned(self) -> Message:
        message = self.conversation.start_streaming_assistant()
        message.append_chunk("so far")
        Message.objects.filter(pk=message.pk).update(lease_expires_at=timezone.now() - timedelta(minutes=1))
        return message

    def test_it_closes_what_was_abandoned_and_leaves_the_rest(self):
        message, alive = self.abandoned(), self.conversation.start_streaming_assistant()
        assert run("converse_sweep") == f"Closed {message.uuid}, whose writer is gone.\nClosed 1, started 0.\n"
        message.refresh_from_db()
        assert (message.error_type, message.content) == (ErrorType.INTERRUPTED, "so far")
        alive.refresh_from_db()
        assert alive.is_streaming

    def test_it_goes_on_until_nothing_abandoned_is_left(self):
        first, second = self.abandoned(), self.abandoned()
        batches = [[first], [second], []]
        with patch(f"{SWEEP}.settle_abandoned", side_effect=batches):
            assert "Closed 2, started 0." in run("converse_sweep")

    @override_settings(CONVERSE_RUNNER="converse.runners.ImmediateRunner")
    def test_it_starts_what_waits_behind_nothing(self):
        before = self.conversation.start_streaming_assistant()
        queued = self.conversation.reply("Next", policy="queue")
        assert "started 0" in run("converse_sweep")
        Message.objects.filter(pk=before.pk).update(status="failed")
        assert run("converse_sweep") == "Closed 0, started 1.\n"
        queued.refresh_from_db()
        assert queued.is_completed

    def test_in_a_loop_it_sweeps_until_interrupted_and_speaks_when_there_is_something(self):
        message = None
        naps = []

        def nap(seconds: float) -> None:
            nonlocal message
            naps.append(seconds)
            if len(naps) == 2:
                message = self.abandoned()
            if len(naps) == 3:
                raise KeyboardInterrupt

        with patch("time.sleep", nap), patch(f"{SWEEP}.close_old_connections") as close:  # the test's own among them
            said = run("converse_sweep", loop=0.5).splitlines()
        assert naps == [0.5] * 3
        assert close.call_count == 2
        assert said[:3] == [
            "Closed 0, started 0.",
            f"Closed {message.uuid}, whose writer is gone.",
            "Closed 1, started 0.",
        ]
        assert said[3].startswith("Waiting for the replies that run here.")

    def test_the_pause_must_be_one(self):
        for seconds in (0, -1):
            with pytest.raises(CommandError, match="above 0"):
                run("converse_sweep", loop=seconds)


class FinishTests(SimpleTestCase):
    def test_a_command_waits_for_what_it_started(self):
        done = []

        async def work(depth: int) -> None:
            await asyncio.sleep(0.01)
            if depth:
                loops.run_in(loops.background(), work(depth - 1))
            done.append(depth)

        loops.run_in(loops.background(), work(2))
        loops.finish()
        assert done == [2, 1, 0]


class VerifyTests(CommandTestCase):
    def complaints(self, *args: object, **options: object) -> str:
        with pytest.raises(CommandError) as raised:
            run("converse_verify", *args, **options)
        assert raised.value.returncode == 1
        return str(raised.value)

    def test_all_is_well_with_what_was_written_as_it_should_be(self):
        call = ToolCallDelta(index=0, id="1", name="f", arguments="{}")
        self.streamed(ReasoningDelta(text="Hm."), "Let me see.", call, "Well.")
        self.streamed("stopped").delete()
        self.conversation.start_streaming_assistant().append_chunk("open")
        Conversation.objects.start().delete()
        assert run("converse_verify") == "Conversations looked at: 2. Mended: 0. All is well.\n"

    def test_content_that_differs_is_told_and_mended(self):
        self.set(content="Elsewhere", parts=[])
        out = StringIO()
        with pytest.raises(CommandError, match=r"Conversations looked at: 1\. Mended: 0\. Wrong still: 1\."):
            call_command("converse_verify", stdout=out)
        uuids = f"Conversation {self.conversation.uuid}: message {self.message.uuid}"
        assert out.getvalue() == f"{uuids} has content that is not that of its chunks\n"
        assert "(mended)" in run("converse_verify", repair=True)
        row = Message.objects.get(pk=self.message.pk)
        assert (row.content, row.parts) == ("On the plain", [{"type": "text", "text": "On the plain"}])
        assert "All is well." in run("converse_verify")

    def test_mending_has_readers_begin_afresh(self):
        self.conversation.refresh_from_db()
        head, epoch = self.conversation.last_offset, self.conversation.epoch
        self.set(content="Elsewhere")
        told = []
        receiver = lambda message, **kwargs: told.append(message.content)  # noqa: E731
        message_updated.connect(receiver)
        self.addCleanup(message_updated.disconnect, receiver)
        with self.captureOnCommitCallbacks(execute=True):
            run("converse_verify", repair=True)
        assert told == ["On the plain"]
        found = read(self.conversation.pk, head, epoch)
        assert isinstance(found, Snapshot)
        assert found.offset == head + 1
        assert found.messages[-1]["content"] == "On the plain"

    def test_what_is_mended_in_the_bin_is_not_told(self):
        self.message.delete()
        self.set(content="Elsewhere")
        with patch.object(Message, "event") as event:
            run("converse_verify", repair=True)
        event.assert_not_called()
        assert Message.all_objects.get(pk=self.message.pk).content == "On the plain"

    def test_a_wrong_last_sequence_is_mended(self):
        self.set(last_sequence=2)
        assert "Wrong still: 1." in self.complaints()
        run("converse_verify", repair=True)
        assert Message.objects.get(pk=self.message.pk).last_sequence == 3

    def test_what_has_lost_chunks_is_told_and_left_alone(self):
        for sequence in (1, 2, 3):
            with self.subTest(sequence=sequence):
                lost = self.chunk(sequence).get()
                self.chunk(sequence).delete()
                out = StringIO()
                with pytest.raises(CommandError, match=r"Mended: 0\."):
                    call_command("converse_verify", repair=True, stdout=out)
                assert "has 2 chunks, not 1 to 3 without a gap" in out.getvalue()
                assert Message.objects.get(pk=self.message.pk).content == "On the plain"
                MessageChunk.objects.bulk_create([lost])

    def test_offsets_out_of_order_are_told(self):
        first, second = self.chunk(1).get().offset, self.chunk(2).get().offset
        self.chunk(1).update(offset=1000)
        self.chunk(2).update(offset=first)
        self.chunk(1).update(offset=second)
        out = StringIO()
        with pytest.raises(CommandError, match="Wrong still: 1"):
            call_command("converse_verify", stdout=out)
        assert "has chunks whose offsets are not in their order" in out.getvalue()

    def test_offsets_above_the_head_are_told(self):
        for where in ("chunk", "message"):
            with self.subTest(where):
                if where == "chunk":
                    self.chunk(3).update(offset=1000)
                else:
                    self.chunk(3).update(offset=self.message.closed_offset - 1)
                    self.set(changed_offset=1000)
                out = StringIO()
                with pytest.raises(CommandError, match="Wrong still: 1"):
                    call_command("converse_verify", stdout=out)
                assert "has an offset above the head" in out.getvalue()

    def test_an_offset_taken_twice_is_told(self):
        self.chunk(1).update(offset=self.asked.offset)
        out = StringIO()
        with pytest.raises(CommandError, match="Wrong still: 1"):
            call_command("converse_verify", stdout=out)
        assert "has a chunk at a message's offset" in out.getvalue()

    def test_only_the_conversations_asked_for_are_looked_at(self):
        self.set(content="Elsewhere")
        other = Conversation.objects.start()
        assert "looked at: 1. Mended: 0. All is well." in run("converse_verify", str(other.uuid))
        assert "Wrong still: 1" in self.complaints(str(other.uuid), str(self.conversation.uuid))

    def test_a_conversation_that_is_not_there_is_an_error(self):
        uuid = uuid4()
        assert self.complaints(str(uuid)) == f"There is no conversation {uuid}."
        with pytest.raises(CommandError, match="invalid UUID"):
            run("converse_verify", "nonsense")


class PruneTests(CommandTestCase):
    def deleted(self, days: int) -> Conversation:
        conversation = Conversation.objects.start()
        conversation.create_user_message("Hello")
        conversation.delete()
        Conversation.all_objects.filter(pk=conversation.pk).update(deleted_at=timezone.now() - timedelta(days=days))
        conversation.refresh_from_db()
        return conversation

    def test_it_removes_for_good_what_was_deleted_long_ago(self):
        old, young = self.deleted(31), self.deleted(29)
        said = run("converse_prune", days=30)
        day = f"{old.deleted_at:%Y-%m-%d}"
        assert said == f"Conversation {old.uuid}, deleted on {day}.\nRemoved 1 conversations.\n"
        assert set(Conversation.all_objects.all()) == {self.conversation, young}
        assert not Message.all_objects.filter(conversation_id=old.pk).exists()

    def test_a_dry_run_only_says_so(self):
        old = self.deleted(31)
        age(self.message)
        said = run("converse_prune", days=5, dry_run=True, chunks=True)
        assert str(old.uuid) in said
        assert "Would remove 1 conversations and 3 chunks of others." in said
        assert Conversation.all_objects.filter(pk=old.pk).exists()
        assert MessageChunk.objects.count() == 3

    def test_old_chunks_go_and_the_text_stays(self):
        age(self.message)
        young = self.streamed("young")
        self.conversation.start_streaming_assistant().append_chunk("open")
        self.conversation.refresh_from_db()
        head, epoch = self.conversation.last_offset, self.conversation.epoch
        assert isinstance(read(self.conversation.pk, 2, epoch), Replay)
        assert "Removed 0 conversations and 3 chunks of others." in run("converse_prune", days=5, chunks=True)
        assert sorted(MessageChunk.objects.values_list("content", flat=True)) == ["open", "young"]
        found = read(self.conversation.pk, 2, epoch)  # a cursor amid what is gone
        assert isinstance(found, Snapshot)
        assert [message["content"] for message in found.messages] == ["Where?", "On the plain", "young", "open"]
        assert found.offset == head
        assert "All is well." in run("converse_verify")
        age(young)

    def test_without_being_asked_chunks_stay(self):
        age(self.message)
        assert run("converse_prune", days=5) == "Removed 0 conversations.\n"
        assert MessageChunk.objects.count() == 3

    def test_chunks_that_tell_something_else_than_the_text_stay(self):
        age(self.message)
        self.set(content="Elsewhere")
        epoch = Conversation.objects.get().epoch
        assert "and 0 chunks of others." in run("converse_prune", days=5, chunks=True)
        assert MessageChunk.objects.count() == 3
        assert Conversation.objects.get().epoch == epoch

    def test_days_are_asked_for_and_count_up(self):
        with pytest.raises(CommandError, match="--days"):
            run("converse_prune")
        with pytest.raises(CommandError, match="from 0"):
            run("converse_prune", days=-1)
