"""Pages of a running demo in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import ClassVar

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


class BrowserTestCase(SimpleTestCase):
    environment: ClassVar = {"ECHO_DELAY": "0.05"}
    demo: Demo
    browser: Browser

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.demo = cls.enterClassContext(Demo("--provider", "echo", **cls.environment))
        cls.browser = cls.enterClassContext(chromium()).context.browser
        expect.set_options(timeout=PATIENCE * 1000)

    def setUp(self) -> None:
        self.complaints: list[str] = []
        self.context = self.browser.new_context()
        self.context.set_default_timeout(PATIENCE * 1000)

    def tearDown(self) -> None:
        self.context.close()
        assert self.complaints == [], self.complaints

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
        expect(page.locator(".connection")).to_have_text("Live")

    def ask(self, page: Page, question: str) -> None:
        page.get_by_label("Your message").fill(question)
        page.get_by_label("Your message").press("Enter")

    def begun(self, page: Page, words: int = 5) -> None:
        wait(page, lambda: len(text(page).split()) >= words, "The reply did not begin.")

    def ended(self, page: Page, status: str = "completed") -> None:
        expect(reply(page)).to_have_attribute("data-status", status)
