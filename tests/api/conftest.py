"""One running program for all tests of this room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from program import Program, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """The demo with its default settings, ready to answer, and used to rude requests."""
    with running(tmp_path_factory.mktemp("server"), tracebacks=True) as program:
        program.wait_ready()
        yield program
