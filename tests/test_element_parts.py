"""What a message can be made of, and how it can end, as the element shows it."""

from __future__ import annotations

from typing import Any, ClassVar

from playwright.sync_api import Locator, expect

from tests.browsers import BrowserTestCase, wait

# Plays a server: what a provider seldom does is said to the client as if it had come over its socket.
PLAY = """
({ event, ...fields }) => {
  const { subscription } = document.querySelector("converse-chat");
  const offset = subscription.offset + 1;
  subscription.receive({ event, data: { conversationId: subscription.uuid, offset, attempt: 1, ...fields } }, 0);
}
"""
MESSAGE = {"messageId": "reply", "role": "assistant", "sequence": 0, "replyTo": "turn"}


class PartsTests(BrowserTestCase):
    environment: ClassVar = {"ECHO_DELAY": "0.005"}

    def setUp(self) -> None:
        super().setUp()
        self.page = self.open(self.demo.url)
        self.page.locator("nav").get_by_role("button", name="New conversation").click()
        self.live(self.page)
        known = "document.querySelector('converse-chat').subscription.offset !== null"
        wait(self.page, lambda: self.page.evaluate(known), "The snapshot did not come.")
        self.sequence = 0

    @property
    def reply(self) -> Locator:
        return self.page.locator(".message.assistant")

    def play(self, event: str, **fields: Any) -> None:
        self.page.evaluate(PLAY, {"event": event, **MESSAGE, "follows": 0, **fields})

    def begin(self) -> None:
        self.play("MessageCreated", status="streaming", content="")

    def add(self, kind: str, part: int, chunk: str = "", **fields: Any) -> None:
        self.sequence += 1
        self.play("StreamUpdate", kind=kind, part=part, chunk=chunk, sequence=self.sequence, **fields)

    def test_thoughts_are_folded_and_said_to_be_under_way(self):
        self.begin()
        self.add("reasoning", 0, "First I look")
        thoughts = self.reply.get_by_role("group")
        expect(thoughts).to_contain_text("Thinking")
        expect(self.reply.locator(".thoughts")).to_be_hidden()
        self.add("reasoning", 0, " around.")
        self.add("text", 1, "Done.")
        expect(thoughts.locator("summary")).to_have_text("Thoughts")
        thoughts.locator("summary").click()
        expect(self.reply.locator(".thoughts")).to_have_text("First I look around.")

    def test_what_failed_says_why_and_can_be_tried_again(self):
        self.begin()
        self.add("text", 0, "Half of")
        self.play("MessageFailed", status="failed", error={"type": "overloaded", "message": "<b>Too busy</b>"})
        expect(self.reply).to_contain_text("Half of")
        expect(self.reply.locator("footer")).to_contain_text("Failed")
        expect(self.reply.locator("footer .error")).to_have_text("<b>Too busy</b>")
        expect(self.reply.get_by_role("button", name="Try again")).to_be_visible()

    def test_a_new_attempt_starts_from_nothing(self):
        self.begin()
        self.add("reasoning", 0, "Hm")
        self.add("text", 1, "Half of")
        self.add("text", 0, "All of it", attempt=2)
        expect(self.reply).to_have_count(1)
        expect(self.reply.locator(".parts")).to_have_text("All of it")

    def test_sources_lead_to_the_web_only(self):
        self.begin()
        self.add("source", 0, "It is so.", data={"url": "https://example.com/", "title": "Example"})
        self.add("source", 1, data={"url": "javascript:window.hacked=1", "title": "Evil"})
        expect(self.reply.get_by_role("link")).to_have_count(1)
        expect(self.reply.get_by_role("link", name="Example")).to_have_attribute("href", "https://example.com/")
        expect(self.reply).to_contain_text("Evil")

    def test_a_refusal_is_shown_and_a_block_for_the_provider_is_not(self):
        self.begin()
        self.add("raw", 0)
        self.add("refusal", 1, "I would rather not.")
        self.play("MessageCompleted", status="completed", finishReason="length")
        expect(self.reply.locator(".refusal")).to_have_text("I would rather not.")
        expect(self.reply.locator("footer")).to_contain_text("Cut off at its greatest length")

    def test_a_call_that_failed_shows_its_error(self):
        self.begin()
        self.add("tool_call", 0, '{"city": ', toolCallId="c1", toolName="weather")
        card = self.page.get_by_role("region", name="Call of weather")
        expect(card).to_contain_text("Being written")
        self.add("tool_call", 0, '"Ulm", "days": [1, 2], "deep": {"x": true}}')
        expect(card.locator("dl").first).to_contain_text("cityUlm")
        expect(card).to_contain_text("Yes")
        self.add("tool_result", 1, "No such <i>city</i>", toolCallId="c1", toolName="weather", data={"isError": True})
        expect(card).to_have_attribute("data-state", "failed")
        expect(card.get_by_text("No such <i>city</i>")).to_be_visible()

    def test_an_answer_in_a_form_is_shown_as_a_list(self):
        self.begin()
        self.add("text", 0, '{"city": "Ulm", "sunny": ')
        expect(self.reply.locator(".form")).to_be_visible()
        self.add("text", 0, 'true, "hours": ["9:00", "10:00"], "wind": null}')
        value = {"city": "Ulm", "sunny": True, "hours": ["9:00", "10:00"], "wind": None}
        self.play("MessageCompleted", status="completed", structured=value)
        expect(self.reply.locator(".form")).to_be_hidden()
        answer = self.page.get_by_role("region", name="Answer")
        expect(answer.locator("dt")).to_have_text(["city", "sunny", "hours"])
        expect(answer.locator("dd")).to_have_text(["Ulm", "Yes", "9:0010:00"])

    def test_what_only_looked_like_a_form_is_prose(self):
        self.begin()
        self.add("text", 0, "{")
        expect(self.reply.locator(".form")).to_be_visible()
        self.add("text", 0, "% load %} is **Django**")
        expect(self.reply.locator("strong")).to_have_text("Django")
        expect(self.reply.locator(".text")).to_have_text("{% load %} is Django")

    def test_a_deleted_message_goes(self):
        self.begin()
        expect(self.reply).to_have_count(1)
        self.play(
            "MessageDeleted", place=self.page.evaluate("document.querySelector('converse-chat').subscription.offset")
        )
        expect(self.reply).to_have_count(0)
        expect(self.page.get_by_text("Ask echo anything.")).to_be_visible()
