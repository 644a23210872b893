"""Chromium, pages of new visitors in it, and the record of everything that these pages complain about or send."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Playwright, Request, ViewportSize, WebError

from tests.support.program import Program

DESKTOP: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
PATIENCE_MS = 60_000
# Keeps for pages.settled what a page asks.
CALLS = Path(__file__).resolve().parent / "pending_calls.js"
PLAIN_HTTP_HOST = "demo.test"
ABORTED, LOST = "AbortError", "Unexpected error Connection errored out"
# A script that keeps in window.wakeLocks what the page holds to keep the screen on.
RECORD_WAKE_LOCKS = """
  window.wakeLocks = [];
  const request = WakeLock.prototype.request;
  WakeLock.prototype.request = async function (type) {
    const lock = await request.call(this, type);
    window.wakeLocks.push(lock);
    return lock;
  };
"""
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


class UsedPages:
    """Pages that earlier tests are done with, by the address of their server, for later tests to go on with.

    A page load in a new context takes 1.3 s of processor time more: Chromium starts processes, fetches all files and compiles
    Gradio's scripts again. A page is kept only when nothing of its visitor is left: no other page, cookie, storage or permission.
    """

    KEPT = 3
    # What cannot be undone. A test that needs one of these opens its page with fresh=True.
    LASTING = ("add_init_script", "expose_function", "expose_binding", "new_cdp_session")

    def __init__(self) -> None:
        self._pages: dict[str, Page] = {}

    def take(self, address: str) -> Page | None:
        return self._pages.pop(address, None)

    def keep(self, page: Page, address: str) -> None:
        """Takes over a page, or closes its context when the page cannot be reset."""
        try:
            self._reset(page, address)
        except Error:  # its server is gone, or the page is closed
            page.context.close()
            return
        if previous := self._pages.pop(address, None):  # a test had two
            previous.context.close()
        self._pages[address] = page
        while len(self._pages) > self.KEPT:
            self._pages.pop(next(iter(self._pages))).context.close()

    def guard(self, page: Page) -> Page:
        """Makes the calls fail that would last until the next test."""

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError(f"{', '.join(self.LASTING)} last longer than a test: open the page with fresh=True")

        for target in (page, page.context):
            for name in self.LASTING:
                setattr(target, name, refuse)
        return page

    @staticmethod
    def _reset(page: Page, address: str) -> None:
        context = page.context
        for other in context.pages:
            if other != page:
                other.close()
        for target in (page, context):
            target.unroute_all(behavior="ignoreErrors")
        context.set_offline(False)
        context.clear_permissions()
        page.goto(f"{address}/health")  # a document of the same origin without scripts
        page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); window.name = ''; }")
        page.mouse.move(0, 0)
        page.emulate_media(media="null", reduced_motion="null", forced_colors="null", contrast="null")
        context.clear_cookies()


@dataclass
class Browsers:
    """Opens pages for new visitors, each with cookies and storage of its own, and records what the pages do.

    Attributes:
        server: where the pages come from, unless open() names another.
        counting: whether the requests of a page are counted for pages.settled; False where time is measured.
        used: pages of earlier tests; without it every page has a context of its own.
    """

    chromium: Browser
    server: Program
    counting: bool = True
    used: UsedPages | None = None
    expected: list[re.Pattern[str]] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    _contexts: list[BrowserContext] = field(default_factory=list)
    _reusable: list[tuple[Page, str]] = field(default_factory=list)
    _documents: int = 0
    _pages: int = 0

    def open(
        self,
        server: Program | None = None,
        viewport: ViewportSize = DESKTOP,
        color_scheme: Any = "light",
        fresh: bool = False,
        **options: Any,
    ) -> Page:
        """The first page of a new visitor. Addresses are relative to the server.

        Args:
            fresh: In a context of its own, also without the cache of earlier tests.
            options: Of the context, which is then a fresh one.
        """
        server = server or self.server
        self.origins.add(server.url)
        if self.used is None or fresh or options:
            context = self._new_context(server, viewport=viewport, color_scheme=color_scheme, **options)
            self._contexts.append(context)
            self._listen(context)
            return context.new_page()
        page = self.used.take(server.url) or self.used.guard(self._new_context(server).new_page())
        self._reusable.append((page, server.url))
        self._pages += 1
        self._listen(page.context)
        page.set_viewport_size(viewport)
        page.emulate_media(color_scheme=color_scheme)
        return page

    def _new_context(self, server: Program, **options: Any) -> BrowserContext:
        context = self.chromium.new_context(base_url=server.url, **options)
        context.set_default_timeout(PATIENCE_MS)
        if self.counting:
            context.add_init_script(path=CALLS)
        return context

    def _listen(self, context: BrowserContext, on: bool = True) -> None:
        change = context.on if on else context.remove_listener
        change("page", self._on_page)
        change("console", self._on_console)
        change("weberror", self._on_error)
        change("request", self._on_request)
        change("requestfailed", self._on_failed_request)

    def expect_complaint(self, pattern: str) -> None:
        """A console message or failed request that belongs to what the test does."""
        self.expected.append(re.compile(pattern))

    def close(self) -> None:
        for context in self._contexts:
            context.close()
        for page, address in self._reusable:
            self._listen(page.context, on=False)
            assert self.used is not None
            self.used.keep(page, address)

    def check(self) -> None:
        complaints = _without_left_pages(self.complaints, left=max(0, self._documents - self._pages))
        unexpected = [text for text in complaints if not any(pattern.search(text) for pattern in self.expected)]
        assert not unexpected, "the pages complained:\n" + "\n".join(unexpected)
        allowed = ("data:", "blob:", *(origin + "/" for origin in self.origins))
        outside = sorted({url for url in self.requests if not url.startswith(allowed) and url != "about:blank"})
        assert not outside, f"requests left the server: {outside}"

    def _on_page(self, _: Page) -> None:
        self._pages += 1

    def _on_request(self, request: Request) -> None:
        self.requests.append(request.url)
        self._documents += request.is_navigation_request() and _is_of_page(request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"console: {message.text} ({message.location.get('url', '')})")

    def _on_error(self, error: WebError) -> None:
        self.complaints.append(f"script: {error.error}")

    def _on_failed_request(self, request: Request) -> None:
        # The page itself ends event streams, and whatever is under way when it is left.
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"request: {request.failure} {request.url}")


def _is_of_page(request: Request) -> bool:
    """Whether the request is for the document of a page, not of a frame in it."""
    try:
        return request.frame.parent_frame is None
    except Error:  # the first request of a window that a page opens comes before the window's frame
        return True


def _without_left_pages(complaints: list[str], left: int) -> list[str]:
    """Leaves out what Gradio's client says of streams that end because their page is left.

    It says an abort, and that the connection is lost, or only the latter where another document replaces the page.

    Args:
        left: how many documents another one has replaced.
    """
    allowed = left + sum(ABORTED in text for text in complaints)
    kept = []
    for text in complaints:
        if LOST in text and allowed:
            allowed -= 1
        elif ABORTED not in text:
            kept.append(text)
    return kept
