"""Fixtures that several packages of tests share, and the order and the threads of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mllama_demo
from mllama_demo.chat.tokenizer import Tokenizer

# Two workers of pytest-xdist share the cores; PyTorch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the browser tests last, because no event loop can be started in the process after Playwright's has started."""
    browser = Path(__file__).parent / "browser"
    items.sort(key=lambda item: browser in item.path.parents)


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The folder of the embedded checkpoint."""
    return Path(mllama_demo.__file__).parent / "embedded"


@pytest.fixture(scope="session")
def tokenizer(embedded: Path) -> Tokenizer:
    return Tokenizer(embedded)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests."""
    return "asyncio"
