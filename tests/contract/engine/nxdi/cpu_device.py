"""NxDI's real model code on a CPU, shaped like the device it is compiled for.

A compiled graph is chosen by the exact list of input shapes, dtypes are insisted on, and the caches live in the device,
shared by all graphs. Proves the calling contract and the maths, with one process for each core; nothing about compiled behaviour.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from mllama_demo.engine.neuron.sdk import import_nxdi, mllama_module
from tests.contract.engine.nxdi import neuron_stubs


def set_up(sources: list[str], cores: int = 1, rank: int = 0, store: Path | None = None) -> None:
    """Makes NxD and NxDI importable from their source folders, in a group of processes that each stand for a core.

    Args:
        cores: the processes of the group.
        rank: the number of this one.
        store: a file that does not exist yet, for the processes to find each other; needed for several.
    """
    os.environ["NXD_CPU_MODE"] = "1"
    make_importable(sources)
    from neuronx_distributed.parallel_layers import parallel_state

    meeting = torch.distributed.HashStore() if store is None else torch.distributed.FileStore(str(store), cores)
    torch.distributed.init_process_group("gloo", store=meeting, rank=rank, world_size=cores)
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=cores, skip_collective_init=True)
    # What is "on neuron" keeps its caches to itself and hands out tokens or logits only.
    wrapper = import_nxdi("models.model_wrapper").ModelWrapper
    wrapper.is_neuron = lambda self: isinstance(self.model, CpuDevice)


def make_importable(sources: list[str]) -> None:
    """Makes NxD and NxDI importable from their source folders."""
    sys.path[:0] = sources
    os.environ["NEURON_PLATFORM_TARGET_OVERRIDE"] = neuron_stubs.PLATFORM
    neuron_stubs.install()
    logging.getLogger("Neuron").setLevel(logging.ERROR)  # it warns at every layer that one core shares nothing


class XlaIsHere(TorchFunctionMode):
    """The vision model sends one tensor to the device by name while it is traced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.to and args[1:] and isinstance(args[1], str) and args[1] == "xla":
            return args[0]
        return func(*args, **(kwargs or {}))


class CpuDevice:
    """In the place of a loaded model. calls: (graph, bucket, input tensors) of every forward."""

    def __init__(self) -> None:
        self._graphs: dict[str, tuple[Any, int, list[torch.dtype]]] = {}
        self._instances: dict[str, Any] = {}
        self.calls: list[tuple[str, int, list[torch.Tensor]]] = []

    def add(self, tag: str, instance: Any, example_inputs: list[Any]) -> None:
        self._instances[tag] = instance
        for bucket, example in enumerate(example_inputs):
            self._graphs[_shapes(example)] = (tag, bucket, [t.dtype for t in example])

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        if _shapes(inputs) not in self._graphs:
            raise ValueError(f"Input shape {_shapes(inputs)} not found among {list(self._graphs)}")
        tag, bucket, dtypes = self._graphs[_shapes(inputs)]
        assert [t.dtype for t in inputs] == dtypes, f"{tag} was compiled for {dtypes}"
        self.calls.append((tag, bucket, [t.clone() for t in inputs]))
        module, aliases = self._instances[tag].get(bucket)
        with torch.no_grad(), XlaIsHere():
            outputs = module(*[t.clone() for t in inputs])
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for parameter, index in list(aliases.items()):
            for instance in self._instances.values():  # one buffer for all graphs
                instance.module.get_parameter(names[id(parameter)]).data = outputs[index]
        return outputs[0]


def _shapes(inputs: Any) -> str:
    return str([list(t.shape) for t in inputs])


def make_model(
    path: Path,
    *,
    slots: int = 4,
    seq_len: int = 192,
    context_buckets: tuple[int, ...] = (64, 128),
    token_buckets: tuple[int, ...] = (96, 192),
    **neuron_settings: Any,
) -> Any:
    """NxDI's model over the checkpoint in `path`, configured as on the device but in float32, not loaded yet."""
    mllama, config = mllama_module(), import_nxdi("models.config")
    neuron_config = config.MultimodalVisionNeuronConfig(
        **{
            "batch_size": slots,
            "ctx_batch_size": 1,
            "seq_len": seq_len,
            "max_context_length": context_buckets[-1],
            "context_encoding_buckets": list(context_buckets),
            "token_generation_buckets": list(token_buckets),
            "is_continuous_batching": True,
            "enable_bucketing": True,
            "torch_dtype": torch.float32,
            "tp_degree": torch.distributed.get_world_size(),
            "on_cpu": True,
            **neuron_settings,
        }
    )
    load_config = import_nxdi("utils.hf_adapter").load_pretrained_config(str(path))
    return mllama.NeuronMllamaForCausalLM(str(path), mllama.MllamaInferenceConfig(neuron_config, load_config=load_config))


def load(model: Any) -> None:
    """In the place of model.load(): builds NxDI's own module for every graph and gives it this core's part of the weights."""
    from neuronx_distributed.trace.trace import get_sharded_checkpoint

    weights = model.checkpoint_loader_fn()
    rank, cores = torch.distributed.get_rank(), torch.distributed.get_world_size()

    def own_part(module: Any) -> dict[str, torch.Tensor]:
        own = {name: tensor.clone() for name, tensor in weights.items()}
        get_sharded_checkpoint(own, module, rank, cores)
        return own

    model.traced_model = device = CpuDevice()
    fill(device, model, own_part)
    for wrapper in model.models:
        wrapper._modules.pop("model", None)
        wrapper.__dict__["model"] = device  # a plain object; torch would want a module
    model.is_loaded_to_neuron = True


def fill(device: CpuDevice, model: Any, own_part: Callable[[Any], dict[str, torch.Tensor]]) -> None:
    """Builds NxDI's module for every graph. own_part: gives this core's part of the weights of a module."""
    rank = torch.distributed.get_rank()
    for wrapper in model.models:
        instance = wrapper.get_model_instance()
        instance.load_module()
        own = own_part(instance.module)
        missing, unexpected = instance.module.load_state_dict(own, strict=False)
        numbers = [name for name in missing if name.endswith(("rank_util.rank", "global_rank.rank"))]  # of the core
        for name in numbers:
            instance.module.get_parameter(name).data.fill_(rank)
        lost = [name for name in missing if "key_values" not in name and name not in numbers]
        assert [*lost, *unexpected] == []
        instance.module.eval()
        instance.get(0)
        device.add(wrapper.tag, instance, wrapper.input_generator())
