"""Prepared linear layers against PyTorch's own, and the promise that a row does not depend on the rows beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

from mllama_demo.engine.torch import linear
from mllama_demo.runtime.cpu import has_bfloat16_units

SHAPES = [(192, 320), (512, 1024), (4096, 64), (100, 70)]  # (in, out) features
UNITS = pytest.mark.skipif(not has_bfloat16_units(), reason="this CPU has no units for bfloat16")
KINDS = [("module", torch.float32), ("rounded", torch.float32), pytest.param("rounded", torch.bfloat16, marks=UNITS)]
pytestmark = pytest.mark.filterwarnings("ignore:.*fp16:UserWarning")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def module(features: int, out: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(features, out, bias=False, dtype=dtype)
    weight = torch.randn(out, features, generator=torch.Generator().manual_seed(seed)) / features**0.5
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    return layer


def rounded(features: int, out: int) -> nn.Linear:
    """A layer whose weights are those of a bfloat16 checkpoint, as float32."""
    layer = module(features, out)
    layer.weight.data = layer.weight.data.bfloat16().float()
    return layer


def layer_of(weights: str, features: int, out: int, dtype: torch.dtype) -> nn.Linear:
    """A layer with float32 weights, or with weights that bfloat16 holds."""
    return (rounded if weights == "rounded" else module)(features, out).to(dtype)


@pytest.mark.parametrize(("weights", "dtype"), KINDS)
@pytest.mark.parametrize(("features", "out"), SHAPES)
@torch.inference_mode()
def test_the_prepared_layer_computes_the_product(weights: str, dtype: torch.dtype, features: int, out: int, threads: int) -> None:
    layer = layer_of(weights, features, out, dtype)
    weight = layer.weight.double()
    prepared = linear.prepare([layer], half=False, dtype=dtype)
    for count in (9, 40):
        rows = torch.randn(count, features).to(dtype)
        found, expected = prepared(rows).double(), functional.linear(rows.double(), weight)
        assert torch.allclose(found, expected, atol=2e-5, rtol=2**-8 if dtype == torch.bfloat16 else 0)


@pytest.mark.parametrize(("weights", "dtype"), KINDS)
@pytest.mark.parametrize(("features", "out"), SHAPES)
@torch.inference_mode()
def test_a_row_does_not_depend_on_the_rows_beside_it(
    weights: str, dtype: torch.dtype, features: int, out: int, threads: int
) -> None:
    prepared = linear.prepare([layer_of(weights, features, out, dtype)], half=False, dtype=dtype)
    row = torch.randn(1, features).to(dtype)
    alone = prepared(row)
    for count in (*range(1, 18), 31, 32, 38):
        batch = torch.randn(count, features).to(dtype)
        for place in {0, count // 2, count - 1}:
            batch[place] = row
            assert torch.equal(prepared(batch)[place], alone[0]), f"row {place} of {count}"


@torch.inference_mode()
def test_layers_with_the_same_input_become_one_and_are_not_in_memory_twice() -> None:
    parts = [module(64, 48, seed=1), module(64, 16, seed=2)]
    rows = torch.randn(3, 64)
    expected = torch.cat([part(rows) for part in parts], dim=-1)
    prepared = linear.prepare(parts, half=False)
    assert torch.allclose(prepared(rows), expected, atol=1e-5)
    assert [part.weight for part in parts] == [None, None]


@torch.inference_mode()
def test_a_module_that_replaces_linear_is_called_as_it_is() -> None:
    class Doubling(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return 2 * rows

    rows = torch.randn(2, 8)
    assert torch.equal(linear.prepare([Doubling()], half=False)(rows), 2 * rows)
    both = linear.prepare([Doubling(), module(8, 4)], half=False)(rows)
    assert both.shape == (2, 12)
    assert torch.equal(both[:, :8], 2 * rows)


@pytest.mark.parametrize(
    ("weights", "exact"),
    [
        (torch.randn(50, 20).bfloat16(), True),
        (torch.randn(50, 20).half(), True),
        (torch.randn(50, 20), False),
        (torch.full((1, 1), 2.0**-30), True),  # rounded to 0, within the error
        (torch.full((1, 1), 70000.0), False),
        (torch.full((1, 1), float("inf")), False),
        (torch.zeros(2, 2), True),
    ],
)
def test_which_weights_float16_holds(weights: torch.Tensor, exact: bool) -> None:
    assert linear.exact_in_half(weights) is exact


@torch.inference_mode()
def test_half_rounds_weights_that_float16_does_not_hold_and_leaves_those_that_are_too_large() -> None:
    layer, rows = module(64, 32), torch.randn(4, 64)
    expected = functional.linear(rows, layer.weight.half().float())
    assert torch.allclose(linear.prepare([layer], half=True)(rows), expected, atol=1e-5)
    large = module(8, 4)
    large.weight.data[0, 0] = 1e6
    expected = large(torch.ones(1, 8))
    assert torch.allclose(linear.prepare([large], half=True)(torch.ones(1, 8)), expected)
