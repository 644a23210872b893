"""Every rule of a Neuron configuration is told in the first second: the key, its value, the rule and a value that works."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from mllama_demo.config.loader import load_settings
from mllama_demo.config.model_shape import PUBLISHED
from mllama_demo.config.neuron import (
    CORES,
    NOT_OPTIONS,
    InstanceType,
    NeuronOptions,
    OnDeviceSampling,
    default_buckets,
    first_problem,
)
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from tests.support.neuron_options import CONFIGS, TUTORIAL, load, refusal, write
from tests.support.paths import ROOT

LONG: dict[str, Any] = {"seq_len": 16384, "context_encoding_buckets": [1024, 2048, 16384], "token_generation_buckets": [16384]}


# --- the deployments that come with the demo -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_configuration_that_comes_with_the_demo_is_valid_for_its_model(file):
    settings = load_settings(["--config", str(file)], {})
    assert settings.backend == "neuron"
    assert first_problem(settings.neuron, PUBLISHED["11B" if "11b" in file.stem else "90B"]) is None
    assert ("11B" if "11b" in file.stem else "90B") in settings.model_path.name


def test_there_is_a_configuration_for_each_deployment():
    profiles = {
        "inf2-90b",
        "ray-2-trn1-90b",
        "ray-8-trn1-90b",
        "trn1-11b",
        "trn1-90b",
        "trn1-90b-16k",
        "trn1-90b-exploration",
        "trn2-90b",
    }
    assert {file.stem for file in CONFIGS} == profiles


def test_the_90b_configuration_has_the_tutorials_values_and_smaller_buckets(tmp_path):
    settings = load_settings(["--config", str(ROOT / "configs" / "trn1-90b.yaml")], {})
    options, tutorial = settings.neuron, load(tmp_path, TUTORIAL).neuron
    assert set(tutorial.context_encoding_buckets) < set(options.context_encoding_buckets)
    buckets = {"context_encoding_buckets": (256, 512, 1024, 2048), "token_generation_buckets": (512, 1024, 2048)}
    assert options == replace(tutorial, **buckets)
    assert (options.batch_size, options.seq_len, options.tensor_parallel_size) == (4, 2048, 32)
    assert (options.sequence_parallel_enabled, options.is_continuous_batching) == (False, True)
    assert options.on_device_sampling_config == OnDeviceSampling(global_topk=64, dynamic=True, deterministic=False)
    assert (options.max_context_length, options.dtype) == (2048, "bfloat16")


def test_the_exploration_configuration_samples_on_the_host():
    exploration, plain = (
        load_settings(["--config", str(ROOT / "configs" / f"trn1-90b{name}.yaml")], {}).neuron for name in ("-exploration", "")
    )
    assert exploration == replace(plain, on_device_sampling_config=None)


def test_a_neuron_configuration_can_be_tried_on_a_laptop():
    settings = load_settings(["--config", str(CONFIGS[0]), "--backend", "torch", "--tensor-parallel-size", "3"], {})
    assert settings.tensor_parallel_size == 3


# --- values from everywhere ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "in_yaml", "text", "value"),
    [
        ("sequence_parallel_enabled", "yes", "on", True),
        ("sequence_parallel_enabled", "'True'", "TRUE", True),
        ("is_continuous_batching", "no", "false", False),
        ("context_encoding_buckets", "[128, 256]", "128, 256", [128, 256]),
        ("token_generation_buckets", "[]", "", []),
        ("on_device_sampling_config", "none", "none", None),
        ("on_device_sampling_config", "null", "None", None),
        ("on_device_sampling_config", "{global_topk: 8}", '{"global_topk": 8}', OnDeviceSampling(global_topk=8)),
        (
            "on_device_sampling_config",
            "{dynamic: true, deterministic: yes}",
            '{"dynamic": true, "deterministic": true}',
            OnDeviceSampling(dynamic=True, deterministic=True),
        ),
        ("compiled_artifacts", "some/where", "some/where", Path("some/where")),
    ],
)
def test_a_value_means_the_same_in_yaml_and_on_the_command_line(tmp_path, name, in_yaml, text, value):
    file = tmp_path / "demo.yaml"
    file.write_text(f"{name}: {in_yaml}\n")
    flag = "--" + name.replace("_", "-")
    assert getattr(load_settings(["--config", str(file)], {}), name) == value
    assert getattr(load_settings([flag, text], {}), name) == value


@pytest.mark.parametrize(
    "value",
    [
        {"global_topk": 0},
        {"global_topk": True},
        {"global_topk": "64"},
        {"dynamic": False},
        {"topk": 64},
        64,
        True,
        "yes",
        [],
    ],
)
def test_a_sampling_configuration_of_another_form_says_which_is_right(tmp_path, value):
    message = refusal(tmp_path, {"on_device_sampling_config": value})
    assert message.startswith(
        "on_device_sampling_config must be none, or a mapping of global_topk (a whole number from 1), dynamic (true)"
    )


@pytest.mark.parametrize("value", [[True], [1.5], ["x"], 1024, {"a": 1}, [[1]]])
def test_buckets_that_are_no_lengths_are_refused(tmp_path, value):
    assert "context_encoding_buckets must be lengths" in refusal(tmp_path, {"context_encoding_buckets": value})


def test_buckets_that_are_not_set_are_the_tutorials():
    assert default_buckets(2048) == (1024, 2048)
    assert default_buckets(16384) == (1024, 2048, 16384)
    assert default_buckets(512) == (512,)
    assert Settings(seq_len=4096).neuron.token_generation_buckets == (1024, 2048, 4096)


# --- the rules -----------------------------------------------------------------------------------------------------------


BROKEN: list[tuple[dict[str, Any], str, str]] = [  # changes to the tutorial's values, the key at fault, the rule
    ({"instance_type": "inf2.48xlarge"}, "tensor_parallel_size", "inf2.48xlarge has 24 NeuronCores; 16 works"),
    ({"instance_type": "trn1.2xlarge"}, "tensor_parallel_size", "trn1.2xlarge has 2 NeuronCores; 2 works"),
    ({"instance_type": "inf2.24xlarge"}, "tensor_parallel_size", "inf2.24xlarge has 12 NeuronCores; 8 works"),
    ({"tensor_parallel_size": 64}, "tensor_parallel_size", "trn1.32xlarge has 32 NeuronCores; 32 works"),
    ({"tensor_parallel_size": 24}, "tensor_parallel_size", "it must be a power of two"),
    ({"tensor_parallel_size": 12}, "tensor_parallel_size", "8 works"),
    ({"device": "cpu"}, "device", "with backend neuron the model runs on NeuronCores; auto works"),
    ({"context_encoding_buckets": []}, "context_encoding_buckets", "there must be at least one; [1024, 2048] works"),
    ({"context_encoding_buckets": [2048, 1024]}, "context_encoding_buckets", "must ascend, with none twice; [1024, 2048] works"),
    ({"context_encoding_buckets": [1024, 1024]}, "context_encoding_buckets", "[1024] works"),
    ({"context_encoding_buckets": [1, 2048]}, "context_encoding_buckets", "a prompt of one token counts as a decode step"),
    ({"context_encoding_buckets": [-5]}, "context_encoding_buckets", "[2] works"),
    ({"context_encoding_buckets": [1024, 4096]}, "context_encoding_buckets", "longer than seq_len, 2048; [1024, 2048] works"),
    (
        {"token_generation_buckets": [1024]},
        "token_generation_buckets",
        "the largest must equal seq_len, 2048; [1024, 2048] works",
    ),
    ({"token_generation_buckets": [1024, 4096]}, "token_generation_buckets", "must equal seq_len, 2048; [1024, 2048] works"),
    ({"token_generation_buckets": [2048, 1024]}, "token_generation_buckets", "must ascend"),
    ({"seq_len": 1000, "token_generation_buckets": None}, "context_encoding_buckets", "longer than seq_len, 1000; [1000] works"),
    ({"batch_size": 5}, "batch_size", "NxDI supports at most 4 slots for this model; 4 works"),
    (
        {"model_path": "/nowhere/11B", "seq_len": 32768, "token_generation_buckets": [32768]},
        "batch_size",
        "device memory has room for one slot when seq_len is above 16384; 1 works",
    ),
    (
        LONG | {"context_encoding_buckets": [512, 1024, 2048, 16384]},
        "context_encoding_buckets",
        "at seq_len 16384 several slots leave room for three buckets; [1024, 2048, 16384] works",
    ),
    (
        LONG | {"token_generation_buckets": [512, 1024, 2048, 16384]},
        "token_generation_buckets",
        "at seq_len 16384 several slots leave room for three buckets; [1024, 2048, 16384] works",
    ),
    ({"is_continuous_batching": False}, "is_continuous_batching", "4 slots are filled one by one, which needs it; true works"),
    (
        {"sequence_parallel_enabled": True, "context_encoding_buckets": [1000, 2048]},
        "context_encoding_buckets",
        "cuts each of them into tensor_parallel_size, 32, equal parts; [1024, 2048] works",
    ),
]


@pytest.mark.parametrize(("changes", "key", "rule"), BROKEN)
def test_a_broken_rule_names_the_key_its_value_where_it_is_from_and_a_value_that_works(tmp_path, changes, key, rule):
    options = TUTORIAL | changes
    file = tmp_path / "demo.yaml"
    message = refusal(tmp_path, options)
    value = json.dumps(options.get(key)) if not isinstance(options[key], str) else options[key]
    if key != "on_device_sampling_config":
        assert message.startswith(f"{key} is {value} (from {file}), but ")
    assert message.startswith(f"{key} is ")
    assert rule in message
    settings = Settings(**options)
    problem = first_problem(settings.neuron)
    assert problem is not None
    load(tmp_path, options | {key: problem.works})  # and what is proposed does work


def test_a_broken_rule_names_the_layer_that_broke_it(tmp_path):
    file = write(tmp_path, TUTORIAL)
    argv = ["--config", str(file)]
    with pytest.raises(ConfigError, match=r"batch_size is 8 \(from --batch-size on the command line\), but"):
        load_settings([*argv, "--batch-size", "8"], {})
    with pytest.raises(ConfigError, match=r"batch_size is 8 \(from environment variable MLLAMA_DEMO_BATCH_SIZE\), but"):
        load_settings(argv, {"MLLAMA_DEMO_BATCH_SIZE": "8"})
    with pytest.raises(ConfigError, match=r"tensor_parallel_size is 32 \(the default\), but inf2.xlarge has 2 NeuronCores"):
        load_settings(["--backend", "neuron", "--instance-type", "inf2.xlarge", "--model-path", str(tmp_path)], {})


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 1, "is_continuous_batching": False},
        {"batch_size": 3},
        {"tensor_parallel_size": 1},
        {"context_encoding_buckets": [512]},
        {"sequence_parallel_enabled": True},
        {"on_device_sampling_config": None},
        LONG,
        LONG | {"batch_size": 1, "context_encoding_buckets": [512, 1024, 2048, 4096, 16384]},
        {"model_path": "/nowhere/11B", "seq_len": 131072, "batch_size": 1, "token_generation_buckets": [131072]},
        {"instance_type": "inf2.48xlarge", "tensor_parallel_size": 16},
    ],
)
def test_what_breaks_no_rule_is_accepted(tmp_path, changes):
    assert load(tmp_path, TUTORIAL | changes).backend == "neuron"


@pytest.mark.parametrize("key", NOT_OPTIONS)
def test_an_option_of_nxdi_or_vllm_that_is_none_here_says_why(tmp_path, key):
    message = refusal(tmp_path, TUTORIAL | {key: 1})
    assert (
        message == f"The configuration file {tmp_path / 'demo.yaml'} has the key {key}, which is no option: {NOT_OPTIONS[key]}."
    )
    assert key not in Settings.model_fields


def test_the_known_instances_are_those_that_can_be_named():
    assert tuple(CORES) == get_args(InstanceType)


# --- the program ---------------------------------------------------------------------------------------------------------


def test_a_configuration_for_the_wrong_instance_ends_the_program_before_anything_heavy_is_imported(tmp_path):
    file = write(tmp_path, TUTORIAL | {"instance_type": "inf2.48xlarge"})
    code = (
        "import sys\nfrom mllama_demo.cli import main\n"
        f"code = main(['serve', '--config', {str(file)!r}])\n"
        "print(code, [m for m in ('torch', 'transformers', 'gradio', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "2 []\n"
    assert done.stderr.startswith(f"mllama-demo: tensor_parallel_size is 32 (from {file}), but inf2.48xlarge has 24 NeuronCores")
    assert done.stderr.count("\n") == 1


def test_the_options_are_complete_and_frozen():
    options = Settings(backend="neuron").neuron
    assert isinstance(options, NeuronOptions)
    with pytest.raises(AttributeError):
        options.seq_len = 1  # pyright: ignore[reportAttributeAccessIssue]
