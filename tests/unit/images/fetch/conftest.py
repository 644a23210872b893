"""The web server, for each test anew."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.web_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()
