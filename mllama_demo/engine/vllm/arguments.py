"""From the demo's Neuron options to vLLM's: the arguments of its engine, its environment, and those of its server.

There are two generations of vLLM for Neuron. The legacy fork (0.6 to 0.9) serves Llama 3.2 Vision and takes
override_neuron_config and device; the V1 plugin takes the same overrides inside additional_config, and does not serve this
model. Pure: imports neither vLLM nor the Neuron SDK. The values come from neuron_values, as NxDI's own configuration does.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from mllama_demo.config.settings import Settings
from mllama_demo.engine.neuron.config import neuron_values

Generation = Literal["legacy", "v1"]
# AWS's tutorial names these; whatever else NxDI must know, vLLM derives from its own arguments.
_OVERRIDES = (
    "context_encoding_buckets",
    "token_generation_buckets",
    "sequence_parallel_enabled",
    "is_continuous_batching",
    "on_device_sampling_config",
)
RPC_TIMEOUT_MS = 180_000  # AWS's advice; vLLM's default of 10 s is shorter than a cold prefill


def neuron_overrides(settings: Settings) -> dict[str, Any]:
    """What vLLM would choose differently for NxDI by itself; JSON values only."""
    values = neuron_values(settings.neuron)
    overrides = {key: values[key] for key in _OVERRIDES}
    if values["max_context_length"] != values["seq_len"]:  # vLLM compiles for prompts as long as the context
        overrides["max_context_length"] = values["max_context_length"]
    return overrides


def engine_arguments(settings: Settings, generation: Generation = "legacy") -> dict[str, Any]:
    """The keyword arguments of vllm.LLM, in the order of the tutorial; JSON values only.

    dtype is there only where the configuration names one: vLLM's own choice is that of the checkpoint.
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
        # One block holds a whole slot: the cache on the device is contiguous.
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
    """The environment variables that an engine with engine_arguments needs, in this process or in a server's."""
    variables = {"NEURON_SCRATCHPAD_PAGE_SIZE": str(settings.neuron.scratchpad_page_size)}
    if generation == "legacy":  # which of two libraries it uses depends on this where both are installed
        variables = {"VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference", **variables}
    if settings.compiled_artifacts is not None:
        # vLLM loads whatever lies in the folder of this name, so that each configuration needs one of its own.
        made_of = json.dumps(engine_arguments(settings, generation), sort_keys=True)
        name = f"vllm-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
        variables["NEURON_COMPILED_ARTIFACTS"] = str(settings.compiled_artifacts.absolute() / name)
    return variables


def server_environment(settings: Settings, generation: Generation = "legacy") -> dict[str, str]:
    """The same for a server: its front waits for its engine, and the default wait is shorter than a long prefill."""
    return engine_environment(settings, generation) | {"VLLM_RPC_TIMEOUT": str(RPC_TIMEOUT_MS)}


def server_flags(settings: Settings, generation: Generation = "legacy") -> list[str]:
    """engine_arguments as flags of vllm.entrypoints.openai.api_server. A server of the legacy fork sets its block size itself,
    and its own parser refuses one as large as Neuron needs."""
    flags: list[str] = []
    for name, value in engine_arguments(settings, generation).items():
        flag = "--" + name.replace("_", "-")
        if name == "block_size":
            continue
        if value is False:
            flags.append(flag.replace("--", "--no-", 1))
        else:
            flags += [flag, json.dumps(value) if isinstance(value, dict) else str(value)]
    return flags
