"""The tutorial, followed to the letter: a project is made as it says, served, and used like a person would."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlencode

from django.test import SimpleTestCase
from websockets.asyncio.client import connect

from tests.demos import UNMEASURED
from tests.documents import DOCS, ROOT, blocks
from tests.services import chromium, free_port

TUTORIAL = DOCS / "tutorial" / "first-chat.md"
PASSWORD = "as the tutorial's reader"

LEFT_OUT = {"DJANGO_SETTINGS_MODULE", *UNMEASURED}


class TutorialTests(SimpleTestCase):
    """What stands on the page is what happens."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = Path(tempfile.mkdtemp(prefix="converse-tutorial-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.environment = {
            **{name: value for name, value in os.environ.items() if name not in LEFT_OUT},
            "PYTHONPATH": str(ROOT),
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        }
        cls.follow()
        cls.manage("createsuperuser", "--noinput", "--username", "reader", "--email", "")
        cls.serve()

    @classmethod
    def follow(cls):
        """Do what the tutorial says, in its order."""
        for block in blocks(TUTORIAL):
            verb, _, name = block.mark.partition(": ")
            match verb:
                case "run":
                    for line in block.code.splitlines():
                        program, *arguments = line.split()
                        cls.run_python("django" if program == "django-admin" else arguments.pop(0), *arguments)
                case "file":
                    (cls.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (cls.folder / name).write_text(block.code)
                case "append":
                    with (cls.folder / name).open("a") as file:
                        file.write(block.code)

    @classmethod
    def run_python(cls, program: str, *arguments: str):
        start = [sys.executable, "-m", program] if program == "django" else [sys.executable, program]
        done = subprocess.run([*start, *arguments], cwd=cls.folder, env=cls.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    @classmethod
    def manage(cls, *arguments: str):
        cls.run_python("manage.py", *arguments)

    @classmethod
    def serve(cls):
        cls.port = free_port()
        command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{cls.port}"]
        log = (cls.folder / "server.log").open("w")
        cls.addClassCleanup(log.close)
        server = subprocess.Popen(command, cwd=cls.folder, env=cls.environment, stdout=log, stderr=log)
        cls.addClassCleanup(server.wait)
        cls.addClassCleanup(server.terminate)
        deadline = monotonic() + 30
        while monotonic() < deadline and server.poll() is None:
            try:
                cls.get("/admin/login/")
                return
            except ConnectionRefusedError:
                sleep(0.1)
        raise AssertionError((cls.folder / "server.log").read_text())

    @classmethod
    def get(cls, path: str, *, cookies: str = "", form: dict[str, str] | None = None):
        connection = HTTPConnection("127.0.0.1", cls.port, timeout=30)
        headers = {"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST" if form else "GET", path, urlencode(form) if form else None, headers)
        response = connection.getresponse()
        response.text = response.read().decode()
        connection.close()
        return response

    @classmethod
    def sign_in(cls) -> str:
        """Return the cookies of the signed-in reader."""
        token = SimpleCookie(cls.get("/admin/login/").headers["Set-Cookie"])["csrftoken"].value
        form = {"username": "reader", "password": PASSWORD, "csrfmiddlewaretoken": token}
        answer = cls.get("/admin/login/", cookies=f"csrftoken={token}", form=form)
        sent = [SimpleCookie(header) for header in answer.headers.get_all("Set-Cookie", [])]
        return "; ".join(f"{name}={morsel.value}" for cookie in sent for name, morsel in cookie.items())

    async def test_the_reply_streams_over_the_websocket_and_is_stored(self):
        cookies = self.sign_in()
        uuid = self.get("/", cookies=cookies).headers["Location"].split("/")[2]
        said = "Once upon a time"
        received: list[dict[str, object]] = []
        address = f"ws://127.0.0.1:{self.port}/converse/ws/"
        origin = f"http://127.0.0.1:{self.port}"
        async with (
            connect(address, origin=origin, additional_headers={"Cookie": cookies}) as socket,
            asyncio.timeout(30),
        ):
            await socket.send(json.dumps({"type": "subscribe", "conversation": uuid}))
            await socket.send(json.dumps({"type": "send", "conversation": uuid, "content": said}))
            async for frame in socket:
                received.append(json.loads(frame))
                if received[-1].get("event") == "MessageCompleted":
                    break
        updates = [frame["data"]["chunk"] for frame in received if frame.get("event") == "StreamUpdate"]
        assert "".join(updates) == said
        assert len(updates) > 1, "it came at once: it did not stream"

    def test_the_page_asks_strangers_to_sign_in(self):
        assert self.get("/").headers["Location"].startswith("/admin/login/")

    def test_the_page_shows_the_words_as_they_come_and_keeps_them(self):
        with chromium() as page:
            page.goto(f"http://127.0.0.1:{self.port}/")
            page.fill("[name=username]", "reader")
            page.fill("[name=password]", PASSWORD)
            page.click("[type=submit]")
            page.fill("#content", "one two three four five six seven eight")
            page.click("button:has-text('Send')")
            page.wait_for_function("document.querySelector('.assistant')?.textContent.startsWith('one two')")
            assert page.text_content(".assistant") != "one two three four five six seven eight", "it did not stream"
            page.reload()
            page.wait_for_selector(".assistant.completed")
            assert page.text_content(".assistant") == "one two three four five six seven eight"
            assert page.text_content(".user") == "one two three four five six seven eight"

    def test_stop_keeps_what_had_come(self):
        with chromium() as page:
            page.goto(f"http://127.0.0.1:{self.port}/")
            page.fill("[name=username]", "reader")
            page.fill("[name=password]", PASSWORD)
            page.click("[type=submit]")
            page.fill("#content", "word " * 200)
            page.click("button:has-text('Send')")
            page.wait_for_function("document.querySelector('.assistant')?.textContent.startsWith('word')")
            page.click("#stop")
            page.wait_for_selector(".assistant.cancelled")
            assert page.text_content(".assistant").startswith("word")
