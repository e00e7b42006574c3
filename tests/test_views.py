from __future__ import annotations

from uuid import uuid4

from django.contrib.auth import get_user_model
from django.test import TestCase
from django.urls import reverse

from converse.models import Conversation
from tests.readers import Assembled


class LogTests(TestCase):
    @classmethod
    def setUpTestData(cls):
        cls.user = get_user_model().objects.create_user("ada")
        cls.conversation = Conversation.objects.start(cls.user, title="Plans")
        cls.url = reverse("converse:log", args=[cls.conversation.uuid])

    async def test_a_client_that_polls_assembles_what_is_stored(self):
        await self.async_client.aforce_login(self.user)
        reader = Assembled()
        response = await self.async_client.get(self.url)
        reader.apply(response.json()["event"], response.json()["data"])
        async with self.conversation.astream_reply() as stream:
            for word in ("Once ", "upon ", "a time"):
                await stream.aappend(word)
                await stream.adrain()
                response = await self.async_client.get(self.url, {"after": reader.offset, "epoch": reader.epoch})
                reader.apply(response.json()["event"], response.json()["data"])
        assert reader.texts[str(stream.message.uuid)] == "Once upon a time"
        assert reader.snapshots == 1
        assert "no-store" in response.headers["Cache-Control"]

    async def test_a_cursor_of_another_epoch_gets_a_snapshot(self):
        await self.async_client.aforce_login(self.user)
        response = await self.async_client.get(self.url, {"after": 1, "epoch": "other"})
        assert response.json()["event"] == "Snapshot"

    async def test_a_foreign_and_a_missing_conversation_look_the_same(self):
        stranger = await get_user_model().objects.acreate_user("eve")
        foreign = await self.async_client.get(self.url)
        await self.async_client.aforce_login(stranger)
        refused = await self.async_client.get(self.url)
        missing = await self.async_client.get(reverse("converse:log", args=[uuid4()]))
        assert foreign.status_code == refused.status_code == missing.status_code == 404
        assert (
            foreign.json()
            == refused.json()
            == missing.json()
            == {"code": "not_found", "reason": "There is no such conversation."}
        )

    async def test_a_cursor_that_is_no_number_is_named(self):
        await self.async_client.aforce_login(self.user)
        for after in ("x", "-1", "", "١", "9" * 5000):
            response = await self.async_client.get(self.url, {"after": after})
            assert (response.status_code, response.json()["field"]) == (400, "after")
        assert (await self.async_client.post(self.url)).status_code == 405

    async def test_a_conversation_purged_between_the_check_and_the_reading_is_missing(self):
        await self.async_client.aforce_login(self.user)
        with self.settings(CONVERSE_AUTHORIZE="tests.test_views.purging_rule"):
            assert (await self.async_client.get(self.url)).status_code == 404


def purging_rule(user, action, conversation):
    """Purge the conversation in the moment between the permission and the reading."""
    conversation.purge()
    return True
