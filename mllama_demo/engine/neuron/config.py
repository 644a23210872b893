"""Translates the demo's Neuron options into NxDI's configuration. No other module knows both sets of names.

neuron_values returns JSON values only, so that they can be printed, hashed and sent to another process.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from mllama_demo.config.neuron import SCRATCHPAD_PAGE_MIB, NeuronOptions


def neuron_values(options: NeuronOptions) -> dict[str, Any]:
    """Returns the keyword arguments of NxDI's MultimodalVisionNeuronConfig.

    Values that a compiled model depends on are listed even where they are NxDI's defaults, because a later default may differ.
    """
    sampling = options.on_device_sampling_config
    return {
        "tp_degree": options.tensor_parallel_size,
        "torch_dtype": options.dtype,
        # A prefill reads the prompt of one slot; a decode step runs all slots.
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
        "fused_qkv": options.fused_qkv,
        "logical_nc_config": options.chip.physical,
        "on_device_sampling_config": None if sampling is None else sampling.model_dump(),
        "output_logits": False,
        "async_mode": False,
        # NxDI compiles this model for this size whatever the value is. The value tells the runtime the size at loading.
        "scratchpad_page_size": SCRATCHPAD_PAGE_MIB,
        # Shards the weights once when compiling, instead of at every start.
        "save_sharded_checkpoint": True,
    }


def inference_config(model_path: Path, values: dict[str, Any]) -> Any:
    """Returns NxDI's MllamaInferenceConfig for a checkpoint and neuron_values. Raises ConfigError without the Neuron SDK."""
    from mllama_demo.engine.neuron.sdk import import_nxdi, mllama_module

    mllama, config = mllama_module(), import_nxdi("models.config")
    values = copy.deepcopy(values)  # NxDI 0.9 sorts the buckets in place
    if values["on_device_sampling_config"] is not None:
        values["on_device_sampling_config"] = config.OnDeviceSamplingConfig(**values["on_device_sampling_config"])
    page_size = values.pop("scratchpad_page_size")
    neuron_config = config.MultimodalVisionNeuronConfig(**values)
    # As a keyword, NxDI 0.5 and 0.6 read it and warn that they do not know it. NxDI 0.4 has no such attribute: NeuronRunner.load
    # tells the runtime.
    if hasattr(neuron_config, "scratchpad_page_size"):
        neuron_config.scratchpad_page_size = page_size
    load_config = import_nxdi("utils.hf_adapter").load_pretrained_config(str(model_path))
    return mllama.MllamaInferenceConfig(neuron_config, load_config=load_config)
