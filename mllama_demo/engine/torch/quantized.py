"""Linear layers with weights of 8 or 4 bits, which compute with the model's own inputs: weight-only quantization.

A weight is stored in blocks of up to BLOCK numbers along the inputs of its layer: a code of 8 or 4 bits for each number, and one
float32 scale for each block. A number is (code - 2**(bits - 1)) * scale. Codes are rounded to nearest; there is no calibration.

On a CPU, onnxruntime's operator MatMulNBits computes with the codes. On two cores with AVX2 it reads the weights as fast as the
memory allows, also at 4 bits. PyTorch's own kernels (_weight_int4pack_mm_for_cpu and _weight_int8pack_mm, which torchao calls)
took 2 to 8 times as long there, and far longer with float32 inputs. On other devices the weights of a layer are expanded with
PyTorch's operators whenever the layer computes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

BLOCK = 128
SMALLEST_BLOCK = 16  # of MatMulNBits
_ROWS = 2048  # rows that are quantized at a time, so that little memory is needed on top
_INT8_ACTIVATIONS = 4  # accuracy_level of MatMulNBits: inputs are rounded to 8 bits, with a scale for each block of each row


@dataclass(frozen=True)
class QuantizedWeight:
    """The weight of a linear layer.

    Attributes:
        bits: 8 or 4.
        codes: [out, blocks, bytes of a block] uint8; two codes of 4 bits in a byte, the first one in the lower bits.
        scales: [out, blocks] float32.
    """

    bits: int
    codes: torch.Tensor
    scales: torch.Tensor

    @property
    def block(self) -> int:
        """Numbers in a block."""
        return self.codes.shape[2] * 8 // self.bits


def quantize(weight: torch.Tensor, bits: int) -> QuantizedWeight:
    """Rounds a weight [out, in] to codes. in must be a multiple of SMALLEST_BLOCK."""
    rows, inputs = weight.shape
    block = math.gcd(inputs, BLOCK)
    codes = torch.empty(rows, inputs // block, block * bits // 8, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(rows, inputs // block, dtype=torch.float32, device=weight.device)
    zero = 2 ** (bits - 1)
    for first in range(0, rows, _ROWS):
        numbers = weight[first : first + _ROWS].float().unflatten(1, (-1, block))
        low, high = numbers.aminmax(dim=2)
        # The number that is farthest from 0 gets the code 0, the only one that is `zero` steps away from it.
        scale = torch.where(high > -low, high, low) / -zero
        rounded = (numbers * torch.where(scale == 0, 0, 1 / scale)[..., None]).round_().add_(zero).clamp_(0, 2 * zero - 1)
        unpacked = rounded.to(torch.uint8)
        codes[first : first + _ROWS] = unpacked if bits == 8 else unpacked[..., ::2] | unpacked[..., 1::2] << 4
        scales[first : first + _ROWS] = scale
    return QuantizedWeight(bits, codes, scales)


def dequantize(weight: QuantizedWeight, dtype: torch.dtype) -> torch.Tensor:
    """The weight [out, in] that the codes stand for."""
    codes = weight.codes
    if weight.bits == 4:
        codes = torch.stack((codes & 15, codes >> 4), dim=-1).flatten(2)
    numbers = codes.to(dtype).sub_(2 ** (weight.bits - 1)).mul_(weight.scales.to(dtype)[..., None])
    return numbers.flatten(1)


def quantized_linear(weight: QuantizedWeight, device: torch.device) -> nn.Module:
    """The fastest layer without bias for the device. On a CPU it takes float32 inputs only."""
    return OnnxLinear(weight) if device.type == "cpu" else ExpandingLinear(weight).to(device)


class ExpandingLinear(nn.Module):
    """Expands the weight to the type of the inputs whenever it computes. For every device; slow on a CPU."""

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        self.bits = weight.bits
        self.codes, self.scales = nn.Buffer(weight.codes), nn.Buffer(weight.scales)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, dequantize(QuantizedWeight(self.bits, self.codes, self.scales), inputs.dtype))


class OnnxLinear(nn.Module):
    """Computes on the CPU with onnxruntime. Takes and returns float32, without gradients.

    onnxruntime rearranges the weight, so that the module has neither parameters nor buffers.
    """

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        self.bits = weight.bits
        self._outputs = weight.codes.shape[0]
        self._session = _session(weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        import numpy

        rows = inputs.detach().reshape(-1, inputs.shape[-1]).contiguous()
        outputs = torch.empty(len(rows), self._outputs)
        binding = self._session.io_binding()
        binding.bind_input("inputs", "cpu", 0, numpy.float32, tuple(rows.shape), rows.data_ptr())
        binding.bind_output("outputs", "cpu", 0, numpy.float32, tuple(outputs.shape), outputs.data_ptr())
        self._session.run_with_iobinding(binding)
        return outputs.view(*inputs.shape[:-1], self._outputs)


def _session(weight: QuantizedWeight) -> Any:
    """An onnxruntime session of one MatMulNBits node, see docs/ContribOperators.md of onnxruntime."""
    import onnxruntime
    from onnx import TensorProto, helper

    _share_threads(torch.get_num_threads())
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    options.enable_cpu_mem_arena = False  # would keep memory for each layer
    options.log_severity_level = 3  # errors
    outputs, blocks, _ = weight.codes.shape
    tensors = {"codes": (TensorProto.UINT8, weight.codes), "scales": (TensorProto.FLOAT, weight.scales.flatten())}
    initializers = []
    for name, (kind, tensor) in tensors.items():
        initializer = TensorProto(name=name, data_type=kind, dims=tensor.shape, data_location=TensorProto.EXTERNAL)
        initializer.external_data.add(key="location", value="memory")  # replaced by add_external_initializers, without a copy
        initializers.append(initializer)
    node = helper.make_node(
        "MatMulNBits",
        ["inputs", *tensors],
        ["outputs"],
        domain="com.microsoft",
        K=blocks * weight.block,
        N=outputs,
        bits=weight.bits,
        block_size=weight.block,
        accuracy_level=_INT8_ACTIVATIONS,
    )
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
        for name, width in (("inputs", blocks * weight.block), ("outputs", outputs))
    ]
    graph = helper.make_graph([node], "linear", ends[:1], ends[1:], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor.numpy()) for _, tensor in tensors.values()]
    options.add_external_initializers(list(tensors), values)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@functools.cache
def _share_threads(count: int) -> None:
    """Makes one pool of threads for all sessions; each would have its own. The first call in a process decides."""
    import onnxruntime

    onnxruntime.set_global_thread_pool_sizes(count, 1)


# --- weights that stay as they are in the checkpoint -----------------------------------------------------------------------


class _Stored(nn.Module):
    """A module on the CPU that keeps the type of its numbers: .to() changes nothing."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> _Stored:
        return self


class StoredLinear(_Stored):
    """A linear layer that stores its weight in the type of the checkpoint and computes in the type of its inputs.

    A CPU without units for bfloat16 multiplies large bfloat16 matrices six times as slowly as float32 ones. The conversion of
    the weight is a small part of the work where there are many rows, as in the vision encoder.
    """

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Buffer()
        self.bias = nn.Buffer() if bias else None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(inputs.dtype)
        return functional.linear(inputs, self.weight.to(inputs.dtype), bias)


class StoredEmbedding(_Stored):
    """An embedding that stores its table in the type of the checkpoint.

    Attributes:
        dtype: Of the rows that it returns.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Buffer()
        self.dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(ids, self.weight).to(self.dtype)
