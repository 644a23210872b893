"""NxDI's real code for the tests in this room, where its sources are; skipped with the reason elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from mllama_demo.engine.neuron.runner import NeuronRunner
from tests.contract.engine.nxdi import cpu_device

if TYPE_CHECKING:
    from tests.support.meta_reference import MetaReference

SOURCES = [os.environ.get(name, "") for name in ("NXDI_SRC", "NXD_SRC")]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    if not all(SOURCES):
        pytest.skip("NXD_SRC and NXDI_SRC do not name the source folders of NxD and NxDI; see `make test-neuron`")


@pytest.fixture(scope="session", autouse=True)
def nxdi() -> None:
    for source in SOURCES:
        assert Path(source).is_dir(), f"{source} is no folder"
    torch.set_num_threads(1)
    cpu_device.set_up(SOURCES)


@pytest.fixture(scope="session")
def reference(embedded: Path, nxdi: None) -> MetaReference:
    from tests.support.meta_reference import (
        MetaReference,  # its image processor takes the torchvision that set_up makes importable
    )

    return MetaReference(embedded)


@pytest.fixture(scope="session")
def loaded(embedded: Path, nxdi: None) -> NeuronRunner:
    """Four slots of 192 tokens, prompts of up to 128, logits to the host."""
    model = cpu_device.make_model(embedded)
    cpu_device.load(model)
    return NeuronRunner(model, model.config.image_token_index)


@pytest.fixture
def runner(loaded: NeuronRunner) -> Iterator[NeuronRunner]:
    """All slots free, with whatever earlier tests left in their caches."""
    yield loaded
    for slot in range(loaded.slots):
        loaded.release(slot)
