"""What some tests need besides the database. Where it is missing they are skipped as ``no …``, which CI forbids."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from unittest import SkipTest

from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIETLY = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def chromium() -> Iterator[Page]:
    """Give a page of a new browser."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SkipTest("no chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIETLY)
        try:
            yield browser.new_page()
        finally:
            browser.close()
