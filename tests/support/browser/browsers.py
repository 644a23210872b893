"""Chromium, pages of new visitors in it, and the record of everything that these pages complain about or send."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, Request, ViewportSize, WebError

from tests.support.program import Program

DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
PATIENCE_MS = 60_000
# Keeps for pages.settled what a page asks.
CALLS = Path(__file__).resolve().parent / "pending_calls.js"
PLAIN_HTTP_HOST = "demo.test"
ABORTED, LOST = "AbortError", "Unexpected error Connection errored out"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # A page of this host is served over plain HTTP, from another machine as far as the browser knows.
    f"--host-resolver-rules=MAP {PLAIN_HTTP_HOST} 127.0.0.1",
]


def chromium_path() -> str | None:
    """CHROMIUM, else Debian's, else the one on PATH, else None for playwright's own.

    The program without windows comes first, because a page needs a third less CPU time in it.
    """
    debian = ("/usr/bin/chromium-headless-shell", "/usr/bin/chromium")
    return os.environ.get("CHROMIUM") or next((path for path in debian if Path(path).exists()), shutil.which("chromium"))


def launch_chromium(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS, timeout=PATIENCE_MS)


@dataclass
class Browsers:
    """Opens pages for new visitors, each in a context (cookies, storage, cache) of its own, and records what the pages do.

    Attributes:
        server: where the pages come from, unless open() names another.
        counting: whether the requests of a page are counted for pages.settled; False where time is measured.
    """

    chromium: Browser
    server: Program
    counting: bool = True
    expected: list[re.Pattern[str]] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)

    def open(self, server: Program | None = None, viewport: ViewportSize = DESKTOP, **options: Any) -> Page:
        """The first page of a new visitor. Addresses are relative to the server."""
        server = server or self.server
        self.origins.add(server.url)
        context = self.chromium.new_context(base_url=server.url, viewport=viewport, **options)
        context.set_default_timeout(PATIENCE_MS)
        if self.counting:
            context.add_init_script(path=CALLS)
        self._contexts.append(context)
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("requestfailed", self._on_failed_request)
        return context.new_page()

    def expect_complaint(self, pattern: str) -> None:
        """A console message or failed request that belongs to what the test does."""
        self.expected.append(re.compile(pattern))

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def check(self) -> None:
        complaints = _without_left_pages(self.complaints)
        unexpected = [text for text in complaints if not any(pattern.search(text) for pattern in self.expected)]
        assert not unexpected, "the pages complained:\n" + "\n".join(unexpected)
        allowed = ("data:", "blob:", *(origin + "/" for origin in self.origins))
        outside = sorted({url for url in self.requests if not url.startswith(allowed) and url != "about:blank"})
        assert not outside, f"requests left the server: {outside}"

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _on_error(self, error: WebError) -> None:
        self.complaints.append(f"script: {error.error}")

    def _on_failed_request(self, request: Request) -> None:
        # The page itself ends event streams, and whatever is under way when it is left.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"request: {request.failure} {request.url}")


def _without_left_pages(complaints: list[str]) -> list[str]:
    """Leaves out what Gradio's client says of a stream that ends because its page is left: an abort, then a lost connection."""
    aborts = sum(ABORTED in text for text in complaints)
    kept = []
    for text in complaints:
        if LOST in text and aborts:
            aborts -= 1
        elif ABORTED not in text:
            kept.append(text)
    return kept
