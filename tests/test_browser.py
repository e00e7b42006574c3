"""The example's page in a real browser, before a real demo."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from contextlib import closing
from itertools import pairwise
from typing import ClassVar
from unittest import skipUnless
from uuid import uuid4

from django.test import SimpleTestCase
from playwright.sync_api import Locator, Page, expect

from tests.browsers import WORDS, BrowserTestCase, reply, text, wait
from tests.demos import PATIENCE, Demo
from tests.services import chromium


class PageTests(BrowserTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.page = self.open(self.demo.url)
        self.page.locator("nav").get_by_role("button", name="New conversation").click()
        self.live(self.page)

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
        expect(other.locator(".hint")).to_have_text("demo is typing …")
        expect(other.locator(".hint")).to_have_text(re.compile("^Enter sends"))

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
        assert text(self.page) == markup.replace("&amp;", "&")  # an entity is Markdown; a tag is not
        assert self.page.locator(".message img, .message b").count() == 0
        assert self.page.title() != "owned"

    def test_a_cut_connection_costs_nothing(self):
        self.ask(self.page, WORDS)
        self.begun(self.page)
        for _ in range(3):
            self.page.evaluate("window.sockets.at(-1).close()")
            expect(self.page.locator(".connection")).not_to_have_text("Live")
            self.live(self.page)
        self.ended(self.page)
        assert text(self.page) == WORDS
        assert self.page.locator(".message").count() == 2
        assert self.page.evaluate("window.sockets.length") == 4

    def test_who_is_no_longer_signed_in_is_told(self):
        self.context.clear_cookies()
        self.page.evaluate("window.sockets.at(-1).close()")
        expect(self.page.locator(".connection")).to_have_text("Signed out")
        expect(self.page.get_by_role("alert")).to_have_text("You are signed out. Reload the page to sign in again.")
        self.page.reload()
        self.live(self.page)

    def test_what_is_said_while_the_server_is_away_is_said_once_when_it_is_back(self):
        self.demo.stop()
        self.addCleanup(self.complaints.clear)  # the browser tells of each attempt to connect
        expect(self.page.locator(".connection")).to_have_text("Offline, trying again")
        self.ask(self.page, "Are you there?")
        expect(self.page.locator(".unsent")).to_have_count(1)
        self.demo.start()
        self.live(self.page)
        self.ended(self.page)
        assert self.page.locator(".message").all_text_contents()[0].endswith("Are you there?")
        assert self.page.locator(".message").count() == 2
        self.complaints.clear()

    def test_a_reply_has_versions_and_none_is_lost(self):
        other = self.open(self.page.url)
        self.live(other)
        self.ask(self.page, "Say this again")
        self.ended(self.page)
        first = reply(self.page).get_attribute("data-message")
        reply(self.page).get_by_role("button", name="Answer again").click()
        for page in (self.page, other):
            expect(reply(page).locator("footer")).to_contain_text("2 of 2")
            expect(page.locator(".message")).to_have_count(2)
            assert reply(page).get_attribute("data-message") != first
        self.ended(self.page)
        expect(reply(self.page).get_by_role("button", name="Later version")).to_be_disabled()
        reply(self.page).get_by_role("button", name="Earlier version").click()
        for page in (self.page, other):
            expect(reply(page)).to_have_attribute("data-message", first)
            expect(reply(page).locator("footer")).to_contain_text("1 of 2")
        self.ask(other, "And now?")
        expect(self.page.locator(".message")).to_have_count(4)
        self.page.reload()
        expect(self.page.locator(".message")).to_have_count(4)
        expect(self.page.locator(".message.assistant").first).to_have_attribute("data-message", first)

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

    def test_other_clients_show_the_same_beside_it(self):
        self.ask(self.page, "Before")
        self.ended(self.page)
        for client in ("Echo", "EventSource", "useChat"):
            self.page.get_by_role("link", name=client).click()
            log = self.page.locator("#log article")
            expect(log.first.locator("pre")).to_have_text("Before")
            self.live(self.page)
            self.ask(self.page, WORDS)
            self.begun(self.page)
            self.page.reload()
            self.ended(self.page)
            assert text(self.page) == WORDS
            expect(log.last).to_have_attribute("data-status", "completed")
            expect(log.last.locator("pre")).to_have_text(WORDS)
            self.page.get_by_role("link", name="Back").click()
            self.live(self.page)

    def test_the_transcript_is_one_click_away(self):
        self.ask(self.page, f"Find {uuid4()}")
        self.ended(self.page)
        said = text(self.page)
        self.page.get_by_role("link", name="Transcript in the admin").click()
        expect(self.page.locator("body")).to_contain_text(said)


def call(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=f"Call of {name}")


class AgentTests(BrowserTestCase):
    environment: ClassVar = {"PLANNER_DELAY": "0.01", "TOOL_DELAY": "1.5"}

    def begin(self, wish: str) -> Page:
        """Give the agent a task; give the page when a person is asked."""
        page = self.open(f"{self.demo.url}agent/")
        page.get_by_label("Your question").fill(wish)
        page.get_by_label("Your question").press("Enter")
        return page

    def waits(self, page: Page) -> None:
        expect(call(page, "book_room")).to_have_attribute("data-state", "waiting")
        expect(reply(page)).to_have_attribute("data-status", "waiting")

    def bookings(self, people: int) -> list[tuple[str, str, str]]:
        query = (
            "SELECT room.name, booking.start, booking.end FROM chat_booking AS booking "
            "JOIN chat_room AS room ON room.id = booking.room_id WHERE booking.people = ?"
        )
        with closing(sqlite3.connect(self.demo.folder / "db.sqlite3")) as database:
            return database.execute(query, [people]).fetchall()

    def test_it_waits_for_an_approval_while_the_server_is_killed_and_comes_to_its_end(self):
        page = self.begin("A room for 7 people on Friday, 14 to 16")
        expect(page.locator(".call[data-state=running]")).to_have_count(2)  # side by side
        self.waits(page)
        other = self.open(page.url)
        for tab in (page, other):
            self.waits(tab)
            for name in ("find_rooms", "price_catering"):
                expect(call(tab, name)).to_have_attribute("data-state", "done")
        expect(page.locator("[aria-live=polite]")).to_have_text("book_room: waits for your approval.")

        self.demo.stop(signal.SIGKILL)
        for tab in (page, other):
            expect(tab.locator(".connection")).to_have_text("Offline, trying again")
        self.demo.start()
        for tab in (page, other):
            self.live(tab)
            self.waits(tab)
        assert self.bookings(people=7) == []
        self.complaints.clear()  # the browser tells of each attempt to connect

        page.get_by_role("button", name="Approve").focus()
        page.keyboard.press("Enter")
        for tab in (page, other):
            self.ended(tab)
            expect(call(tab, "book_room")).to_have_attribute("data-state", "done")
            expect(tab.get_by_role("button", name="Approve")).to_have_count(0)
            outcome = reply(tab).locator("[part~=outcome]")
            expect(outcome.get_by_role("heading")).to_have_text("Booked")
            expect(outcome).to_contain_text("roomLibrary")
            expect(outcome).to_contain_text("total81")  # two hours, and coffee
        assert self.bookings(people=7) == [("Library", "14:00:00", "16:00:00")]
        expect(page.locator("[aria-live=polite]")).to_contain_text("With coffee for 21 euros.")
        before = reply(page).inner_text()
        page.reload()
        self.ended(page)
        assert reply(page).inner_text() == before

    def test_a_denied_call_is_not_made_and_the_reason_is_told_in_all_tabs(self):
        page = self.begin("A room for 5 people tomorrow, 9 to 10")
        self.waits(page)
        other = self.open(page.url)
        self.waits(other)
        why = page.get_by_label("Reason, if any")
        why.fill("Too <b>dear</b>")
        why.press("Enter")  # decides nothing
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Approve")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        for tab in (page, other):
            self.ended(tab)
            expect(call(tab, "book_room")).to_have_attribute("data-state", "denied")
            expect(call(tab, "book_room").locator(".decision")).to_have_text("Denied: Too <b>dear</b>")
            expect(reply(tab).locator("[part~=outcome]")).to_contain_text("Nothing booked")
            expect(reply(tab).locator("[part~=outcome]")).to_contain_text("Too <b>dear</b>")
        assert self.bookings(people=5) == []

    def test_it_can_be_decided_in_the_admin_too(self):
        page = self.begin("A room for 6 people on Monday, 9 to 10")
        self.waits(page)
        staff = self.open(page.url)
        staff.get_by_role("link", name="Transcript in the admin").click()
        staff.get_by_label("Reason").fill("As planned.")
        staff.get_by_role("button", name="Approve").click()
        expect(staff.locator(".messagelist")).to_contain_text("Approved call_")
        self.ended(page)
        expect(reply(page).locator("[part~=outcome]")).to_contain_text("Booked")
        expect(call(page, "book_room").locator(".decision")).to_have_text("Approved: As planned.")
        staff.reload()
        expect(staff.locator(".converse-decision")).to_contain_text("Approved by demo")

    def test_a_reply_that_waits_can_be_stopped_and_the_next_task_begins(self):
        page = self.begin("A room for 4 people on Tuesday, 9 to 10")
        self.waits(page)
        page.get_by_role("button", name="Stop the reply").click()
        self.ended(page, "cancelled")
        expect(call(page, "book_room")).to_have_attribute("data-state", "stopped")
        self.ask(page, "Then a room for 3 people on Tuesday, 9 to 10")
        expect(page.locator(".message")).to_have_count(4)
        expect(reply(page)).to_have_attribute("data-status", "waiting")
        assert self.bookings(people=4) == []

    def test_ctrl_c_leaves_a_reply_that_waits_as_it_is(self):
        page = self.begin("A room for 2 people on Tuesday, 9 to 10")
        self.waits(page)
        self.demo.stop()
        self.demo.start()
        self.live(page)
        self.waits(page)
        self.complaints.clear()

    def test_what_the_script_does_not_know_it_says(self):
        page = self.begin("Why is the sky blue?")
        self.ended(page)
        expect(reply(page).locator("[part~=outcome]")).to_contain_text("I only follow a script.")

    def test_it_fits_a_phone(self):
        page = self.begin(f"A room for 1 people on Tuesday, 9 to 10 {'a-very-long-word' * 20}")
        page.set_viewport_size({"width": 360, "height": 640})
        self.waits(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(page.get_by_role("button", name="Deny")).to_be_in_viewport()


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
