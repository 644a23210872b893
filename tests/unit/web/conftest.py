"""Where the limits of clients count, and the backend behind them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.limited_backends import running_redis
from tests.support.manual_backend import ManualBackend
from tests.support.program import free_port


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://"
        return
    with running_redis(tmp_path, port := free_port()):
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture
def backend() -> ManualBackend:
    return ManualBackend()
