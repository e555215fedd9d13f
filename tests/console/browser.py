"""A real headless Chromium, and a page of it that remembers everything it complained about."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Locator, Page, Request, sync_playwright

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
STEP_MS = 10_000


def find_chromium() -> str | None:
    """The system's; none is downloaded."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium(binary: str) -> Iterator[Browser]:
    """A browser with a profile of its own, gone at the end."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """A tab at the console. ``complaints``: console errors, uncaught exceptions and broken policies, except the network's own
    lines for answers of ``expected`` statuses. ``requests``: every address that the page asked for. ``besides``: servers of the
    test that stand in for the stack."""

    def __init__(self, browser: Browser, url: str, key: str, **options: Any) -> None:
        self.url, self.key = url, key
        self.context = browser.new_context(locale="en-US", **options)
        self.context.set_default_timeout(STEP_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.expected: set[int] = set()
        self.besides: list[str] = []
        self.requests: list[Request] = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self._complain(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108  # playwright marks its handlers

    def _complain(self, text: str) -> None:
        status = re.match(r"Failed to load resource: the server responded with a status of (\d+)", text)
        if not (status and int(status[1]) in self.expected):
            self.complaints.append(text)

    def open(self, place: str = "") -> None:
        """The page, at a place such as ``jobs``."""
        self.page.goto(f"{self.url}/#/{place}" if place else f"{self.url}/")

    def enter(self, place: str = "playground") -> None:
        """To a place, signed in."""
        self.context.add_init_script(f"if (origin !== 'null') sessionStorage.setItem('smarttextgen.key', '{self.key}')")
        self.page.goto("about:blank")  # from the console itself it would be a move within the page
        self.open(place)
        self.page.locator("#main h1").wait_for()

    def ask(self, prompt: str, *, mode: str | None = None, **options: str) -> Locator:
        """Submit a prompt; the card of its answer. ``options``: by the names of their fields."""
        page = self.page
        if mode:
            page.get_by_role("radio", name=mode).check(force=True)
        page.get_by_label("Prompt", exact=True).fill(prompt)
        folded = page.locator("details.options:not([open]) > summary")
        if options and folded.count():
            folded.click()
        for name, value in options.items():
            page.locator(f"#o-{name}").fill(value)
        page.get_by_role("button", name="Generate").click()
        return page.locator(".answer .live")

    def close(self) -> None:
        self.context.close()
