from __future__ import annotations

from types import SimpleNamespace

from django.contrib.auth.models import User
from django.test import SimpleTestCase

from converse.presence import EXPIRE, Roster, describe

ADA = {"id": "1", "name": "Ada"}
BOB = {"id": "2", "name": "Bob"}


class RosterTests(SimpleTestCase):
    def test_a_user_is_there_once_however_many_sockets_they_have(self):
        roster = Roster()
        assert roster.announce({"a": ADA, "b": ADA, "c": BOB}, 0) == [ADA, BOB]
        assert roster.users() == [ADA, BOB]

    def test_only_a_users_first_socket_joins(self):
        roster = Roster()
        assert roster.announce({"a": ADA}, 0) == [ADA]
        assert roster.announce({"b": ADA}, 0) == []
        assert roster.announce({"a": ADA}, 0) == []

    def test_only_a_users_last_socket_leaves(self):
        roster = Roster()
        roster.announce({"a": ADA, "b": ADA}, 0)
        assert roster.forget(["a"]) == []
        assert roster.forget(["b"]) == [ADA]
        assert roster.users() == []

    def test_two_last_sockets_that_go_together_leave_once(self):
        roster = Roster()
        roster.announce({"a": ADA, "b": ADA}, 0)
        assert roster.forget(["a", "b"]) == [ADA]

    def test_a_socket_that_nobody_knows_leaves_nothing(self):
        assert Roster().forget(["a"]) == []

    def test_what_is_not_announced_again_is_forgotten(self):
        roster = Roster()
        roster.announce({"a": ADA, "c": BOB}, 0)
        roster.announce({"a": ADA}, EXPIRE / 2)
        assert roster.expire(EXPIRE) == []
        assert roster.expire(EXPIRE + 1) == [BOB]
        assert roster.users() == [ADA]


class DescribeTests(SimpleTestCase):
    def test_a_user_goes_by_the_full_name_or_else_by_the_username(self):
        assert describe(User(pk=7, username="ada", first_name="Ada")) == {"id": "7", "name": "Ada"}
        assert describe(User(pk=7, username="ada")) == {"id": "7", "name": "ada"}

    def test_a_user_model_of_ones_own_need_not_know_full_names(self):
        assert describe(SimpleNamespace(pk="x", get_username=lambda: "ada")) == {"id": "x", "name": "ada"}
