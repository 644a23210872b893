"""Linear layers whose weights are prepared once, for the few rows of a decode step.

On a CPU, PyTorch's own linear layer reads the weights several times as slowly for two to eight rows as it could. The layers here
keep the weights in the order that a kernel reads them:

- oneDNN's packed bfloat16 weights, for bfloat16 rows on a CPU with units for bfloat16. Sums are in float32, results in bfloat16.
- oneDNN's packed float32 weights.
- FBGEMM's packed float16 weights with float32 arithmetic, which read half as many bytes. A float16 holds each bfloat16 of a usual
  weight exactly.

Each row of the result is independent of the other rows, to the last bit. To that end some numbers of rows are padded or divided.

Everywhere else the layers compute as PyTorch does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from mllama_demo.runtime.cpu import has_bfloat16_units

# The number of rows that oneDNN orders the weights for. 4 was the fastest from 2 to 8 rows; 1 is slow for all others.
PACKED_FOR_ROWS = 4
# oneDNN takes other kernels for one row of float32, and for more than 36 rows of bfloat16. Both round in another way.
LEAST_FLOAT32_ROWS = 2
MOST_BFLOAT16_ROWS = 32
# FBGEMM with AVX2 divides up to 30 rows into blocks of similar size. These numbers have a block of one or two rows; the values
# have none.
MOST_EVEN_ROWS = 30
ROWS_WITH_SMALL_BLOCKS = {1: 3, 2: 3, 7: 8, 14: 15}
# float16 rounds a weight below 2**-14 by at most half of its smallest step.
HALF_ERROR = 2.0**-25


@dataclass(frozen=True)
class Linear:
    """A layer that maps [rows, in features] to [rows, out features].

    Attributes:
        bytes: What the layer reads to compute any number of rows.
    """

    compute: Callable[[torch.Tensor], torch.Tensor]
    bytes: int

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.compute(rows)


def prepare(modules: Sequence[nn.Module], *, half: bool, dtype: torch.dtype = torch.float32) -> Linear:
    """Makes one layer of modules with the same input. Its output is theirs, one after the other.

    Args:
        modules: nn.Linear without bias, or modules that replace nn.Linear in a quantized model. The weights of the nn.Linear
            modules are removed from them, so that they are not in memory twice.
        dtype: Of the rows. bfloat16 on a CPU needs weights of that type.
        half: Keep the weights as float16 on a CPU, also if that rounds them. Without this, float16 holds only the weights that it
            holds exactly.
    """
    weights = [_plain_weight(module) for module in modules]
    if any(weight is None for weight in weights):
        return _each(modules)
    weight = torch.cat([weight.detach() for weight in weights if weight is not None])
    for module in modules:
        module.register_parameter("weight", None)
    if weight.device.type == "cpu":
        if dtype == torch.bfloat16 and has_bfloat16_units() and torch.backends.mkldnn.is_available():
            return _packed_bfloat16(weight)
        if has_half_kernels() and (fits_half(weight) if half else exact_in_half(weight)):
            return _half(weight)
        if has_half_kernels():  # the rows are float32, see runner.arithmetic
            weight = weight.float()
        if weight.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            return _packed(weight)
    return Linear(lambda rows: functional.linear(rows, weight), weight.nbytes)


def has_half_kernels() -> bool:
    """Whether this PyTorch has FBGEMM, which is for x86 CPUs."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def fits_half(weight: torch.Tensor) -> bool:
    """Whether no weight is too large for float16."""
    return bool(weight.abs().max() <= torch.finfo(torch.float16).max)


def exact_in_half(weight: torch.Tensor) -> bool:
    """Whether float16 holds the weights exactly, but for an error of HALF_ERROR in weights that are nearly zero."""
    for part in weight.split(4096):  # the output layer in float32 twice would be gigabytes
        values = part.float()
        if not torch.isfinite(values.half()).all() or (values - values.half().float()).abs().max() > HALF_ERROR:
            return False
    return True


def half_rows(count: int) -> int:
    """Returns how many rows, at least count, float16 weights are multiplied with.

    FBGEMM with AVX2 divides the rows into blocks of up to six rows. Blocks of one and two rows are rounded in another way. With
    AVX-512 all blocks are rounded alike.
    """
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        return count
    if count <= MOST_EVEN_ROWS:
        return ROWS_WITH_SMALL_BLOCKS.get(count, count)
    rest = count % 6
    return count + 3 - rest if rest in (1, 2) else count


def _plain_weight(module: nn.Module) -> torch.Tensor | None:
    """Returns the weight of an nn.Linear without bias; None if the module is another one or its weight is quantized."""
    if type(module) is not nn.Linear or module.bias is not None or type(module.weight.data) is not torch.Tensor:
        return None
    return module.weight if module.weight.is_floating_point() else None


def _each(modules: Sequence[nn.Module]) -> Linear:
    size = sum(tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers()))
    if len(modules) == 1:
        return Linear(modules[0], size)
    return Linear(lambda rows: torch.cat([module(rows) for module in modules], dim=-1), size)


def _packed(weight: torch.Tensor) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)

    def layer(rows: torch.Tensor) -> torch.Tensor:
        count = len(rows)
        if count < LEAST_FLOAT32_ROWS:
            rows = functional.pad(rows, (0, 0, 0, LEAST_FLOAT32_ROWS - count))
        return _multiplied(rows, packed)[:count]

    return Linear(layer, weight.nbytes)


def _packed_bfloat16(weight: torch.Tensor) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)

    def layer(rows: torch.Tensor) -> torch.Tensor:
        if len(rows) <= MOST_BFLOAT16_ROWS:
            return _multiplied(rows, packed)
        return torch.cat([_multiplied(part, packed) for part in rows.split(MOST_BFLOAT16_ROWS)])

    return Linear(layer, weight.nbytes)


def _multiplied(rows: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    """Returns rows [n, in features] times a weight that oneDNN has ordered."""
    return torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")


def _half(weight: torch.Tensor) -> Linear:
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)

    def layer(rows: torch.Tensor) -> torch.Tensor:
        count = len(rows)
        padding = half_rows(count) - count
        if padding:
            rows = functional.pad(rows, (0, 0, 0, padding))
        return torch.ops.quantized.linear_dynamic_fp16(rows, packed)[:count]

    return Linear(layer, 2 * weight.numel())
