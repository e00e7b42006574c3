from __future__ import annotations

from uuid import uuid4

from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import reverse

from converse.models import Conversation
from tests.apis import ApiTestCase


def among_friends(user, name):
    """Let clients share with those only whose name begins as theirs."""
    return User.objects.filter(username__startswith=user.username[0], first_name=name).first()


class ParticipantTests(ApiTestCase):
    def share(self, user, role="write", client=None):
        body = {"user": user, "role": role}
        return self.ask("POST", "participants", self.conversation.uuid, body=body, client=client)

    def unshare(self, key, client=None):
        return self.ask("DELETE", "participant", self.conversation.uuid, key, client=client)

    def who(self, client=None):
        listed = self.ask("GET", "participants", self.conversation.uuid, client=client).json()["participants"]
        return [(participant["user"]["name"], participant["role"]) for participant in listed]

    def test_a_user_is_let_in_given_another_role_and_sent_away(self):
        bob = self.as_(self.bob)
        assert self.ask("GET", "conversation", self.conversation.uuid, client=bob).status_code == 404
        response = self.share("bob", "read")
        assert response.status_code == 201
        assert response.json()["user"] == {"id": str(self.bob.pk), "name": "bob"}
        assert self.who() == self.who(bob) == [("bob", "read")]
        assert self.share("bob", "write").status_code == 200
        assert self.who(bob) == [("bob", "write")]
        assert self.unshare(self.bob.pk).status_code == 204
        assert self.who() == []
        assert self.ask("GET", "participants", self.conversation.uuid, client=bob).status_code == 404

    def test_without_a_role_a_user_may_write(self):
        for body in ({"user": "bob"}, {"user": "eve", "role": "write"}):
            self.ask("POST", "participants", self.conversation.uuid, body=body)
        assert self.who() == [("bob", "write"), ("eve", "write")]

    def test_named_again_without_a_role_a_user_keeps_theirs(self):
        self.share("bob", "read")
        response = self.ask("POST", "participants", self.conversation.uuid, body={"user": "bob"})
        assert (response.status_code, response.json()["role"]) == (200, "read")
        assert self.who() == [("bob", "read")]

    def test_only_who_manages_a_conversation_shares_it(self):
        for role in ("read", "write"):
            self.conversation.share_with(self.bob, role)
            bob = self.as_(self.bob)
            assert self.share("eve", client=bob).status_code == 404
            assert self.share("bob", "owner", client=bob).status_code == 404
            assert self.unshare(self.eve.pk, bob).status_code == 404
        assert self.who() == [("bob", "write")]
        self.conversation.share_with(self.bob, "owner")
        assert self.share("eve", client=bob).status_code == 201
        assert self.unshare(self.eve.pk, bob).status_code == 204

    def test_strangers_learn_nothing(self):
        for client in (Client(), self.as_(self.eve)):
            for user in ("bob", "nobody"):
                assert self.share(user, client=client).status_code == 404
            assert self.unshare(self.bob.pk, client).status_code == 404
            body = {"user": "bob"}
            foreign, missing = (
                self.ask("POST", "participants", uuid, body=body, client=client)
                for uuid in (self.conversation.uuid, uuid4())
            )
            assert foreign.content == missing.content

    def test_who_takes_part_may_leave(self):
        for role in ("read", "owner"):
            self.conversation.share_with(self.bob, role)
            bob = self.as_(self.bob)
            assert self.unshare(self.bob.pk, bob).status_code == 204
            assert self.unshare(self.bob.pk, bob).status_code == 404

    def test_what_is_wrong_is_named(self):
        User.objects.create_user("gone", is_active=False)
        for body, field in (
            ({}, "user"),
            ({"user": None}, "user"),
            ({"user": 7}, "user"),
            ({"user": "a\x00b"}, "user"),
            ({"user": "x" * 256}, "user"),
            ({"user": "nobody"}, "user"),
            ({"user": "gone"}, "user"),
            ({"user": ""}, "user"),
            ({"user": "ada"}, "user"),
            ({"user": "bob", "role": "god"}, "role"),
            ({"user": "bob", "role": ["read"]}, "role"),
            ({"user": "bob", "name": "x"}, "name"),
        ):
            refused = self.refused("POST", "participants", self.conversation.uuid, body=body)
            assert refused == (400, "invalid", field), body
        assert self.who() == []

    def test_who_does_not_take_part_cannot_be_sent_away(self):
        for key in (self.eve.pk, self.ada.pk, "nobody", "9" * 99, "%00"):
            assert self.unshare(key).status_code == 404

    @override_settings(CONVERSE_CLIENT_USER="tests.test_api_participants.among_friends")
    def test_a_rule_of_the_site_says_whom_a_client_may_find(self):
        User.objects.create_user("alice", first_name="Alice")
        User.objects.filter(pk=self.bob.pk).update(first_name="Bob")
        assert self.share("Alice").status_code == 201
        for name in ("Bob", "nobody", "Al"):
            assert self.refused("POST", "participants", self.conversation.uuid, body={"user": name})[2] == "user"

    def test_a_conversation_of_nobody_is_shared_by_those_who_manage_it(self):
        self.conversation = Conversation.objects.start()
        self.conversation.share_with(self.ada, "owner")
        assert self.share("bob").status_code == 201

    def test_a_list_costs_the_same_however_long(self):
        url = reverse("converse:participants", args=[self.conversation.uuid])
        for user in (self.bob, self.eve):
            self.conversation.share_with(user)
            with self.assertNumQueries(4):  # session, user, conversation, participants
                self.client.get(url)
