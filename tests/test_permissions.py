from __future__ import annotations

from types import SimpleNamespace
from uuid import uuid4

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.test import TestCase, override_settings

from converse.choices import Action
from converse.models import Conversation
from converse.permissions import find, fresh, may
from tests.owners.models import Team


def only_ada(user, action, conversation):
    return user.username == "ada" and action == Action.READ


class ElsewhereRouter:
    """Sends reads that may be stale to a replica, which is not there."""

    def db_for_read(self, model, **hints):
        return "replica" if model._meta.app_label == "converse" else None


class DefaultRuleTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.owner, cls.friend, cls.stranger = (User.objects.create_user(name) for name in ("ada", "bob", "eve"))
        cls.conversation = Conversation.objects.start(cls.owner)

    def rights(self, user):
        return [action.value for action in Action if may(user, action, self.conversation)]

    def test_the_owner_may_do_everything_and_a_stranger_nothing(self):
        assert self.rights(self.owner) == ["read", "write", "manage"]
        assert self.rights(self.stranger) == []

    def test_a_participant_may_do_what_their_role_says(self):
        for role, rights in (
            ("read", ["read"]),
            ("write", ["read", "write"]),
            ("owner", ["read", "write", "manage"]),
        ):
            self.conversation.share_with(self.friend, role)
            assert self.rights(self.friend) == rights
        assert self.conversation.participants.count() == 1
        assert self.conversation.unshare_with(self.friend)
        assert self.rights(self.friend) == []
        assert not self.conversation.unshare_with(self.friend)

    def test_a_role_that_is_none_is_refused(self):
        with pytest.raises(ValueError, match="god"):
            self.conversation.share_with(self.friend, "god")

    def test_nobody_and_who_is_not_signed_in_may_nothing(self):
        for user in (None, AnonymousUser()):
            assert self.rights(user) == []

    def test_a_deactivated_owner_may_nothing(self):
        self.owner.is_active = False
        assert self.rights(self.owner) == []

    def test_a_user_does_not_own_what_another_model_with_the_same_key_owns(self):
        team = Team.objects.create(pk=self.stranger.pk, name="Team")
        conversation = Conversation.objects.start(team)
        assert not may(self.stranger, Action.READ, conversation)

    def test_a_conversation_of_nobody_belongs_to_nobody(self):
        assert not may(self.owner, Action.READ, Conversation.objects.start())


class FindTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.owner, cls.stranger = (User.objects.create_user(name) for name in ("ada", "eve"))
        cls.conversation = Conversation.objects.start(cls.owner)

    def test_a_conversation_is_found_by_its_uuid_in_any_spelling(self):
        uuid = self.conversation.uuid
        for spelling in (uuid, str(uuid), str(uuid).upper(), uuid.hex, f"urn:uuid:{uuid}", f"{{{uuid}}}"):
            assert find(self.owner, spelling, Action.MANAGE) == self.conversation

    def test_foreign_missing_deleted_and_nonsense_all_look_the_same(self):
        hidden = Conversation.objects.start(self.owner)
        hidden.delete()
        messages = set()
        for user, uuid in (
            (self.stranger, self.conversation.uuid),
            (self.owner, uuid4()),
            (self.owner, hidden.uuid),
            (self.owner, "nonsense"),
            (self.owner, ""),
            (self.owner, self.conversation.pk),
            (self.owner, "\x00"),
            (self.owner, "\ud800"),
        ):
            with pytest.raises(Conversation.DoesNotExist) as info:
                find(user, uuid, Action.READ)
            messages.add(str(info.value))
        assert len(messages) == 1

    def test_the_rule_can_be_replaced(self):
        with override_settings(CONVERSE_AUTHORIZE="tests.test_permissions.only_ada"):
            assert find(self.owner, self.conversation.uuid, Action.READ) == self.conversation
            with pytest.raises(Conversation.DoesNotExist):
                find(self.owner, self.conversation.uuid, Action.WRITE)

    def test_a_right_is_looked_up_where_it_is_written_not_in_a_replica_that_lags(self):
        friend = User.objects.create_user("bob")
        self.conversation.share_with(friend)
        with override_settings(DATABASE_ROUTERS=["tests.test_permissions.ElsewhereRouter"]):
            assert find(friend, self.conversation.uuid, Action.WRITE) == self.conversation


class FreshTests(TestCase):
    def test_a_user_is_looked_up_anew_with_nothing_remembered(self):
        user = User.objects.create_user("ada")
        assert not user.has_perm("auth.add_user")
        User.objects.update(is_superuser=True)
        assert fresh(user).has_perm("auth.add_user")

    def test_a_user_who_is_gone_does_not_exist(self):
        user = User.objects.create_user("ada")
        User.objects.all().delete()
        with pytest.raises(User.DoesNotExist):
            fresh(user)

    def test_who_is_no_row_stays_who_they_are(self):
        for user in (AnonymousUser(), SimpleNamespace(pk="token"), None):
            assert fresh(user) is user
