"""NxDI's real code for the tests in this room, where its sources are; skipped with the reason elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from mllama_demo.checkpoint import machine
from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.checkpoint.compilation.worker import compile_model
from mllama_demo.config.settings import Settings
from mllama_demo.engine.neuron.runner import NeuronRunner
from mllama_demo.engine.neuron.sdk import mllama_module
from tests.contract.engine.nxdi import cpu_device

if TYPE_CHECKING:
    from tests.support.meta_reference import MetaReference

SOURCES = [os.environ.get(name, "") for name in ("NXDI_SRC", "NXD_SRC")]


def _version() -> tuple[int, ...]:
    """The version of NxDI's source, such as (0, 9); () where there is none."""
    file = Path(SOURCES[0]) / "neuronx_distributed_inference" / "_version.py"
    found = re.search(r'__version__ = "(\d+)\.(\d+)', file.read_text()) if all(SOURCES) else None
    return tuple(map(int, found.groups())) if found else ()


NXDI = _version()


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


@pytest.fixture
def on_cpu(monkeypatch, tmp_path) -> list[Path]:
    """NxDI's compile leaves the files it would, and its load runs them on the CPU. The checkpoints that were compiled."""
    model, compiled = mllama_module().NeuronMllamaForCausalLM, []

    def compile_here(self, compiled_model_path, debug=False, pre_shard_weights_hook=None, dry_run=False, disable_fail_fast=False):
        self.config.save(compiled_model_path)
        (Path(compiled_model_path) / "model.pt").write_bytes(b"graphs")
        compiled.append(Path(self.model_path))

    def run_here(job, graphs, work, log, tell):
        log.touch()
        compile_model(Path(job["model_path"]), job["values"], Path(job["folder"]))

    def load_here(self, compiled_model_path):
        for config in (self.config, *(wrapper.config for wrapper in self.models)):
            config.neuron_config.on_cpu = True
        cpu_device.load(self)

    monkeypatch.setattr(model, "compile", compile_here)
    monkeypatch.setattr(model, "load", load_here)
    monkeypatch.setattr(compile_job, "run", run_here)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.delenv("NEURON_COMPILED_ARTIFACTS", raising=False)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/neuron0").touch()
    return compiled


@pytest.fixture
def settings(on_cpu: list[Path], embedded: Path, tmp_path: Path) -> Settings:
    """Backend neuron with the embedded checkpoint, which `on_cpu` compiles and runs. Sampling is on the host."""
    return Settings(
        backend="neuron",
        model_path=embedded,
        compiled_artifacts=tmp_path / "artifacts",
        dtype="float32",
        tensor_parallel_size=1,
        batch_size=2,
        seq_len=192,
        context_encoding_buckets=[64, 128],
        token_generation_buckets=[96, 192],
        on_device_sampling_config=None,
    )
