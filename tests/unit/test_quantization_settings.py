"""What cannot be quantized is refused with one sentence before anything is loaded."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mllama_demo import backends
from mllama_demo.backends import make_backend
from mllama_demo.cli import main
from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT, Settings
from mllama_demo.errors import CheckpointError, ConfigError


def refusal(**options: Any) -> str:
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        make_backend(Settings(**{"device": "cpu", **options}))
    return str(caught.value)


def test_a_web_process_takes_the_configuration_of_quantized_replicas():
    replica = load_settings(["--backend", "torch", "--quantization", "int8"], environ={})
    web = load_settings(["--backend", "ray", "--quantization", "int8"], environ={})
    assert web == replica.model_copy(update={"backend": "ray"})


@pytest.mark.parametrize("backend", ["neuron", "vllm", "openai"])
def test_only_backend_torch_quantizes(backend):
    with pytest.raises(ConfigError) as caught:
        load_settings(["--backend", backend, "--quantization", "int4"], environ={})
    assert str(caught.value) == (
        "quantization is int4 (from --quantization on the command line), but only backend torch quantizes; set quantization to "
        f"none for backend {backend}."
    )


@pytest.mark.parametrize("command", ["plan", "compile", "vllm-command"])
def test_commands_for_neuron_refuse_a_quantization(command, capsys):
    assert main([command, "--model-path", str(EMBEDDED_CHECKPOINT), "--quantization", "int8"]) == 2
    assert "only backend torch quantizes" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cpu_computes_in_float32_with_quantized_weights(dtype):
    assert "on a CPU a quantized model computes in float32; set dtype to auto" in refusal(quantization="int8", dtype=dtype)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(missing, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    assert f"needs the package {missing}, which is not installed; pip install onnx onnxruntime" in refusal(quantization="int4")


@pytest.mark.parametrize("quantization", ["none", "int4"])
def test_a_checkpoint_that_is_quantized_already_is_refused(quantization, tmp_path):
    folder = Path(shutil.copytree(EMBEDDED_CHECKPOINT, tmp_path / "small"))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "bitsandbytes"}}))
    message = refusal(model_path=folder, quantization=quantization)
    assert f"The checkpoint in {folder} is quantized already (bitsandbytes)" in message


def test_a_gpu_takes_any_dtype(monkeypatch):
    monkeypatch.setattr(backends, "_on_cpu", lambda settings: False)
    make_backend(Settings(quantization="int4", dtype="bfloat16", device="cuda"))
