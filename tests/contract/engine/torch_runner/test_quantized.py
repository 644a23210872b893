# pyright: reportArgumentType=false
"""Quantized weights: how far they are from the weights, what the layers compute with them, and what a model answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from benchmarks.quantization import Model, divergence, prompts
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.torch.loading import load_model
from mllama_demo.engine.torch.quantized import ExpandingLinear, OnnxLinear, dequantize, quantize
from mllama_demo.engine.torch.runner import TorchRunner
from tests.support.torch_runner_cases import Case, answer_in, ask, picture

BITS = pytest.mark.parametrize("bits", [8, 4])
CPU = torch.device("cpu")


def weight(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 0.05


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


# --- weights -------------------------------------------------------------------------------------------------------------


@BITS
@pytest.mark.parametrize("inputs", [48, 192, 256, 1536])
def test_a_number_is_at_most_half_a_step_away(bits, inputs):
    original = weight(2100, inputs)  # more rows than are quantized at a time
    original[0, :16] = 0  # a block or a part of one without a scale
    quantized = quantize(original, bits)
    found = dequantize(quantized, torch.float32)
    step = quantized.scales.abs().repeat_interleave(quantized.block, dim=1)
    error = (found - original).abs()
    # A number as far from 0 as the farthest one, on the other side, is one step away: codes are not symmetric.
    assert (error <= step * 1.001).all()
    assert (error <= step * 0.5001).float().mean() > 0.97
    assert relative_error(found, original) < {8: 0.008, 4: 0.12}[bits]


@BITS
def test_the_largest_number_of_a_block_and_zeros_are_exact(bits):
    original = torch.zeros(2, 128)
    original[0, 3], original[1, 5] = -0.7, 0.3
    found = dequantize(quantize(original, bits), torch.float32)
    assert torch.allclose(found, original, atol=1e-7)


def test_weights_of_bfloat16_are_rounded_as_the_same_numbers_in_float32():
    original = weight(64, 128).bfloat16()
    assert torch.equal(quantize(original, 4).codes, quantize(original.float(), 4).codes)


# --- layers --------------------------------------------------------------------------------------------------------------


@BITS
@pytest.mark.parametrize("inputs", [48, 192, 4096])
@pytest.mark.parametrize("rows", [1, 4, 70])
def test_onnxruntime_computes_with_these_weights(bits, inputs, rows):
    quantized = quantize(weight(200, inputs), bits)
    states = torch.randn(2, rows, inputs, generator=torch.Generator().manual_seed(1))
    found = OnnxLinear(quantized)(states)
    assert found.shape == (2, rows, 200)
    assert relative_error(found, functional.linear(states, dequantize(quantized, torch.float32))) < 0.015


def test_inputs_that_are_not_contiguous_are_read_in_their_order():
    layer = OnnxLinear(quantize(weight(32, 128), 8))
    states = torch.randn(128, 5, generator=torch.Generator().manual_seed(1)).T
    assert torch.equal(layer(states), layer(states.contiguous()))


@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_layer_of_other_devices_computes_with_these_weights(bits, dtype):
    quantized = quantize(weight(200, 192), bits)
    states = torch.randn(3, 192, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = ExpandingLinear(quantized)(states)
    assert found.dtype == dtype
    expected = functional.linear(states.float(), dequantize(quantized, torch.float32))
    assert relative_error(found.float(), expected) < {torch.float32: 1e-5, torch.bfloat16: 0.01}[dtype]


# --- models --------------------------------------------------------------------------------------------------------------


def logits(folder: Path, quantization: str) -> torch.Tensor:
    """[tokens, vocabulary] after every token of questions about two images and without one."""
    model = Model(folder, quantization)
    return torch.cat([model.logits(*prompt) for prompt in prompts(folder, images=2)])


@pytest.mark.slow
@pytest.mark.parametrize(("quantization", "bound", "same"), [("int8", 0.004, 0.95), ("int4", 0.3, 0.55)])
@pytest.mark.parametrize("name", ["embedded", "random_checkpoint"])
def test_a_quantized_model_predicts_nearly_the_same_tokens(name, quantization, bound, same, request):
    folder = request.getfixturevalue(name)
    expected, found = logits(folder, "none"), logits(folder, quantization)
    assert divergence(found, expected) < bound
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > same


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantized_model_answers_in_a_slot_of_a_runner(embedded, quantization):
    runner = TorchRunner.load(embedded, slots=2, max_seq_len=512, quantization=quantization)
    case = Case("a picture", ask(Tokenizer(embedded), "How many things are there?", image=picture(1, 1, 3)), count=12)
    answer_in(runner, 1, case)
    assert len(case.made) == 12


def test_the_layers_of_other_devices_make_the_same_model(embedded):
    expected = load_model(embedded, quantization="int4")
    found = load_model(embedded)
    for name, module in list(found.named_modules()):
        if isinstance(expected.get_submodule(name), OnnxLinear):
            bits = expected.get_submodule(name).bits
            found.set_submodule(name, ExpandingLinear(quantize(module.weight, bits)))
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        one, other = (model(input_ids=ids).logits[0] for model in (found, expected))
    assert divergence(one, other) < 0.005
