"""The example's page in a real browser, before a real demo."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import pairwise
from time import monotonic
from unittest import skipUnless
from uuid import uuid4

from django.test import SimpleTestCase
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

from tests.demos import PATIENCE, Demo
from tests.services import chromium

WORDS = " ".join(f"word{number}" for number in range(60))
# Lets a test cut the page's sockets.
SOCKETS = """
window.sockets = [];
window.WebSocket = class extends WebSocket {
  constructor(...given) { super(...given); window.sockets.push(this); }
};
"""


def reply(page: Page) -> Locator:
    return page.locator(".message.assistant").last


def text(page: Page) -> str:
    return reply(page).locator(".text").text_content() or ""


def wait(page: Page, condition: Callable[[], bool], what: str) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline, what
        page.wait_for_timeout(20)


class PageTests(SimpleTestCase):
    demo: Demo
    browser: Browser

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.demo = cls.enterClassContext(Demo("--provider", "echo", ECHO_DELAY="0.05"))
        cls.browser = cls.enterClassContext(chromium()).context.browser
        expect.set_options(timeout=PATIENCE * 1000)

    def setUp(self) -> None:
        self.complaints: list[str] = []
        self.context = self.browser.new_context()
        self.context.set_default_timeout(PATIENCE * 1000)
        self.page = self.open(self.demo.url)
        self.page.locator("nav").get_by_role("button", name="New conversation").click()
        self.live(self.page)

    def tearDown(self) -> None:
        self.context.close()
        assert self.complaints == []

    def open(self, url: str) -> Page:
        """Open another tab; what its console complains of fails the test, such as a breach of the security policy."""
        page = self.context.new_page()
        page.add_init_script(SOCKETS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self.listen)
        page.goto(url)
        return page

    def listen(self, line: ConsoleMessage) -> None:
        if line.type == "error" and not line.location["url"].endswith("/favicon.ico"):  # the admin has none
            self.complaints.append(line.text)

    def live(self, page: Page) -> None:
        expect(page.locator("#connection")).to_have_text("Live")

    def ask(self, page: Page, question: str) -> None:
        page.get_by_label("Your message").fill(question)
        page.get_by_label("Your message").press("Enter")

    def begun(self, page: Page, words: int = 5) -> None:
        wait(page, lambda: len(text(page).split()) >= words, "The reply did not begin.")

    def ended(self, page: Page, status: str = "completed") -> None:
        expect(reply(page)).to_have_attribute("data-status", status)

    def test_tokens_arrive_one_after_another(self):
        self.ask(self.page, WORDS)
        seen = [""]

        def look() -> bool:
            if (now := text(self.page) if reply(self.page).count() else "") != seen[-1]:
                seen.append(now)
            return now == WORDS

        wait(self.page, look, "The reply did not end.")
        assert len(seen) > 10
        for earlier, later in pairwise(seen):
            assert later.startswith(earlier)
        self.ended(self.page)
        expect(reply(self.page).locator("footer")).to_have_text(re.compile("echo *60 tokens"))

    def test_a_conversation_is_called_by_its_first_question(self):
        question = f"What is {uuid4()}?"
        self.ask(self.page, question)
        expect(self.page.get_by_role("heading", level=1)).to_have_text(question)
        expect(self.page.locator("nav [aria-current]")).to_have_text(question)
        expect(self.page).to_have_title(f"{question} · Converse")

    def test_a_reload_in_the_middle_shows_the_same_text_going_on(self):
        self.ask(self.page, WORDS)
        self.begun(self.page)
        before = text(self.page)
        self.page.reload()
        self.begun(self.page, 1)
        after = text(self.page)
        assert after.startswith(before)
        assert after != WORDS
        self.ended(self.page)
        assert text(self.page) == WORDS

    def test_two_tabs_are_in_step(self):
        other = self.open(self.page.url)
        self.live(other)
        self.ask(self.page, WORDS)
        self.begun(other)
        mine, theirs = sorted([text(self.page), text(other)], key=len)
        assert theirs.startswith(mine)
        assert theirs != WORDS
        self.ended(other)
        assert text(other) == text(self.page) == WORDS

    def test_typing_shows_in_another_tab(self):
        other = self.open(self.page.url)
        self.live(other)
        self.page.get_by_label("Your message").press_sequentially("Hm")
        expect(other.locator("#hint")).to_have_text("demo is typing in another window …")
        expect(other.locator("#hint")).to_have_text(re.compile("^Enter sends"))

    def test_a_stopped_reply_stays_stopped_everywhere(self):
        other = self.open(self.page.url)
        self.live(other)
        self.ask(self.page, WORDS)
        self.begun(other)
        other.get_by_role("button", name="Stop the reply").click()
        for page in (self.page, other):
            self.ended(page, "cancelled")
            expect(reply(page).locator("footer")).to_contain_text("Stopped")
        stopped = text(self.page)
        assert WORDS.startswith(stopped)
        assert stopped != WORDS
        self.page.wait_for_timeout(1_000)
        assert text(self.page) == text(other) == stopped
        self.page.reload()
        self.ended(self.page, "cancelled")
        assert text(self.page) == stopped
        self.ask(self.page, "Go on")  # and one can go on
        self.ended(self.page)
        assert text(self.page) == "Go on"

    def test_escape_stops(self):
        self.ask(self.page, WORDS)
        self.begun(self.page)
        self.page.keyboard.press("Escape")
        self.ended(self.page, "cancelled")

    def test_shift_and_enter_begins_a_new_line(self):
        box = self.page.get_by_label("Your message")
        box.fill("one")
        box.press("Shift+Enter")
        box.press_sequentially("two")
        box.press("Enter")
        self.ended(self.page)
        assert text(self.page) == "one\ntwo"
        assert box.input_value() == ""

    def test_text_is_text(self):
        markup = "<img src=x onerror=\"document.title='owned'\"> <b>bold</b> &amp;"
        self.ask(self.page, markup)
        self.ended(self.page)
        assert text(self.page) == markup
        assert self.page.locator(".message img, .message b").count() == 0
        assert self.page.title() != "owned"

    def test_a_cut_connection_costs_nothing(self):
        self.ask(self.page, WORDS)
        self.begun(self.page)
        for _ in range(3):
            self.page.evaluate("window.sockets.at(-1).close()")
            expect(self.page.locator("#connection")).not_to_have_text("Live")
            self.live(self.page)
        self.ended(self.page)
        assert text(self.page) == WORDS
        assert self.page.locator(".message").count() == 2
        assert self.page.evaluate("window.sockets.length") == 4

    def test_who_is_no_longer_signed_in_is_told(self):
        self.context.clear_cookies()
        self.page.evaluate("window.sockets.at(-1).close()")
        expect(self.page.locator("#connection")).to_have_text("Signed out")
        expect(self.page.get_by_role("alert")).to_have_text("You are signed out. Reload the page to sign in again.")
        self.page.reload()
        self.live(self.page)

    def test_what_is_said_while_the_server_is_away_is_said_once_when_it_is_back(self):
        self.demo.stop()
        self.addCleanup(self.complaints.clear)  # the browser tells of each attempt to connect
        expect(self.page.locator("#connection")).to_have_text("Offline, trying again")
        self.ask(self.page, "Are you there?")
        expect(self.page.locator(".unsent")).to_have_count(1)
        self.demo.start()
        self.live(self.page)
        self.ended(self.page)
        assert self.page.locator(".message").all_text_contents()[0].endswith("Are you there?")
        assert self.page.locator(".message").count() == 2
        self.complaints.clear()

    def test_a_deleted_conversation_says_so_in_another_tab(self):
        other = self.open(self.page.url)
        self.live(other)
        self.page.get_by_role("button", name="Delete this conversation").click()
        self.page.get_by_role("button", name="Delete", exact=True).click()
        expect(self.page).to_have_url(self.demo.url)
        expect(other.get_by_role("alert")).to_have_text("This conversation was deleted, or is no longer yours.")
        expect(other.get_by_label("Your message")).to_be_disabled()

    def test_it_fits_a_phone(self):
        self.page.set_viewport_size({"width": 360, "height": 640})
        self.ask(self.page, "a-very-long-word" * 40)
        self.ended(self.page)
        assert self.page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(self.page.locator("nav")).to_be_hidden()
        self.page.get_by_role("button", name="Conversations").click()
        expect(self.page.locator("nav")).to_be_visible()
        self.page.keyboard.press("Escape")
        expect(self.page.locator("nav")).to_be_hidden()

    def test_the_transcript_is_one_click_away(self):
        self.ask(self.page, f"Find {uuid4()}")
        self.ended(self.page)
        said = text(self.page)
        self.page.get_by_role("link", name="Transcript in the admin").click()
        expect(self.page.locator("body")).to_contain_text(said)


@skipUnless(os.environ.get("CONVERSE_TEST_LOCAL_MODEL") == "1", "CONVERSE_TEST_LOCAL_MODEL is not set")
class LocalModelTests(SimpleTestCase):
    def test_a_local_model_answers_and_can_be_stopped(self):
        folder = os.environ.get("CONVERSE_TEST_LOCAL_MODEL_DIR")  # spares fetching the model again
        with Demo("--provider", "local", folder=folder) as demo, chromium() as page:
            assert demo.says("Answering") == "SmolLM2-135M-Instruct"
            expect.set_options(timeout=PATIENCE * 1000)
            page.goto(demo.url)
            page.get_by_role("button", name="Why is the sky blue?").click()
            expect(reply(page)).to_have_attribute("data-status", "completed")
            assert "sky" in text(page)
            expect(reply(page).locator("footer")).to_have_text(re.compile(r"SmolLM2-135M-Instruct *\d+ tokens"))
            page.get_by_label("Your message").fill("Write a very long story about a ship. Go on and on.")
            page.get_by_label("Your message").press("Enter")
            expect(page.locator(".message")).to_have_count(4)
            wait(page, lambda: len(text(page)) > 100, "The story did not begin.")
            page.keyboard.press("Escape")
            expect(reply(page)).to_have_attribute("data-status", "cancelled")
            stopped = text(page)
            page.reload()
            expect(reply(page)).to_have_attribute("data-status", "cancelled")
            assert text(page) == stopped
