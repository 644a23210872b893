"""The running programs that the tests of this folder share. They end before the tests of the next folder begin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.openai_clients import OPTIONS
from tests.support.program import Program, running


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The demo with its default settings, ready to answer, and allowed to log tracebacks of malformed requests."""
    with running(tmp_path_factory.mktemp("server"), tracebacks=True) as program:
        program.wait_ready()
        yield program


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The API alone, with keys and names; it may never log a traceback."""
    with running(tmp_path_factory.mktemp("api"), *OPTIONS) as program:
        program.wait_ready()
        yield program
