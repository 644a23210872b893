"""Translates the demo's Neuron options into engine arguments, environment variables and server flags of vLLM.

vLLM for Neuron has two generations. The legacy fork (0.6 to 0.9) serves Llama 3.2 Vision and takes the arguments
override_neuron_config and device. The V1 plugin (vLLM 0.11 and later) takes the same overrides inside additional_config and does
not serve this model. Both run models with NxDI, AWS's library NeuronX Distributed Inference. This module imports neither vLLM nor
the Neuron SDK.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from mllama_demo.config.neuron import SCRATCHPAD_PAGE_MIB
from mllama_demo.config.settings import Settings
from mllama_demo.engine.neuron.config import neuron_values
from mllama_demo.engine.vllm.corrections import VERSION
from mllama_demo.errors import ConfigError

Generation = Literal["legacy", "v1"]  # of vLLM for Neuron
# The keys of override_neuron_config in AWS's tutorial. vLLM derives NxDI's other values from its own arguments.
_TUTORIAL_KEYS = (
    "context_encoding_buckets",
    "token_generation_buckets",
    "sequence_parallel_enabled",
    "is_continuous_batching",
    "on_device_sampling_config",
)
RPC_TIMEOUT_MS = 180_000  # AWS recommends 3 minutes; vLLM's default of 10 s is shorter than a first prefill


def neuron_overrides(settings: Settings) -> dict[str, Any]:
    """Returns the value of override_neuron_config: NxDI's values that vLLM must not choose itself. All are JSON values."""
    values = neuron_values(settings.neuron)
    overrides = {key: values[key] for key in _TUTORIAL_KEYS}
    if values["max_context_length"] != values["seq_len"]:  # vLLM's own choice is seq_len
        overrides["max_context_length"] = values["max_context_length"]
    if values["fused_qkv"]:  # false by default in NxDI and, like every other key, taken over by vLLM
        overrides["fused_qkv"] = True
    return overrides


def engine_arguments(settings: Settings, generation: Generation = "legacy") -> dict[str, Any]:
    """Returns the keyword arguments of vllm.LLM, in the order of AWS's tutorial. All are JSON values.

    dtype is left out when it is "auto", because vLLM then takes the dtype of the checkpoint.
    """
    options = settings.neuron
    arguments: dict[str, Any] = {
        "model": str(settings.model_path),
        "tensor_parallel_size": options.tensor_parallel_size,
        "max_model_len": options.seq_len,
        "max_num_seqs": options.batch_size,
    }
    if settings.dtype != "auto":
        arguments["dtype"] = settings.dtype
    if generation == "legacy":
        # One block holds the whole sequence of a slot, because the cache on the device is contiguous.
        return arguments | {
            "block_size": options.seq_len,
            "device": "neuron",
            "override_neuron_config": neuron_overrides(settings),
        }
    return arguments | {
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
        "additional_config": {"override_neuron_config": neuron_overrides(settings)},
    }


def engine_environment(settings: Settings, generation: Generation = "legacy") -> dict[str, str]:
    """Returns the environment variables for the process that runs the engine: this process or the process of a vLLM server."""
    variables = {"NEURON_SCRATCHPAD_PAGE_SIZE": str(SCRATCHPAD_PAGE_MIB)}
    if generation == "legacy":
        # The fork runs models with NxDI or with transformers-neuronx. This variable decides if both are installed.
        variables = {"VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference", **variables}
    # vLLM loads any compiled model in this folder without a check, so each configuration has its own folder. A model that was
    # compiled without the corrections is another one.
    configuration = json.dumps([engine_arguments(settings, generation), VERSION], sort_keys=True)
    name = f"vllm-{hashlib.sha256(configuration.encode()).hexdigest()[:12]}"
    root = settings.compiled_artifacts or settings.model_path / "neuron-compiled-artifacts"
    if not isinstance(root, Path):
        raise ConfigError(f"compiled_artifacts is {root}, which vLLM cannot read; name a folder of this machine.")
    return variables | {"NEURON_COMPILED_ARTIFACTS": str(root.absolute() / name)}


def server_environment(settings: Settings, generation: Generation = "legacy") -> dict[str, str]:
    """Returns engine_environment and the timeout of a vLLM server. The server's front end waits so long for its engine."""
    return engine_environment(settings, generation) | {"VLLM_RPC_TIMEOUT": str(RPC_TIMEOUT_MS)}


def server_flags(settings: Settings, generation: Generation = "legacy") -> list[str]:
    """Returns engine_arguments as flags of vllm.entrypoints.openai.api_server.

    block_size is left out. The legacy fork's parser refuses a block size as large as Neuron needs, and the server sets block_size
    itself.
    """
    flags: list[str] = []
    for name, value in engine_arguments(settings, generation).items():
        if name == "block_size":
            continue
        flag = "--" + name.replace("_", "-")
        if value is False:  # vLLM's parser takes --no-NAME instead of a value
            flags.append(flag.replace("--", "--no-", 1))
        else:
            flags += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags
