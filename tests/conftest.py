"""Fixtures that several rooms of tests share: the embedded checkpoint and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

import mllama_demo
from mllama_demo.chat.tokenizer import Tokenizer


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
