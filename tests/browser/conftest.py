"""The real program and a real Chromium; whatever a page complains about or sends elsewhere fails the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.browser.browsers import Browsers, UsedPages, launch_chromium
from tests.support.browser.chat_page import SLOW_DEMO
from tests.support.program import Program, running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One Chromium for all tests. From here on this thread has a running event loop, so async tests must have run before."""
    with sync_playwright() as playwright, launch_chromium(playwright) as browser:
        yield browser


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The demo with its default settings, ready to answer."""
    with running(tmp_path_factory.mktemp("server")) as program:
        program.wait_ready()
        yield program


@pytest.fixture(scope="session")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The same with a model that takes its time: pages.ask_endlessly gets an answer that outlasts any test."""
    with running(tmp_path_factory.mktemp("slow-server"), script=SLOW_DEMO) as program:
        program.wait_ready()
        yield program


@pytest.fixture
def dictation(slow_server: Program) -> Iterator[Path]:
    """The file with the text of the next answers. A file named pause beside it holds an answer before its end."""
    file, pause = slow_server.home / "dictated", slow_server.home / "pause"
    yield file
    file.unlink(missing_ok=True)
    pause.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def used_pages() -> UsedPages:
    return UsedPages()


@pytest.fixture
def browsers(chromium: Browser, server: Program, used_pages: UsedPages) -> Iterator[Browsers]:
    browsers = Browsers(chromium, server, used=used_pages)
    yield browsers
    browsers.close()
    browsers.check()


@pytest.fixture
def page(browsers: Browsers) -> Page:
    """A new visitor's page on a desktop."""
    return browsers.open()


@pytest.fixture
def fresh_page(browsers: Browsers) -> Page:
    """The same in a context of its own, for scripts and listeners that stay with the page."""
    return browsers.open(fresh=True)


@pytest.fixture
def slow_page(browsers: Browsers, slow_server: Program) -> Page:
    """The same on the slow server."""
    return browsers.open(slow_server)
