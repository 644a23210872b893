# pyright: reportMissingImports=false
"""What backend vllm hands to vLLM, against the signatures read from the source of the Neuron fork's three generations, and
against a vLLM that is installed, where there is one."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
from typing import Any

import pytest
from PIL import Image

from mllama_demo.config.loader import load_settings
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.vllm.arguments import engine_arguments
from mllama_demo.engine.vllm.engine import VllmFork, engine_prompt, sampling_values
from mllama_demo.sampling import SamplingParams
from tests.support.paths import ROOT

RECORDED = sorted((ROOT / "tests" / "contract" / "data").glob("vllm_neuron_*.json"))
# SAMPLING_PARAMS of the tutorial.
TUTORIAL = [(1, 1.0, 1.0, 256), (1, 0.9, 1.0, 256), (10, 0.9, 0.5, 512), (10, 0.75, 0.5, 1024)]


@pytest.fixture(params=RECORDED, ids=lambda path: path.stem)
def fork(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text())


@pytest.fixture(scope="module")
def arguments() -> dict[str, Any]:
    """Of the tutorial's configuration."""
    return engine_arguments(load_settings(["--config", str(ROOT / "configs" / "trn1-90b.yaml"), "--backend", "vllm"], {}))


def test_three_generations_are_recorded_with_where_they_are_from() -> None:
    records = [json.loads(path.read_text()) for path in RECORDED]
    assert len(records) == 3
    for record in records:
        assert record["repository"] == "aws-neuron/upstreaming-to-vllm"
        assert len(record["commit"]) == 40


def test_every_engine_argument_is_one_the_fork_has(fork, arguments) -> None:
    assert {*arguments, "disable_log_requests"} <= set(fork["AsyncEngineArgs"])


def test_the_engine_arguments_are_those_of_the_tutorial(arguments) -> None:
    assert arguments == {
        "model": "/home/ubuntu/model_hf/Llama-3.2-90B-Vision-Instruct-hf",
        "max_num_seqs": 4,
        "max_model_len": 2048,
        "block_size": 2048,
        "device": "neuron",
        "tensor_parallel_size": 32,
        "override_neuron_config": {
            "context_encoding_buckets": [256, 512, 1024, 2048],  # the tutorial has 1024 and 2048
            "token_generation_buckets": [512, 1024, 2048],
            "sequence_parallel_enabled": False,
            "is_continuous_batching": True,
            "on_device_sampling_config": {"global_topk": 64, "dynamic": True, "deterministic": False},
        },
    }


def test_the_sampling_values_are_ones_the_fork_has_and_mean_what_the_tutorial_means(fork) -> None:
    for top_k, temperature, top_p, max_tokens in TUTORIAL:
        values = sampling_values(SamplingParams(temperature, top_p, top_k, max_tokens, seed=1), 64, [9, 3])
        assert set(values) <= set(fork["SamplingParams"])
        assert (values["top_k"], values["max_tokens"]) == (top_k, max_tokens)
        assert values["stop_token_ids"] == [3, 9]
        if top_k > 1:  # of one candidate, the others change nothing
            assert (values["temperature"], values["top_p"]) == (temperature, top_p)


@pytest.mark.parametrize("empty_image", [True, False])
@pytest.mark.parametrize("image", [None, Image.new("RGB", (8, 8))], ids=["text", "image"])
def test_a_prompt_has_only_keys_that_the_fork_reads(fork, image, empty_image) -> None:
    prompt = engine_prompt(GenerationRequest((1, 2, 3)), VllmFork(empty_image), image)
    assert set(prompt) <= set(fork["TokensPrompt"])
    assert prompt["prompt_token_ids"] == [1, 2, 3]
    assert ("multi_modal_data" in prompt) == (image is not None or empty_image)


def test_generate_abort_and_their_outputs_are_called_what_the_backend_calls_them(fork) -> None:
    engine = fork["AsyncLLMEngine"]
    # The first is called inputs or prompt, so that the backend gives all three by position.
    assert [len(engine["generate"]["required"]), engine["generate"]["required"][1:]] == [3, ["sampling_params", "request_id"]]
    assert engine["abort"]["required"] == ["request_id"]
    assert engine["from_engine_args"]["required"] == ["engine_args"]
    assert {"outputs", "finished"} <= set(fork["RequestOutput"])
    assert "token_ids" in fork["CompletionOutput"]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here")
def test_an_installed_vllm_takes_them(arguments) -> None:
    import vllm

    assert {*arguments, "disable_log_requests"} <= {field.name for field in dataclasses.fields(vllm.AsyncEngineArgs)}
    for top_k, temperature, top_p, max_tokens in TUTORIAL:
        vllm.SamplingParams(**sampling_values(SamplingParams(temperature, top_p, top_k, max_tokens), 64, [9]))
    inspect.signature(vllm.AsyncLLMEngine.generate).bind(None, {}, None, "id")
    inspect.signature(vllm.AsyncLLMEngine.abort).bind(None, "id")
