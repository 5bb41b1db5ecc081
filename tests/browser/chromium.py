"""A real browser without a screen, the system's own, driven by Playwright over a pipe: no port, no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from harness import needs

PATIENCE = 120_000
"""Milliseconds for one answer; many times what it takes, for machines that are busy with other things."""

# As the console of a browser has them.
_SHORT_NAMES = "window.$ = (s) => document.querySelector(s); window.$$ = (s) => [...document.querySelectorAll(s)];"


@contextmanager
def launched() -> Iterator[Browser]:
    """Start the browser; without it the test fails, and says what to install."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=needs.program("chromium-headless-shell"), timeout=PATIENCE)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, fragment: str = "", **looks: Any) -> Iterator[Page]:
    """Open a file; in the end no script may have complained, and nothing but the file been asked for.

    Args:
        browser: The browser.
        path: The file.
        fragment: What follows its address: "#r1-2".
        looks: The screen and the rest, as Playwright's `new_page` takes them.
    """
    page = browser.new_page(**{"viewport": {"width": 1440, "height": 900}} | looks)
    page.set_default_timeout(PATIENCE)
    page.add_init_script(_SHORT_NAMES)
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri() + fragment)
    yield page
    assert errors == [], errors
    others = [url for url in requests if not url.startswith("data:") and url.partition("#")[0] != path.as_uri()]
    assert others == [], others
    page.close()
