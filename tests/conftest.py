"""Fixtures that several packages of tests share, and the order and the threads of the tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import mllama_demo
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.ui.gradio_patches.type_stubs import write_no_stubs
from tests.support.order import sort_items
from tests.support.scripts import script
from tests.support.tracebacks import add_line_numbers

# PyTorch reads both when it is imported. The workers of pytest-xdist share the cores. A thread that spins while it waits for
# another one takes the core that the other one needs: a test with two threads then takes twenty times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
write_no_stubs()  # half of the time of Gradio's import


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keeps the garbage collector from the modules of PyTorch, transformers and Gradio, which live until the end.

    They have 800,000 objects. A full collection that looks at these takes 0.2 s.
    """
    gc.disable()
    yield
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests into the order in which the workers of pytest-xdist begin their files."""
    sort_items(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """Before pytest makes the report of a test that has failed."""
    if call.excinfo is not None:
        add_line_numbers(call.excinfo.value)


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The folder of the embedded checkpoint."""
    return Path(mllama_demo.__file__).parent / "embedded"


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small checkpoint with random weights in bfloat16."""
    folder = tmp_path_factory.mktemp("random") / "tiny"
    maker = script("make_random_checkpoint")
    maker.write_checkpoint(folder, maker.SHAPES["tiny"].model)
    return folder


@pytest.fixture(scope="session")
def tokenizer(embedded: Path) -> Tokenizer:
    return Tokenizer(embedded)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests."""
    return "asyncio"
