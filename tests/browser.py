"""Headless Chromium for tests and screenshots, and what every page must keep: no console error, nothing cut off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Error, Page, sync_playwright

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
Theme = Literal["light", "dark"]


class NoBrowser(Exception):
    """There is no Chromium on this machine; the text says what was looked for."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser: the one on PATH, else Playwright's own.

    Raises:
        NoBrowser: neither is there.
    """
    program = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        if program is None and not Path(playwright.chromium.executable_path).exists():
            raise NoBrowser(f"needs one of {', '.join(_PROGRAMS)} on PATH, or `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class WatchedPage:
    """A page that remembers what went wrong in it."""

    def __init__(self, browser: Browser, *, width: int = 1440, height: int = 900, theme: Theme = "light") -> None:
        self._context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        self.page: Page = self._context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on("response", lambda answer: self._note_status(answer.status, answer.url))

    def close(self) -> None:
        """Close the page and forget its cookies."""
        try:
            self._context.close()
        except Error:
            return  # the browser has gone before

    def is_cut_off(self) -> bool:
        """Whether the page as a whole scrolls sideways."""
        return bool(self.page.evaluate("document.scrollingElement.scrollWidth > innerWidth"))

    def _note(self, kind: str, text: str) -> None:
        if kind == "error":
            self.problems.append(f"console: {text}")

    def _note_status(self, status: int, url: str) -> None:
        if status >= 500:
            self.problems.append(f"{status}: {url}")
