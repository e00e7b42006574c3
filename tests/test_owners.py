from __future__ import annotations

from uuid import uuid4

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.test import TestCase
from django.utils.functional import SimpleLazyObject

from converse.exceptions import InvalidMessage
from converse.models import Conversation
from tests.owners.models import Project, Team


class OwnerTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.team = Team.objects.create(name="red")
        cls.project = Project.objects.create()
        cls.user = get_user_model().objects.create_user("ada")

    def test_an_owner_of_any_model_starts_and_continues_conversations(self):
        for owner in (self.team, self.project):
            conversation = owner.start_conversation("Plans", {"topic": 1}, {"system_prompt": "Be brief."})
            found = owner.continue_conversation(conversation.uuid)
            assert found == conversation
            assert found.owner == owner
            assert (found.title, found.metadata, found.context) == (
                "Plans",
                {"topic": 1},
                {"system_prompt": "Be brief."},
            )
            assert list(owner.conversations.all()) == [conversation]

    async def test_the_same_goes_asynchronously(self):
        conversation = await self.team.astart_conversation("Plans")
        assert await self.team.acontinue_conversation(str(conversation.uuid)) == conversation
        assert await self.team.afind_conversation(uuid4()) is None
        assert (await Conversation.objects.astart(self.user)).owner_id == str(self.user.pk)

    def test_owners_of_different_models_with_the_same_key_do_not_share_conversations(self):
        other = Team.objects.create(pk=self.user.pk + 1000, name="blue")
        conversation = Conversation.objects.start(self.user)
        Conversation.objects.filter(pk=conversation.pk).update(owner_id=str(other.pk))
        assert other.find_conversation(conversation.uuid) is None

    def test_a_foreign_a_missing_a_deleted_and_a_mistyped_conversation_look_the_same(self):
        foreign = self.project.start_conversation()
        deleted = self.team.start_conversation()
        deleted.delete()
        for uuid in (foreign.uuid, uuid4(), deleted.uuid, "not a uuid"):
            with pytest.raises(Conversation.DoesNotExist):
                self.team.continue_conversation(uuid)
            assert self.team.find_conversation(uuid) is None

    def test_a_conversation_needs_no_owner(self):
        assert Conversation.objects.start().owner is None

    def test_active_conversations_come_latest_first_and_without_the_deleted(self):
        first, second, third = (self.team.start_conversation(str(number)) for number in range(3))
        third.delete()
        first.add_user_message("Hello")
        assert list(self.team.active_conversations()) == [first, second]

    def test_deleting_an_owner_removes_its_conversations_for_good(self):
        conversation = self.team.start_conversation()
        conversation.add_user_message("Hello")
        self.team.delete()
        assert not Conversation.all_objects.filter(pk=conversation.pk).exists()

    def test_a_user_sees_what_is_theirs_and_what_is_shared_with_them_once(self):
        own = Conversation.objects.start(self.user)
        shared = self.team.start_conversation()
        shared.share_with(self.user, "read")
        own.share_with(self.user, "owner")
        self.team.start_conversation()
        assert set(Conversation.objects.for_user(self.user)) == {own, shared}
        assert Conversation.objects.for_user(self.user).count() == 2

    def test_nobody_signed_in_has_no_conversations_and_starts_none(self):
        Conversation.objects.start()
        nobody = AnonymousUser()
        assert not Conversation.objects.for_user(nobody).exists()
        assert not Conversation.objects.for_owner(nobody).exists()
        assert not Conversation.objects.for_user(get_user_model()()).exists()
        for owner in (nobody, "ada", 5, Team(name="new")):
            with pytest.raises(InvalidMessage) as caught:
                Conversation.objects.start(owner)
            assert caught.value.field == "owner"
        assert Conversation.objects.count() == 1

    def test_the_user_of_a_request_is_a_user(self):
        lazy = SimpleLazyObject(lambda: self.user)
        conversation = Conversation.objects.start(lazy)
        assert Conversation.objects.for_user(lazy).get() == conversation
        assert conversation.share_with(lazy, "read").role == "read"

    def test_a_conversation_is_shared_with_a_user_in_a_role(self):
        conversation = self.team.start_conversation()
        for user, role, field in (
            (self.user, "admin", "role"),
            (self.user, None, "role"),
            (AnonymousUser(), "read", "user"),
            (get_user_model()(), "read", "user"),
            (self.team, "read", "user"),
            (self.user.pk, "read", "user"),
        ):
            with pytest.raises(InvalidMessage) as caught:
                conversation.share_with(user, role)
            assert caught.value.field == field
        assert not conversation.participants.exists()
