"""Loads a checkpoint in the published Hugging Face layout into transformers' model, tensor by tensor, and quantizes it if asked.

Memory: besides the model, one tensor of the checkpoint at a time. A weight is quantized as soon as it is read, so that the model
in full precision is never in memory.

The linear layers of the loaded model:

- Without quantization, all are nn.Linear with weights of the asked dtype.
- With quantization, those of the text model and the output layer are modules that replace nn.Linear and have no attribute
  `weight` (quantized.OnnxLinear on a CPU, quantized.ExpandingLinear elsewhere). The output layer has 8 bits, also when the others
  have 4. The vision encoder and the projector keep the numbers of the checkpoint: as quantized.StoredLinear on a CPU, if the
  checkpoint has a smaller type than the asked dtype, else as nn.Linear. The same holds for the embeddings.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import nn
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.modeling_mllama import MllamaRotaryEmbedding

from mllama_demo.engine.torch.quantized import SMALLEST_BLOCK, StoredEmbedding, StoredLinear, quantize, quantized_linear
from mllama_demo.errors import CheckpointError

Quantization = Literal["none", "int8", "int4"]
Report = Callable[[int, int], None]  # takes how many bytes of the checkpoint are loaded, and how many there are
_INDEX = "model.safetensors.index.json"
_BITS = {"int8": 8, "int4": 4}
_OUTPUT_BITS = 8  # of the output layer
_OUTPUT = "lm_head"
_TEXT = ("model.language_model.", _OUTPUT)
_LARGE = 2**24  # bytes


def load_model(
    path: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantization: Quantization = "none",
    report: Report = lambda done, total: None,
) -> MllamaForConditionalGeneration:
    """Loads a checkpoint folder. Never downloads.

    Args:
        dtype: In which the model computes, and the type of the weights that are not quantized. On a CPU with quantization it must
            be float32.

    Raises:
        CheckpointError: The weights lack a tensor, or a tensor has another shape than config.json says.
    """
    config: Any = MllamaConfig.from_pretrained(path, local_files_only=True)
    # transformers 4 would make one parameter of the embeddings and the output layer. The checkpoint has both.
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    with torch.device("meta"):
        model = _arranged(MllamaForConditionalGeneration(config))
    text = model.model.language_model
    text.rotary_emb = MllamaRotaryEmbedding(text.config).to(device)  # computed from config.json, not in the weights
    builder = _Builder(model, path, torch.device(device), dtype, quantization)
    files = _weight_files(path)
    total, done = sum(file.stat().st_size for file in files), 0
    for file in files:
        at = done
        for name, tensor in _tensors(file):
            builder.place(_module_name(name), tensor)
            at += tensor.nbytes
            report(at, total)
            del tensor
        done += file.stat().st_size
        report(done, total)
    builder.finish()
    return model.eval()


def _arranged(model: Any) -> MllamaForConditionalGeneration:
    """Puts the parts of the model where transformers has them since 4.52. SDK 2.24 to 2.26 have transformers 4.51."""
    if not hasattr(model, "model"):
        model.model, model.lm_head = nn.Module(), model.language_model.lm_head
        model.model.language_model = model.language_model.model
        del model.language_model
        for name in ("vision_model", "multi_modal_projector"):
            setattr(model.model, name, getattr(model, name))
            delattr(model, name)
    return model


class _Builder:
    """Puts tensors into a model on the meta device."""

    def __init__(
        self,
        model: MllamaForConditionalGeneration,
        path: Path,
        device: torch.device,
        dtype: torch.dtype,
        quantization: Quantization,
    ) -> None:
        self._model, self._path, self._device, self._dtype, self._quantization = model, path, device, dtype, quantization
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._missing = set(self._shapes)
        self._store = quantization != "none" and device.type == "cpu"

    def place(self, name: str, tensor: torch.Tensor) -> None:
        """Puts in the tensor of a parameter. A tensor that the model has no parameter for is ignored, as by transformers."""
        if name not in self._missing:
            return
        if tensor.shape != self._shapes[name]:
            raise CheckpointError(
                f"The weights in {self._path} have the tensor {name} of the shape {list(tensor.shape)}, but config.json asks for "
                f"{list(self._shapes[name])}; download both again from one place."
            )
        self._missing.remove(name)
        owner, _, leaf = name.rpartition(".")
        module = self._model.get_submodule(owner)
        if self._quantization != "none" and name.startswith(_TEXT) and isinstance(module, nn.Linear):
            self._replace(owner, self._quantized(owner, tensor))
            return
        if self._store and tensor.element_size() < self._dtype.itemsize:
            if isinstance(module, nn.Embedding):
                module = self._replace(owner, StoredEmbedding(self._dtype))
            elif isinstance(module, nn.Linear):
                module = self._replace(owner, StoredLinear(module.bias is not None))
        if isinstance(module, StoredEmbedding):
            # Stays a view of the mapped file: the rows of rare tokens never take memory.
            module.register_buffer(leaf, tensor)
        elif isinstance(module, StoredLinear):
            module.register_buffer(leaf, tensor.clone())
        else:
            whole = tensor.to(self._device, self._dtype, copy=True)
            module.register_parameter(leaf, nn.Parameter(whole, requires_grad=False))

    def finish(self) -> None:
        """Raises CheckpointError if a tensor was missing."""
        if self._missing:
            some = sorted(self._missing)[0]
            raise CheckpointError(f"The weights in {self._path} lack the tensor {some}; download the whole checkpoint again.")

    def _replace(self, name: str, module: nn.Module) -> nn.Module:
        self._model.set_submodule(name, module)
        return module

    def _quantized(self, name: str, tensor: torch.Tensor) -> nn.Module:
        if tensor.shape[1] % SMALLEST_BLOCK:
            raise CheckpointError(
                f"The layer {name} in {self._path} has {tensor.shape[1]} inputs, which is no multiple of {SMALLEST_BLOCK}; "
                "set quantization to none."
            )
        bits = _OUTPUT_BITS if name == _OUTPUT else _BITS[self._quantization]
        layer = quantized_linear(quantize(tensor.to(self._device), bits), self._device)
        if tensor.nbytes > _LARGE:
            _return_freed_memory()
        return layer


def _weight_files(path: Path) -> list[Path]:
    if (path / "model.safetensors").exists():
        return [path / "model.safetensors"]
    placed = json.loads((path / _INDEX).read_bytes())["weight_map"]
    return [path / name for name in sorted(set(placed.values()))]


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a file, in its order.

    Each is a view of a mapping of the file that ends with the tensor. One mapping for all tensors would count as memory of the
    process to the end.
    """
    with safe_open(file, "pt") as whole:
        names = whole.offset_keys()
    for name in names:
        with safe_open(file, "pt") as mapped:
            yield name, mapped.get_tensor(name)


def _module_name(name: str) -> str:
    """The name in transformers 4.52 and later of a tensor with a published name."""
    if name.startswith("language_model.model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + name if name.startswith(("vision_model.", "multi_modal_projector.")) else name


def _return_freed_memory() -> None:
    """Returns freed memory to the system. glibc keeps freed blocks of up to 32 MB, and gigabytes of them while a model loads."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
