from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import subprocess
from contextlib import closing
from http.cookiejar import CookieJar
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest
from django.test import SimpleTestCase
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.demos import PATIENCE, Demo, command, environment

OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/nowhere", "PIP_CONFIG_FILE": "/dev/null", "UV_OFFLINE": "1"}


def visitor() -> tuple[OpenerDirector, CookieJar]:
    jar = CookieJar()
    return build_opener(HTTPCookieProcessor(jar)), jar


def get(browser: OpenerDirector, url: str) -> str:
    with browser.open(url, timeout=PATIENCE) as response:
        return response.read().decode()


def post(browser: OpenerDirector, url: str, page: str, **fields: str) -> tuple[str, str]:
    """Send a form of a page; give the address and the page that it led to."""
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)', page)
    form = urlencode({"csrfmiddlewaretoken": token[1] if token else "", **fields}).encode()
    with browser.open(url, form, timeout=PATIENCE) as response:
        return response.url, response.read().decode()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as folder:
        return subprocess.run(
            command(*arguments),
            env=environment(folder, **variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )


class DemoTests(SimpleTestCase):
    demo: Demo

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.demo = cls.enterClassContext(Demo("--provider", "echo", ECHO_DELAY="0.01"))

    def test_whoever_opens_the_page_is_signed_in(self):
        browser, jar = visitor()
        with browser.open(self.demo.url) as response:
            page = response.read().decode()
            assert response.url == self.demo.url
            assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert "What would you like to talk about?" in page
        assert "echo answers" in page
        assert 'href="/admin/"' in page
        assert "sessionid" in {cookie.name for cookie in jar}

    def test_the_password_that_the_console_shows_opens_the_admin(self):
        browser, _ = visitor()
        address = f"{self.demo.url}admin/login/?next=/admin/"
        password = self.demo.says("Signed in as").removeprefix("demo, password ")
        _, refused = post(browser, address, get(browser, address), username="demo", password="wrong")
        assert "Please enter the correct" in refused
        url, page = post(browser, address, refused, username="demo", password=password)
        assert url == f"{self.demo.url}admin/"
        assert "Conversations" in page

    def test_a_question_makes_a_conversation_with_a_title_and_a_reply(self):
        browser, _ = visitor()
        url, page = post(
            browser, f"{self.demo.url}new/", get(browser, self.demo.url), question="Why is\nthe sky  blue?"
        )
        assert re.fullmatch(re.escape(self.demo.url) + r"c/[0-9a-f-]{36}/", url)
        assert "Why is the sky blue?" in page
        assert self.replies_to("Why is\nthe sky  blue?") == [("completed", "Why is\nthe sky  blue?")]

    def test_the_agent_is_offered_and_says_that_a_script_plays_the_model(self):
        assert self.demo.says("Agent") == f"{self.demo.url}agent/ books rooms, by a script"
        browser, _ = visitor()
        assert 'href="/agent/"' in get(browser, self.demo.url)
        page = get(browser, f"{self.demo.url}agent/")
        assert "A script plays the model" in page
        _, page = post(browser, f"{self.demo.url}agent/new/", page, question="What can you do?")
        assert "Ask for a meeting room." in page
        assert "Ask for a meeting room." not in get(browser, self.demo.url)
        [(status, answer)] = self.replies_to("What can you do?")
        assert (status, json.loads(answer)["booked"]) == ("completed", False)

    def test_a_deleted_conversation_leaves_the_list(self):
        browser, _ = visitor()
        url, page = post(browser, f"{self.demo.url}new/", get(browser, self.demo.url), question="Forget this")
        assert "Forget this" in page
        home, page = post(browser, f"{url}delete/", page)
        assert home == self.demo.url
        assert "Forget this" not in page

    def replies_to(self, question: str) -> list[tuple[str, str]]:
        """Read a question's replies from the database once they have ended."""
        query = (
            "SELECT reply.status, reply.content FROM converse_message AS reply "
            "JOIN converse_message AS turn ON turn.id = reply.reply_to_id WHERE turn.content = ?"
        )
        deadline = monotonic() + PATIENCE
        while monotonic() < deadline:
            with closing(sqlite3.connect(self.demo.folder / "db.sqlite3")) as database:
                replies = database.execute(query, [question]).fetchall()
            if replies and all(status == "completed" for status, _ in replies):
                break
            sleep(0.05)
        return replies

    def test_a_socket_without_a_session_is_refused(self):
        address = self.demo.url.replace("http", "ws") + "converse/ws/"
        with connect(address, origin=self.demo.url.rstrip("/")) as socket:
            with pytest.raises(ConnectionClosed):
                socket.recv()
            assert socket.close_code == 4401


class CommandTests(SimpleTestCase):
    def test_it_explains_itself(self):
        helped = run("--help")
        assert helped.returncode == 0
        assert "--port" in helped.stdout
        assert "auto,local,openai,anthropic,echo" in helped.stdout.replace(" ", "")

    def test_a_taken_port_is_told_in_one_line(self):
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            refused = run("--port", str(port), "--provider", "echo")
        assert refused.returncode == 1
        assert (
            refused.stderr
            == f"CommandError: Port {port} is taken. Try another: python manage.py demo --port {port + 1}\n"
        )
        assert refused.stdout == ""

    def test_a_provider_without_its_key_is_told(self):
        refused = run("--port", "0", "--provider", "openai")
        assert refused.returncode == 1
        assert refused.stderr == "CommandError: Set OPENAI_API_KEY to have openai answer.\n"

    def test_a_key_in_the_environment_chooses_the_provider(self):
        with Demo(ANTHROPIC_API_KEY="sk-test") as demo:
            assert demo.says("Answering").startswith("claude-")
            assert demo.says("Agent").endswith("with anthropic")

    def test_without_a_model_the_echo_answers_and_says_so(self):
        with Demo("--provider", "local", **OFFLINE) as demo:
            notice = "No model answers here, only an echo of what you say: the model could not be installed."
            assert notice in demo.said
            assert demo.says("Answering") == "echo"
            assert notice in get(visitor()[0], demo.url)

    def test_ctrl_c_ends_it_in_the_middle_of_a_reply_with_a_page_open(self):
        for how in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(how.name), Demo("--provider", "echo", ECHO_DELAY="0.2") as demo:
                browser, jar = visitor()
                url, _ = post(browser, f"{demo.url}new/", get(browser, demo.url), question="again and " * 200)
                cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)
                address = demo.url.replace("http", "ws") + "converse/ws/"
                with connect(address, origin=demo.url.rstrip("/"), additional_headers={"Cookie": cookies}) as socket:
                    socket.send(json.dumps({"type": "subscribe", "conversation": url.split("/")[-2]}))
                    while '"StreamUpdate"' not in socket.recv(PATIENCE):
                        pass
                    demo.stop(how)
                assert demo.code == 0, demo.said
                assert demo.said.endswith("Ctrl-C stops.\nStopped.\n")
                with closing(sqlite3.connect(demo.folder / "db.sqlite3")) as database:
                    replies = database.execute("SELECT status FROM converse_message WHERE role = 'assistant'")
                    assert replies.fetchall() == [("cancelled",)]

    def test_a_second_start_finds_everything_again(self):
        with Demo("--provider", "echo") as demo:
            browser, _ = visitor()
            post(browser, f"{demo.url}new/", get(browser, demo.url), question="Remember me")
            before = demo.says("Signed in as")
            demo.stop()
            demo.start()
            assert demo.says("Signed in as") == before
            assert "Remember me" in get(browser, demo.url)  # still signed in, too
            assert {file.name.split("-")[0] for file in demo.folder.iterdir()} == {"db.sqlite3", "password", "secret"}
