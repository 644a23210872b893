# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportIndexIssue=false
"""The rows of a decode step: the same logits to the last bit alone, beside others, in any slot, and with two threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import MllamaForConditionalGeneration

from mllama_demo.engine.torch import linear
from mllama_demo.engine.torch.kv_cache import SlotCache
from mllama_demo.engine.torch.text_model import TextModel
from mllama_demo.runtime.cpu import has_bfloat16_units

SLOTS, LENGTH, START = 6, 320, 250  # of which a step reads 256 and then 320 keys
IMAGE_AT = 3
pytestmark = pytest.mark.slow
UNITS = pytest.mark.skipif(not has_bfloat16_units(), reason="this CPU has no units for bfloat16")


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


class Slots:
    """A text model whose slots all hold the same sequence, with an image of two tiles."""

    def __init__(self, folder: Path, *, half: bool = False, dtype: torch.dtype = torch.float32) -> None:
        model = MllamaForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval()
        vision, config = model.model.vision_model, model.config.text_config
        tokens = vision.max_num_tiles * vision.num_patches
        self.cache = SlotCache(config, SLOTS, LENGTH, tokens, dtype, torch.device("cpu"))
        self.model = TextModel(model, self.cache, SLOTS, half=half)
        random = torch.Generator().manual_seed(1)
        self.tiles = torch.zeros(SLOTS, vision.max_num_tiles, dtype=torch.bool)
        self.tiles[:, :2] = True
        self.ids = torch.randint(0, config.vocab_size, (LENGTH,), generator=random).tolist()
        for index in config.cross_attention_layers:
            shape = (config.num_key_value_heads, tokens, config.hidden_size // config.num_attention_heads)
            keys, values = torch.randn(shape, generator=random), torch.randn(shape, generator=random)
            for slot in range(SLOTS):
                self.cache.write_image(slot, index, keys, values)
        for slot in range(SLOTS):
            self.model.read(slot, self.ids[:START], 0, IMAGE_AT, self.tiles[slot])

    def step(self, slots: list[int], position: int = START, seeing: list[bool] | None = None) -> torch.Tensor:
        count = len(slots)
        hidden = self.model.step(slots, [self.ids[position]] * count, [position] * count, seeing or [True] * count, self.tiles)
        return self.model.logits(hidden)


KINDS = [{}, {"half": True}, pytest.param({"dtype": torch.bfloat16}, marks=UNITS)]


@pytest.fixture(params=KINDS, ids=["by the weights", "half", "bfloat16"])
def slots(request: pytest.FixtureRequest, embedded: Path, threads: None) -> Iterator[Slots]:
    with torch.inference_mode():
        yield Slots(embedded, **request.param)


def test_a_row_is_the_same_alone_and_beside_others_in_every_slot(slots: Slots) -> None:
    assert not slots.model.all_rows  # measured when the model was made; a CPU with other kernels may say otherwise
    for position in (START, 256, 300):
        alone = slots.step([0], position)[0]
        for chosen in ([1], [5], [0, 1], [0, 5], [1, 2, 4], [0, 1, 2, 3], [0, 2, 3, 4, 5], list(range(SLOTS))):
            for slot, row in zip(chosen, slots.step(chosen, position), strict=True):
                assert torch.equal(row, alone), f"slot {slot} of {chosen} at {position}"


def test_a_row_with_an_image_is_the_same_beside_one_without(slots: Slots) -> None:
    alone, blind = slots.step([0])[0], slots.step([1], seeing=[False])[0]
    assert not torch.equal(alone, blind)
    rows = slots.step([0, 1, 3], seeing=[True, False, True])
    assert torch.equal(rows[0], alone)
    assert torch.equal(rows[1], blind)
    assert torch.equal(rows[2], alone)


def test_a_row_is_the_same_beside_a_larger_image(slots: Slots) -> None:
    slots.tiles[0] = torch.tensor([True, False, False, False])
    alone = slots.step([0])[0]
    slots.tiles[2] = True
    assert torch.equal(slots.step([0, 1, 2])[0], alone)


def test_idle_slots_keep_their_keys(slots: Slots) -> None:
    before = [(layer.keys[1].clone(), layer.values[1].clone()) for layer in slots.cache.layers]
    for all_rows in (False, True):
        slots.model.all_rows = all_rows
        slots.step([0, 2])
        for layer, (keys, values) in zip(slots.cache.layers, before, strict=True):
            end = None if layer.cross else LENGTH  # the spare position is nobody's
            assert torch.equal(layer.keys[1, :, :end], keys[:, :end])
            assert torch.equal(layer.values[1, :, :end], values[:, :end])


def test_rows_of_all_slots_give_the_same_logits(slots: Slots) -> None:
    chosen = [1, 4]
    expected = slots.step(chosen)
    slots.model.all_rows = True
    assert torch.equal(slots.step(chosen), expected)


def test_layers_whose_rows_depend_on_their_number_are_noticed(slots: Slots) -> None:
    exact = slots.model._output
    slots.model._output = linear.Linear(lambda rows: exact(rows) * (1 + len(rows) / 100), 0)
    slots.model.check_rows()
    assert slots.model.all_rows


def test_a_prompt_read_in_pieces_is_the_prompt_read_whole(slots: Slots) -> None:
    whole = slots.step([0])[0]
    for start in range(0, START, 64):
        end = min(start + 64, START)
        slots.model.read(1, slots.ids[start:end], start, IMAGE_AT, slots.tiles[1])
    difference = slots.step([1])[0] - whole
    if slots.cache.dtype == torch.bfloat16:
        assert difference.square().mean().sqrt() < 0.02 * whole.std()
    else:
        assert difference.abs().max() < 2e-4


@UNITS
@torch.inference_mode()
def test_bfloat16_gives_nearly_the_probabilities_of_float32(embedded: Path) -> None:
    exact, rounded = Slots(embedded), Slots(embedded, dtype=torch.bfloat16)
    for position in (START, 256, 300):
        expected, found = (slots.step([0], position)[0] for slots in (exact, rounded))
        assert found.dtype == torch.bfloat16
        assert functional.kl_div(found.float().log_softmax(0), expected.log_softmax(0), reduction="sum", log_target=True) < 0.02
