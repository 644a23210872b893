"""Runners of the embedded checkpoint and the computation that they are held to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mllama_demo.engine.torch.runner import TorchRunner
from tests.support.meta_reference import MetaReference
from tests.support.one_thread import one_thread as one_thread
from tests.support.prefix_caches import load


@pytest.fixture(scope="module")
def reference(embedded: Path) -> MetaReference:
    return MetaReference(embedded)


@pytest.fixture(scope="module")
def shared_runner(embedded: Path) -> TorchRunner:
    return TorchRunner.load(embedded, slots=4, max_seq_len=512)


@pytest.fixture
def runner(shared_runner: TorchRunner) -> Iterator[TorchRunner]:
    """Four slots, all free, with whatever earlier tests left in their caches."""
    yield shared_runner
    for slot in range(shared_runner.slots):
        shared_runner.release(slot)


@pytest.fixture
def cached(embedded: Path) -> TorchRunner:
    """Two slots and an empty prefix cache."""
    return load(embedded, prefix_cache_mb=64)


@pytest.fixture(scope="module")
def uncached(embedded: Path) -> TorchRunner:
    return load(embedded)


@pytest.fixture(scope="module")
def uncached_slot(embedded: Path) -> TorchRunner:
    return load(embedded, slots=1)
