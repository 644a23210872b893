"""The real program and a real Chromium; whatever a page complains about or sends elsewhere fails the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.browser.browsers import Browsers, launch_chromium
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
def browsers(chromium: Browser, server: Program) -> Iterator[Browsers]:
    browsers = Browsers(chromium, server)
    yield browsers
    browsers.close()
    browsers.check()


@pytest.fixture
def page(browsers: Browsers) -> Page:
    """A new visitor's blank page on a desktop."""
    return browsers.open()


@pytest.fixture
def slow_page(browsers: Browsers, slow_server: Program) -> Page:
    """The same on the slow server."""
    return browsers.open(slow_server)
