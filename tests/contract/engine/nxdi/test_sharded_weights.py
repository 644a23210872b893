"""An instance without the weights of the checkpoint loads a compiled model. NxDI's own code cuts and loads the weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mllama_demo.checkpoint.compilation import compile as compile_module
from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.checkpoint.compilation.fingerprint import weight_records
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.checkpoint.weights_identity import FILE, WeightsIdentity
from mllama_demo.cli import main
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import FinishEvent, TokenEvent
from mllama_demo.engine.neuron.sdk import mllama_module
from tests.contract.engine.nxdi import cpu_device
from tests.contract.engine.nxdi.cases import answered, as_seen, ask, picture
from tests.support.paths import ROOT

OPTIONS: dict[str, Any] = {"dtype": "float32", "tensor_parallel_size": 1, "batch_size": 2, "seq_len": 192}
OPTIONS |= {"context_encoding_buckets": (64, 128), "token_generation_buckets": (96, 192), "on_device_sampling_config": None}


class LoadedModel(cpu_device.CpuDevice):
    """In the place of what torch.jit.load gives: the graphs, which get the weights that NxDI hands to the device."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        self.nxd_model = self

    def initialize(self, weights: list[dict[str, torch.Tensor]], start_rank: torch.Tensor) -> None:
        assert start_rank.tolist() == [0]
        [own] = weights
        cpu_device.fill(self, self._model, lambda module: dict(own))
        for wrapper in self._model.models:
            wrapper._modules.pop("model", None)  # for NxDI to put this object there

    def forward(self, inputs: Any) -> torch.Tensor:
        return self(*inputs)


@pytest.fixture
def instance(on_cpu, monkeypatch) -> None:
    """NxDI's own compile and load, as far as they do not need the compiler or the device."""
    model = mllama_module().NeuronMllamaForCausalLM
    load = super(model, model).load  # that of the test's fixture stands in the class itself

    def compile_here(job: dict[str, Any], graphs: int, work: Path, log: Path, tell: Any) -> None:
        words = [sys.executable, "-W", "ignore", "-m", "tests.contract.engine.nxdi.compiling", json.dumps(job)]
        with log.open("wb") as output:
            done = subprocess.run(words, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
        assert done.returncode == 0, log.read_text()[-3000:]

    def load_here(self: Any, compiled_model_path: str) -> None:
        for config in (self.config, *(wrapper.config for wrapper in self.models)):
            config.neuron_config.on_cpu = True
        with monkeypatch.context() as patched:
            patched.setattr(torch.jit, "load", lambda file: LoadedModel(self))
            load(self, compiled_model_path)

    monkeypatch.setattr(compile_job, "run", compile_here)
    monkeypatch.setattr(model, "load", load_here)
    monkeypatch.setattr(compile_module, "GRAPH_DISK_BYTES", 2**20)


def only_small_files(checkpoint: Path, folder: Path) -> Path:
    """What an instance without weights has."""
    info = check_checkpoint(checkpoint)
    shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns("*.safetensors", "neuron-compiled-artifacts"))
    identity = WeightsIdentity(weight_records(info), info.parameters, info.dtype)
    (folder / FILE).write_text(json.dumps(identity.as_json()))
    return folder


@pytest.mark.timeout(600)
async def test_a_compiled_model_is_loaded_and_answers_where_no_weights_are(
    instance, embedded, tmp_path, tokenizer, reference, capsys
):
    checkpoint = Path(shutil.copytree(embedded, tmp_path / "first" / "model"))
    second = only_small_files(checkpoint, tmp_path / "second" / "model")
    settings = Settings(backend="neuron", model_path=checkpoint, compiled_artifacts=tmp_path / "artifacts", **OPTIONS)
    tile, count = reference.eyes["image_size"], 8
    request = ask(tokenizer, "What is in this image?", image=picture(2 * tile, tile, 30))
    request = replace(request, sampling=replace(request.sampling, max_tokens=count))
    expected, _ = reference.greedy(request.prompt_ids, as_seen(reference, request.image), count)

    async def check(settings: Settings) -> None:
        *events, finish = await answered(settings, request)
        tokens = [event.token_id for event in events if isinstance(event, TokenEvent)]
        assert tokens
        assert tokens == expected[: len(tokens)]
        assert isinstance(finish, FinishEvent)

    await check(settings)
    [artifact] = (tmp_path / "artifacts").iterdir()
    assert [file.name for file in artifact.glob("weights/*")] == ["tp0_sharded_checkpoint.safetensors"]
    shutil.rmtree(checkpoint)  # and with it the folder that the configuration beside the compiled model names
    await check(settings.model_copy(update={"model_path": second}))

    words = ["compile", "--model-path", str(second), "--compiled-artifacts", str(tmp_path / "artifacts"), "--dtype", "float32"]
    words += ["--tensor-parallel-size", "1", "--batch-size", "2", "--seq-len", "192", "--context-encoding-buckets", "64,128"]
    words += ["--token-generation-buckets", "96,192", "--on-device-sampling-config", "none"]
    assert main(words) == 0
    content = json.loads((second / FILE).read_text())
    content["files"]["model.safetensors"]["sampled"] = 32 * "0"  # of another model
    (second / FILE).write_text(json.dumps(content))
    capsys.readouterr()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "The weights of model are not on this machine, and neither" in error
