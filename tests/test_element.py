"""The chat element in a real browser: what one does with it, by mouse, by keyboard and on a phone."""

from __future__ import annotations

import re
import sqlite3
from base64 import b64decode
from contextlib import closing
from typing import ClassVar

from playwright.sync_api import Locator, Page, expect

from tests.browsers import WORDS, BrowserTestCase, reply, text

PIXEL = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
CONTRASTS = """
(root) => {
  const probe = root.querySelector(".foot").appendChild(document.createElement("i"));
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const luminance = (name) => {
    probe.className = name;
    canvas.fillStyle = getComputedStyle(root.host).getPropertyValue("color-scheme") && resolved(name);
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
    const linear = (value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  };
  const sheet = new CSSStyleSheet();
  root.adoptedStyleSheets.push(sheet);
  const resolved = (name) => {
    sheet.replaceSync(`.foot i { color: var(--${name}); }`);
    return getComputedStyle(probe).color;
  };
  const pairs = ["ink surface", "soft surface", "accent surface", "accent-ink accent",
    "ink mine", "soft raised", "ink code", "soft code",
    "good surface",
    "wait surface", "bad surface", "bad bad-soft", "ink note", "ink raised",
     "good raised", "wait raised", "bad raised"];
  return Object.fromEntries(pairs.map((pair) => {
    const [one, other] = pair.split(" ").map(luminance).sort((a, b) => b - a);
    return [pair, (one + 0.05) / (other + 0.05)];
  }));
}
"""


class ElementTestCase(BrowserTestCase):
    environment: ClassVar = {"ECHO_DELAY": "0.005"}

    def setUp(self) -> None:
        super().setUp()
        self.page = self.begin()

    def begin(self) -> Page:
        page = self.open(self.demo.url)
        page.locator("nav").get_by_role("button", name="New conversation").click()
        self.live(page)
        return page

    def say(self, words: str) -> None:
        count = self.page.locator(".message").count()
        self.ask(self.page, words)
        expect(self.page.locator(".message")).to_have_count(count + 2)
        self.ended(self.page)

    @property
    def box(self) -> Locator:
        return self.page.get_by_label("Your message", exact=True)


class UseTests(ElementTestCase):
    def test_markdown_is_shown_as_it_was_meant(self):
        self.say(
            "# Title\n\n1. **one**\n2. `two`\n\n| a | b |\n|---|--:|\n| c | d |\n\n```js\nlet x = 1 < 2;\n```\n\n[on](https://example.com/)"
        )
        prose = reply(self.page).locator(".prose")
        expect(prose.get_by_role("heading", level=3)).to_have_text("Title")
        expect(prose.locator("ol > li > strong")).to_have_text("one")
        expect(prose.get_by_role("cell", name="d")).to_have_class("right")
        expect(prose.locator("pre")).to_have_text("let x = 1 < 2;")
        link = prose.get_by_role("link", name="on")
        expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
        expect(link).to_have_attribute("href", "https://example.com/")

    def test_code_can_be_copied(self):
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.say("```\na  b\n\n  c\n```")
        self.page.get_by_role("button", name="Copy the code").click()
        expect(self.page.get_by_role("button", name="Copied")).to_be_visible()
        assert self.page.evaluate("navigator.clipboard.readText()") == "a  b\n\n  c"

    def test_a_turn_can_be_edited_and_both_versions_are_kept(self):
        self.say("one")
        turn = self.page.locator(".message.user")
        turn.hover()
        turn.get_by_role("button", name="Edit").click()
        expect(self.page.get_by_label("Edit your message")).to_be_focused()
        self.page.get_by_label("Edit your message").fill("two")
        self.page.keyboard.press("Enter")
        expect(reply(self.page).locator(".text")).to_have_text("two")
        self.ended(self.page)
        expect(turn).to_contain_text("2 of 2")
        turn.get_by_role("button", name="Earlier version").click()
        expect(reply(self.page).locator(".text")).to_have_text("one")
        expect(turn).to_contain_text("1 of 2")
        expect(turn.get_by_role("button", name="Later version")).to_be_focused()  # the one that had it cannot be used

    def test_an_edit_can_be_thought_better_of(self):
        self.say("one")
        turn = self.page.locator(".message.user")
        turn.hover()
        turn.get_by_role("button", name="Edit").click()
        self.page.get_by_label("Edit your message").fill("two")
        self.page.keyboard.press("Escape")
        expect(turn.get_by_role("button", name="Edit")).to_be_focused()
        expect(turn.locator(".text")).to_have_text("one")

    def test_files_are_attached_shown_and_kept(self):
        files = [
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"some notes"},
            {"name": "dot.png", "mimeType": "image/png", "buffer": PIXEL},
            {"name": "other.txt", "mimeType": "text/plain", "buffer": b"other"},
        ]
        self.page.locator("input[type=file]").set_input_files(files)
        uploads = self.page.get_by_role("list", name="Attached files")
        expect(uploads.get_by_role("listitem")).to_have_count(3)
        with self.page.expect_response(lambda answer: answer.request.method == "DELETE") as removed:
            self.page.get_by_role("button", name="Remove other.txt").click()
        assert removed.value.status == 204
        expect(uploads.get_by_role("listitem")).to_have_count(2)
        self.say("Look")
        turn = self.page.locator(".message.user")
        expect(turn.get_by_role("img", name="dot.png")).to_be_visible()
        expect(uploads).to_be_hidden()
        self.page.reload()
        with self.page.expect_download() as download:
            turn.get_by_role("link", name="notes.txt").click()
        assert download.value.path().read_bytes() == b"some notes"

    def test_files_can_be_pasted_and_dropped(self):
        self.page.evaluate("""() => {
            const transfer = (name) => {
              const data = new DataTransfer();
              data.items.add(new File(["x"], name, { type: "text/plain" }));
              return data;
            };
            const chat = document.querySelector("converse-chat");
            const box = chat.shadowRoot.querySelector(".box textarea");
            box.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer("pasted.txt"), bubbles: true }));
            chat.dispatchEvent(new DragEvent("dragover", { dataTransfer: transfer("dropped.txt"), cancelable: true }));
            chat.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer("dropped.txt"), cancelable: true }));
        }""")
        uploads = self.page.get_by_role("list", name="Attached files")
        expect(uploads).to_contain_text("pasted.txt")
        expect(uploads).to_contain_text("dropped.txt")
        expect(self.page.locator("converse-chat[data-drop]")).to_have_count(0)
        self.box.press("Enter")  # sends as soon as both are there, with no words
        expect(self.page.locator(".message.user .file")).to_have_count(2)

    def test_a_file_that_may_not_be_attached_is_refused_in_words(self):
        bad = {"name": "run.exe", "mimeType": "application/x-msdownload", "buffer": b"MZ\x00"}
        self.page.locator("input[type=file]").set_input_files(bad)
        expect(self.page.get_by_role("alert")).to_contain_text("run.exe was not attached: ")
        expect(self.page.get_by_role("list", name="Attached files")).to_be_hidden()
        assert all("415" in complaint for complaint in self.complaints)
        self.complaints.clear()

    def test_all_parts_of_a_page_share_one_socket_and_may_be_moved(self):
        self.say("Hello")
        self.page.evaluate("""() => {
            const chat = document.querySelector("converse-chat");
            const other = chat.cloneNode();
            chat.after(other);
            chat.parentNode.append(chat);
        }""")
        expect(self.page.locator(".message.assistant")).to_have_count(2)
        expect(self.page.locator(".message.assistant .text")).to_have_text(["Hello", "Hello"])
        self.page.evaluate("document.querySelector('converse-chat').remove()")
        self.say("Again")
        assert self.page.evaluate("window.sockets.length") == 1

    def test_another_conversation_is_shown_when_the_attribute_says_so(self):
        self.say("first")
        first = self.page.locator("converse-chat").get_attribute("conversation")
        other = self.begin()
        self.ask(other, "second")
        self.ended(other)
        other.evaluate("uuid => (document.querySelector('converse-chat').uuid = uuid)", first)
        expect(reply(other).locator(".text")).to_have_text("first")
        expect(other.locator(".message")).to_have_count(2)

    def test_who_may_only_read_has_no_buttons_but_to_copy(self):
        self.say("Hello")
        self.page.evaluate("document.querySelector('converse-chat').setAttribute('readonly', '')")
        expect(reply(self.page).get_by_role("button")).to_have_count(1)
        expect(self.box).to_be_hidden()

    def test_who_loses_the_right_to_write_has_nothing_to_write_with_and_gets_it_back(self):
        self.say("Hello")
        uuid = self.page.locator("converse-chat").get_attribute("conversation").replace("-", "")
        for owner, means in (("nobody", 1), ("1", 2)):
            with closing(sqlite3.connect(self.demo.folder / "db.sqlite3")) as database, database:
                database.execute("UPDATE converse_conversation SET owner_id = ? WHERE uuid = ?", [owner, uuid])
                database.execute(
                    "INSERT OR IGNORE INTO converse_conversationparticipant "
                    "(conversation_id, user_id, role, created_at) "
                    "SELECT id, 1, 'read', CURRENT_TIMESTAMP FROM converse_conversation WHERE uuid = ?",
                    [uuid],
                )
            self.page.evaluate("window.sockets.at(-1).close()")
            expect(reply(self.page).get_by_role("button")).to_have_count(means)
            expect(self.box).to_be_visible(visible=means > 1)
            assert text(self.page) == "Hello"

    def test_its_words_can_be_others(self):
        labels = "JSON.stringify({ placeholder: 'Nachricht' })"
        self.page.evaluate(f"document.querySelector('converse-chat').setAttribute('labels', {labels})")
        expect(self.page.get_by_placeholder("Nachricht")).to_be_visible()

    def test_text_can_come_at_an_even_pace(self):
        self.page.evaluate("document.querySelector('converse-chat').setAttribute('smooth', '')")
        self.ask(self.page, WORDS)
        self.ended(self.page)
        assert text(self.page) == WORDS
        with self.page.expect_navigation():
            self.page.reload()
        self.ended(self.page)
        assert text(self.page) == WORDS

    def test_the_page_says_how_things_are_shown(self):
        chat = self.page.locator("converse-chat")
        chat.evaluate("""chat => {
            const sheet = new CSSStyleSheet();
            sheet.replaceSync(`
              converse-chat { --converse-accent: rgb(1, 2, 3) }
              converse-chat::part(input) { letter-spacing: 4px }
            `);
            document.adoptedStyleSheets.push(sheet);
        }""")
        expect(self.page.get_by_role("button", name="Send")).to_have_css("background-color", "rgb(1, 2, 3)")
        expect(self.box).to_have_css("letter-spacing", "4px")
        chat.evaluate("chat => chat.setAttribute('theme', 'dark')")
        expect(chat).to_have_css("background-color", "rgb(20, 27, 34)")

    def test_the_reader_stays_where_they_are(self):
        self.say("\n\n".join(["A paragraph"] * 60))
        messages = self.page.locator(".messages")
        messages.evaluate("node => (node.scrollTop = 100)")
        latest = self.page.get_by_role("button", name="Go to the latest message")
        expect(latest).to_be_visible()
        self.page.evaluate("document.querySelector('converse-chat').subscription.send('More')")
        self.ended(self.page)
        expect(self.page.locator(".message")).to_have_count(4)
        assert messages.evaluate("node => node.scrollTop") == 100
        latest.click()
        expect(latest).to_be_hidden()
        assert messages.evaluate("node => node.scrollHeight - node.scrollTop - node.clientHeight") < 2


class AccessTests(ElementTestCase):
    def test_it_can_be_used_by_keyboard_alone(self):
        expect(self.box).to_be_focused()
        self.page.keyboard.type("word ")
        self.page.keyboard.insert_text(WORDS * 9)
        self.page.keyboard.press("Enter")
        self.begun(self.page)
        self.page.keyboard.press("Escape")
        self.ended(self.page, "cancelled")
        for label in ("Attach files", "Answer again"):
            self.page.keyboard.press("Shift+Tab")
            expect(self.page.locator("converse-chat :focus")).to_have_attribute("aria-label", label)
        self.page.keyboard.press("Enter")
        expect(reply(self.page)).to_contain_text("2 of 2")
        self.ended(self.page)
        expect(self.box).to_be_focused()  # the button went with its version
        self.page.keyboard.type("And then?")
        self.page.keyboard.press("Enter")
        expect(self.page.locator(".message")).to_have_count(4)

    def test_a_screen_reader_finds_roles_and_names(self):
        self.say("Hello")
        expect(self.page.locator("converse-chat")).to_match_aria_snapshot("""
          - log "Messages":
            - article "You":
              - text: Hello
              - button "Copy"
              - button "Edit"
            - article "Reply":
              - paragraph: Hello
              - button "Copy"
              - button "Answer again"
          - paragraph: Hello
          - button "Attach files"
          - textbox "Your message"
          - button "Send"
          - paragraph:
            - status: Live
        """)

    def test_a_reply_is_announced_once_and_when_it_is_finished(self):
        self.page.evaluate("""() => {
            window.said = [];
            const region = document.querySelector("converse-chat").shadowRoot.querySelector("[aria-live=polite]");
            const listen = () => window.said.push(region.textContent);
            new MutationObserver(listen).observe(region, { childList: true, characterData: true });
        }""")
        self.say("Hello **there** [all](https://example.com)")
        self.page.wait_for_function("window.said.length")
        assert [said.strip() for said in self.page.evaluate("window.said")] == ["Hello there all"]

    def test_what_is_read_from_right_to_left_is_shown_so(self):
        self.say("مرحبا\n\nHello")
        paragraphs = reply(self.page).locator(".prose p")
        expect(paragraphs.first).to_have_css("direction", "rtl")
        expect(paragraphs.last).to_have_css("direction", "ltr")
        mine = self.page.locator(".message.user .text")
        left = mine.bounding_box()["x"]
        self.page.evaluate("document.documentElement.dir = 'rtl'")
        assert mine.bounding_box()["x"] < left
        expect(mine).to_have_css("text-align", "start")

    def test_both_themes_can_be_read(self):
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            ratios = self.page.evaluate(f"({CONTRASTS})(document.querySelector('converse-chat').shadowRoot)")
            assert len(ratios) == 17
            assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}, scheme

    def test_nothing_moves_for_who_does_not_want_it(self):
        self.page.emulate_media(reduced_motion="reduce")
        self.ask(self.page, WORDS)
        self.begun(self.page, 2)
        moving = "document.querySelector('converse-chat').shadowRoot.getAnimations().length"
        assert self.page.evaluate(moving) == 0
        self.ended(self.page)

    def test_it_fits_a_phone(self):
        self.page.set_viewport_size({"width": 360, "height": 640})
        code = "x" * 200
        table = f"| a | b |\n|---|---|\n| {'c' * 90} | {'d' * 90} |"
        self.say(f"{table}\n\n```\n{code}\n```\n\n# {'e' * 90}\n\n`{'f' * 90}`\n\nhttps://{'g' * 90}.org")
        assert self.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert self.page.locator(".messages").evaluate("node => node.scrollWidth - node.clientWidth") == 0
        expect(self.box).to_be_in_viewport()

    def test_the_policy_allows_nothing_inline_and_no_html_made_of_text(self):
        policy = self.page.request.get(self.page.url).headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy  # what breaks it would be in the console: see open()
        assert re.search('<(script|style)(?! type="module" src=)', self.page.content()) is None
