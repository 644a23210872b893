"""The real program and a real Chromium; whatever a page complains about or sends elsewhere fails the test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Playwright, sync_playwright

from tests.support.browser.browsers import Browsers
from tests.support.browser.chat_page import SLOW_DEMO
from tests.support.program import Program, running


# For one module only: while Playwright runs, this thread has a running event loop, and other tests start loops of their own.
@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


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
def browsers(playwright: Playwright, server: Program, tmp_path: Path) -> Iterator[Browsers]:
    browsers = Browsers(playwright, tmp_path, server)
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
