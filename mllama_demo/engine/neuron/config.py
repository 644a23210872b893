"""From the demo's Neuron options to NxDI's configuration objects: the one place where the two vocabularies meet.

neuron_values is pure and made of JSON alone, so that it can be printed, compared and sent to another process.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mllama_demo.config.neuron import NeuronOptions


def neuron_values(options: NeuronOptions) -> dict[str, Any]:
    """The keyword arguments of NxDI's MultimodalVisionNeuronConfig, by its names. What must not change under a model that is
    loaded later is said even where it is NxDI's default today."""
    sampling = options.on_device_sampling_config
    return {
        "tp_degree": options.tensor_parallel_size,
        "torch_dtype": options.dtype,
        # Prompts are read one slot at a time, and all slots decode together.
        "batch_size": options.batch_size,
        "ctx_batch_size": 1,
        "tkg_batch_size": options.batch_size,
        "max_batch_size": options.batch_size,
        "is_continuous_batching": options.is_continuous_batching,
        "seq_len": options.seq_len,
        "max_context_length": options.max_context_length,
        "enable_bucketing": True,
        "context_encoding_buckets": list(options.context_encoding_buckets),
        "token_generation_buckets": list(options.token_generation_buckets),
        "padding_side": "right",
        "sequence_parallel_enabled": options.sequence_parallel_enabled,
        "on_device_sampling_config": None if sampling is None else sampling.model_dump(),
        "output_logits": False,
        "async_mode": False,
        # The compiler is told this size whatever stands here; with it, loading tells the runtime the same.
        "scratchpad_page_size": options.scratchpad_page_size,
        # Cutting the weights for the cores once, instead of at every start.
        "save_sharded_checkpoint": True,
    }


def inference_config(model_path: Path, values: dict[str, Any]) -> Any:
    """NxDI's MllamaInferenceConfig for the checkpoint. Raises ConfigError where there is no Neuron SDK."""
    from mllama_demo.engine.neuron.sdk import import_nxdi, mllama_module

    mllama, config = mllama_module(), import_nxdi("models.config")
    values = copy.deepcopy(values)  # NxDI sorts the buckets in place
    if values["on_device_sampling_config"] is not None:
        values["on_device_sampling_config"] = config.OnDeviceSamplingConfig(**values["on_device_sampling_config"])
    load_config = import_nxdi("utils.hf_adapter").load_pretrained_config(str(model_path))
    return mllama.MllamaInferenceConfig(config.MultimodalVisionNeuronConfig(**values), load_config=load_config)
