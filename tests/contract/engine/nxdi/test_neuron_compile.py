"""From a configuration file to an answer, on NxDI's real code: its own configuration objects, its own model, its own slots.

What cannot run here is the one call of `compile`; that its stand-in is called as the real one would be is tested as well.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import inspect
import logging
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.config.loader import load_settings
from mllama_demo.engine.base import FinishEvent, TokenEvent
from mllama_demo.engine.neuron import compiler_log as neuron_log
from mllama_demo.engine.neuron.config import inference_config, neuron_values
from mllama_demo.engine.neuron.sdk import import_nxdi, mllama_module
from tests.contract.engine.nxdi.cases import answered, as_seen, ask, picture
from tests.contract.engine.nxdi.conftest import NXDI
from tests.support.paths import ROOT

FAKE = ROOT / "tests" / "support" / "fake_sdk" / "neuronx_distributed_inference"
FROM_0_5 = ("scratchpad_page_size",)  # of the configuration; NeuronRunner.load tells the runtime of older releases
FROM_0_7 = ("Pre-sharding checkpoints.", "Sharding weights for ranks: 0...{}")  # messages that older releases have otherwise
CONFIGS = [file for file in sorted((ROOT / "configs").glob("*.yaml")) if "backend: neuron" in file.read_text()]

# --- the configuration objects -------------------------------------------------------------------------------------------

# What each file must come out as, by NxDI's names, written down from the tutorial and not from the files.
TUTORIAL = {
    "tp_degree": 32,
    "world_size": 32,
    "torch_dtype": torch.bfloat16,
    "batch_size": 4,
    "ctx_batch_size": 1,
    "tkg_batch_size": 4,
    "max_batch_size": 4,
    "kv_cache_batch_size": 4,
    "seq_len": 2048,
    "max_length": 2048,
    "n_positions": 2048,
    "max_context_length": 2048,
    "enable_bucketing": True,
    "context_encoding_buckets": [256, 512, 1024, 2048],  # the tutorial has 1024 and 2048
    "token_generation_buckets": [512, 1024, 2048],
    "sequence_parallel_enabled": False,
    "fused_qkv": False,
    "is_continuous_batching": True,
    "padding_side": "right",
    "output_logits": False,
    "async_mode": False,
    "save_sharded_checkpoint": True,
    "scratchpad_page_size": 1024,
    "logical_nc_config": 1,
    "skip_vision": False,
    "skip_warmup": False,
    "speculation_length": 0,
    "is_block_kv_layout": False,
    "is_prefix_caching": False,
    "on_cpu": False,
}
LONG = dict.fromkeys(("seq_len", "max_length", "n_positions", "max_context_length"), 16384)
LONG |= {"context_encoding_buckets": [512, 2048, 16384], "token_generation_buckets": [1024, 2048, 16384]}
EXPECTED: dict[str, dict[str, Any]] = {
    "trn1-90b": TUTORIAL,
    "trn1-11b": TUTORIAL,
    "trn1-90b-exploration": TUTORIAL,
    "trn1-90b-16k": TUTORIAL | LONG | {"sequence_parallel_enabled": True},
    "inf2-90b": TUTORIAL | {"tp_degree": 16, "world_size": 16},
    "trn2-90b": TUTORIAL | {"logical_nc_config": 2},
    "ray-2-trn1-90b": TUTORIAL,
    "ray-8-trn1-90b": TUTORIAL,
}
SAMPLING = {"global_topk": 64, "dynamic": True, "deterministic": False}


def options(file: Path):
    return load_settings(["--config", str(file)], environ={}).neuron


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_each_configuration_becomes_the_nxdi_configuration_it_should(file, embedded, caplog):
    values = neuron_values(options(file))
    if file.stem.startswith("trn2") and NXDI < (0, 6):
        with pytest.raises(AssertionError, match="logical_nc_config=1"):  # why neuron_sdks.yaml refuses it on trn2
            inference_config(embedded, values)
        return
    with caplog.at_level(logging.WARNING):
        config = inference_config(embedded, values)
    assert not [r for r in caplog.records if "Unexpected keyword" in r.getMessage()], "NxDI must know every name"
    compiled = config.neuron_config
    assert type(config) is mllama_module().MllamaInferenceConfig
    assert type(compiled) is import_nxdi("models.config").MultimodalVisionNeuronConfig
    expected = {name: value for name, value in EXPECTED[file.stem].items() if NXDI >= (0, 5) or name not in FROM_0_5}
    assert {name: getattr(compiled, name) for name in expected} == expected
    sampling = compiled.on_device_sampling_config
    if file.stem == "trn1-90b-exploration":
        assert sampling is None
    else:
        assert type(sampling) is import_nxdi("models.config").OnDeviceSamplingConfig
        assert {name: getattr(sampling, name) for name in SAMPLING} == SAMPLING
    # What is written beside the compiled model is read back the same.
    read_back = type(config).from_json_string(config.to_json_string())
    assert read_back.to_json_string() == config.to_json_string()


def test_every_configuration_is_expected_here():
    assert {file.stem for file in CONFIGS} == set(EXPECTED)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_value_arrives_under_its_own_name(file, embedded):
    if file.stem.startswith("trn2") and NXDI < (0, 6):
        pytest.skip("this model runs on trn2 from NxDI 0.6 on")
    values = neuron_values(options(file))
    before = repr(values)
    compiled = inference_config(embedded, values).neuron_config
    for name, value in values.items():
        if NXDI < (0, 5) and name in FROM_0_5:
            assert not hasattr(compiled, name)
            continue
        if name == "torch_dtype":
            value = getattr(torch, value)
        if name == "on_device_sampling_config" and value is not None:
            assert value.items() <= vars(compiled.on_device_sampling_config).items()
        else:
            assert getattr(compiled, name) == value
    assert repr(values) == before, "NxDI sorts lists in place"


# --- the seam, and its stand-in ------------------------------------------------------------------------------------------


def fake(module: str) -> Any:
    """A module of tests/support/fake_sdk under a name of its own."""
    package = importlib.util.module_from_spec(
        importlib.machinery.ModuleSpec("fake_nxdi_mllama", None, is_package=True)  # for its relative import
    )
    package.__path__ = [str(FAKE / "models" / "mllama")]
    sys.modules.setdefault("fake_nxdi_mllama", package)
    name = "fake_nxdi_mllama" if "mllama/" in module else "fake_nxdi"
    spec = importlib.util.spec_from_file_location(f"{name}.{Path(module).stem}", FAKE / module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_the_stand_in_is_called_as_the_real_model_is():
    ours, theirs = fake("models/mllama/modeling_mllama.py"), mllama_module()
    base = import_nxdi("models.application_base").NeuronApplicationBase
    assert theirs.NeuronMllamaForCausalLM.compile is base.compile, "NxDI's mllama has a compile of its own now"
    # A later NxDI may take more, but what it takes more must have a default: 0.9 has disable_fail_fast.
    shared = parameters(ours.NeuronMllamaForCausalLM.compile)
    assert parameters(base.compile)[: len(shared)] == shared
    assert all(default is not inspect.Parameter.empty for _, _, default in parameters(base.compile)[len(shared) :])
    assert parameters(ours.NeuronMllamaForCausalLM.__init__) == parameters(base.__init__)
    config = import_nxdi("models.config")
    assert parameters(ours.MllamaInferenceConfig.__init__) == parameters(config.InferenceConfig.__init__)
    assert parameters(ours.MllamaInferenceConfig.save) == parameters(config.InferenceConfig.save)
    load = import_nxdi("utils.hf_adapter").load_pretrained_config
    assert parameters(fake("utils/hf_adapter.py").load_pretrained_config) == parameters(load)
    stand_ins = fake("models/config.py")
    for name in ("OnDeviceSamplingConfig", "MultimodalVisionNeuronConfig"):
        assert parameters(getattr(stand_ins, name).__init__) == parameters(getattr(config, name).__init__)
    assert hasattr(import_nxdi("models.mllama.modeling_mllama_vision"), "convert_aspect_ratios_to_ids")


def messages(file: Path) -> list[str]:
    """What a module logs at INFO, with {} where values stand."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logger.info":
            parts = [node.args[0]] if isinstance(node.args[0], ast.Constant) else getattr(node.args[0], "values", [])
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts))
    return found


@pytest.fixture(scope="module")
def upstream() -> list[str]:
    nxd, nxdi = Path(os.environ["NXD_SRC"]), Path(os.environ["NXDI_SRC"])
    return messages(nxd / "neuronx_distributed/trace/model_builder.py") + messages(
        nxdi / "neuronx_distributed_inference/models/application_base.py"
    )


def test_every_message_that_progress_is_read_from_is_one_of_upstreams(upstream):
    source = ast.parse(inspect.getsource(neuron_log))
    read = {
        constant.value
        for call in ast.walk(source)
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".startswith")
        for constant in ast.walk(call.args[0])
        if isinstance(constant, ast.Constant)
    }
    read |= {"Sharding weights on load", "Warming up the model"}
    read |= {"Loading presharded checkpoints"} if NXDI >= (0, 7) else set()
    assert len(read) >= 8
    for start in read:
        assert any(message.startswith(start) for message in upstream), start
    shards = [message.format(0, 31) for message in upstream if message.startswith("Sharding ") and "for ranks" in message]
    assert len(shards) == 1
    assert neuron_log._SHARDS.match(shards[0])


def test_the_stand_in_logs_what_upstream_logs(upstream):
    told = [text for text in messages(FAKE / "models/mllama/modeling_mllama.py") if NXDI >= (0, 7) or text not in FROM_0_7]
    assert len(told) > 10
    shapes = [re.escape(message).replace(r"\{\}", ".*") for message in upstream]
    for message in told:
        assert any(re.fullmatch(shape, message) for shape in shapes), message


def test_compiled_graphs_and_weights_are_counted_where_upstream_puts_them():
    builder = (Path(os.environ["NXD_SRC"]) / "neuronx_distributed/trace/model_builder.py").read_text()
    assert 'NEFF_FILE = "graph.neff"' in builder
    assert 'os.path.join(self.compiler_workdir, key, f"_tp0_bk{bucket_rank}")' in builder
    assert "_sharded_checkpoint.safetensors" in builder
    application = (Path(os.environ["NXDI_SRC"]) / "neuronx_distributed_inference/models/application_base.py").read_text()
    assert f'"{compile_job.WORK_DIR_VARIABLE}"' in application
    assert '"weights/"' in application


# --- the whole way -------------------------------------------------------------------------------------------------------


async def test_from_settings_to_an_answer_as_by_meta(settings, on_cpu, embedded, tokenizer, reference):
    tile, count = reference.eyes["image_size"], 8
    request = ask(tokenizer, "What is in this image?", image=picture(2 * tile, tile, 30))
    request = replace(request, sampling=replace(request.sampling, max_tokens=count))
    expected, _ = reference.greedy(request.prompt_ids, as_seen(reference, request.image), count)
    for _ in range(2):  # the second time, it is compiled
        *events, finish = await answered(settings, request)
        tokens = [event for event in events if isinstance(event, TokenEvent)]
        assert [token.token_id for token in tokens] == expected[: len(tokens)]
        assert isinstance(finish, FinishEvent)
        assert finish.reason == "end_of_turn" or len(tokens) == count
        assert tokens
        assert all(token.trace is not None for token in tokens)
    assert on_cpu == [embedded.resolve()], "compiled once"
