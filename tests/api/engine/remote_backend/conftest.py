"""A server that says what a test tells it to, and backends in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mllama_demo.config.settings import Settings
from mllama_demo.engine.remote.backend import OpenAIBackend
from tests.support.protocol_server import ProtocolServer
from tests.support.waiting import wait_until


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    server = ProtocolServer()
    yield server
    server.stop()


@pytest.fixture
def connect(server) -> Iterator[Callable[..., OpenAIBackend]]:
    """Makes started backends for the server, waiting until they are ready unless told not to."""
    made: list[OpenAIBackend] = []

    def make(wait: bool = True, **options: Any) -> OpenAIBackend:
        options = {"remote_url": server.url, "backend": "openai", **options}
        backend = OpenAIBackend(Settings(**options), probe_interval_s=0.1)
        backend.start()
        made.append(backend)
        if wait:
            wait_until(lambda: backend.status().state == "ready", lambda: f"ready; {backend.status()}")
        return backend

    yield make
    for backend in made:
        backend.close()
