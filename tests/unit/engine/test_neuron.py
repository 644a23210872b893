# pyright: reportCallIssue=false
"""The Neuron engine as far as it goes without Neuron: what the device is told, and slots on a model that remembers like one."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.neuron import images as neuron_images
from mllama_demo.engine.neuron import sdk as neuron_sdk
from mllama_demo.engine.neuron.images import on_full_canvas
from mllama_demo.engine.neuron.runner import NeuronRunner, device_sampling
from mllama_demo.engine.neuron.sdk import aspect_ratio_ids, import_nxdi
from mllama_demo.engine.runner import prefill
from mllama_demo.errors import BadRequest, ConfigError, PromptTooLong
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams

RATIOS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
IMAGE_TOKEN = 900

# --- sampling values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "told"),
    [
        (SamplingParams(temperature=0.0, top_p=0.5, top_k=7), (1.0, 1.0, 1.0)),
        (SamplingParams(temperature=1e-6), (1.0, 1.0, 1.0)),
        (SamplingParams(temperature=0.7, top_k=1), (1.0, 1.0, 1.0)),
        (SamplingParams(temperature=0.7, top_p=0.9, top_k=0), (64.0, 0.9, 0.7)),
        (SamplingParams(temperature=0.7, top_p=0.9, top_k=200), (64.0, 0.9, 0.7)),
        (SamplingParams(temperature=0.7, top_p=0.9, top_k=64), (64.0, 0.9, 0.7)),
        (SamplingParams(temperature=2.0, top_p=1.0, top_k=2), (2.0, 1.0, 2.0)),
    ],
)
def test_the_device_is_told_values_it_can_use(params, told):
    assert device_sampling(params, 64) == told


# --- aspect ratios -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.tensor results are registered as constants")  # the table is meant to be one
def test_aspect_ratio_ids_are_looked_up_anew_in_a_traced_graph():
    graph = torch.jit.trace(lambda r: aspect_ratio_ids(r, 4), torch.ones(1, 1, 2, dtype=torch.int32), check_trace=False)
    assert [int(graph(torch.tensor([[ratio]], dtype=torch.int32))) for ratio in RATIOS] == list(range(1, 9))


def test_aspect_ratio_ids_keep_the_shape_of_their_pairs():
    ids = aspect_ratio_ids(torch.tensor([RATIOS, RATIOS[::-1]], dtype=torch.int32), 4)
    assert ids.tolist() == [list(range(1, 9)), list(range(8, 0, -1))]
    assert ids.dtype == torch.int32


# --- the canvas ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "canvas", "drawn"),
    [
        ((20, 20), (64, 64), (64, 64)),  # one tile: enlarged to four
        ((64, 32), (64, 64), (64, 32)),  # two side by side fit no larger
        ((20, 40), (64, 64), (32, 64)),
        ((96, 32), (128, 32), (96, 32)),
        ((30, 90), (32, 128), (32, 96)),
        ((900, 30), (128, 32), (128, 4)),
        ((40, 40), (64, 64), (40, 40)),  # four tiles already: not enlarged
    ],
)
def test_a_picture_is_drawn_in_the_top_left_corner_of_a_black_canvas_of_four_tiles(size, canvas, drawn):
    placed = on_full_canvas(Image.new("RGB", size, "white"), 32, 4)
    assert placed.size == canvas
    assert placed.getbbox() == (0, 0, *drawn)
    assert placed.crop((0, 0, *drawn)).getextrema() == ((255, 255),) * 3


# --- without the SDK -----------------------------------------------------------------------------------------------------


def test_without_nxdi_one_sentence_says_what_to_install_and_where():
    with pytest.raises(ConfigError, match=r"neuronx-distributed-inference.*trn1, inf2 or trn2 instance") as caught:
        import_nxdi("models.config")
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'torch_xla'", name="torch_xla"), OSError("libnrt.so.1")])
def test_a_half_installed_sdk_is_told_from_a_missing_one(monkeypatch, error):
    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr(neuron_sdk.importlib, "import_module", fail)
    with pytest.raises(ConfigError, match=f"cannot be imported.*{error}"):
        import_nxdi("models.config")


# --- slots ---------------------------------------------------------------------------------------------------------------


class RememberingModel:
    """Called as NxDI's model, it remembers as the device does: the token each row wrote at each position, and the next token
    is made of all that lies up to the row's position, of the image it was prefilled with and of the row's sampling values."""

    def __init__(self, slots: int = 3, seq_len: int = 32, longest_prompt: int = 16) -> None:
        compiled = {"batch_size": slots, "tkg_batch_size": slots, "max_batch_size": slots, "ctx_batch_size": 1}
        compiled |= {"is_continuous_batching": True, "padding_side": "right", "async_mode": False, "output_logits": False}
        sampling = SimpleNamespace(dynamic=True, global_topk=64)
        self.config = SimpleNamespace(
            neuron_config=SimpleNamespace(**compiled, on_device_sampling_config=sampling),
            text_config=SimpleNamespace(vocab_size=IMAGE_TOKEN),
            vision_config=SimpleNamespace(image_size=32, max_num_tiles=4),
        )
        self.token_generation_model = SimpleNamespace(neuron_config=SimpleNamespace(buckets=[16, seq_len]))
        self.context_encoding_model = SimpleNamespace(neuron_config=SimpleNamespace(buckets=[8, longest_prompt]))
        self.cache = [[-1] * seq_len for _ in range(slots)]
        self.images = [0] * slots

    def forward(
        self, *, input_ids: Any, position_ids: Any, seq_ids: Any, sampling_params: Any, has_image: Any, **rest: Any
    ) -> Any:
        rows = len(seq_ids)
        if input_ids.shape[1] == 1:
            assert seq_ids.tolist() == list(range(len(self.cache))), "every row, in slot order"
            assert rest["pixel_values"] is None
        else:
            assert input_ids.shape[1] >= 3
            assert (rows, tuple(rest["pixel_values"].shape)) == (1, (1, 1, 4, 3, 32, 32))
            self.images[int(seq_ids)] = image_mark(int(rest["pixel_values"].sum()), int(rest["vision_mask"][0, 0, 0]))
        assert rest["attention_mask"] is None
        shapes = [tuple(rest[name].shape) for name in ("aspect_ratios", "vision_mask", "num_chunks")]
        assert shapes == [(rows, 1, 2), (rows, 1, 2), (rows, 1)]
        assert [rest[name].dtype for name in ("aspect_ratios", "vision_mask", "num_chunks")] == [torch.int32] * 3
        assert (sampling_params.dtype, tuple(sampling_params.shape)) == (torch.float32, (rows, 3))
        for row, slot in enumerate(seq_ids.tolist()):
            for token, position in zip(input_ids[row].tolist(), position_ids[row].tolist(), strict=True):
                self.cache[slot][position] = token
        made = [
            next_token(self.cache[slot][: int(position_ids[row, -1]) + 1], self.images[slot] * int(has_image[row]), values)
            for row, (slot, values) in enumerate(zip(seq_ids.tolist(), sampling_params.tolist(), strict=True))
        ]
        return SimpleNamespace(tokens=torch.tensor(made, dtype=torch.int32))


def image_mark(width: int, position: int) -> int:
    """One number for an image and the position of its token; not 0, so that a text row taken for an image's shows."""
    return 1000 * width + position + 1


def next_token(ids: list[int], image: int, values: list[float]) -> int:
    return random.Random(repr((ids, image, [round(value, 3) for value in values]))).randrange(IMAGE_TOKEN)


def alone(request: GenerationRequest, count: int) -> list[int]:
    image = 0 if request.image is None else image_mark(request.image.width, request.prompt_ids.index(IMAGE_TOKEN))
    ids, values = list(request.prompt_ids), list(device_sampling(request.sampling, 64))
    for _ in range(count):
        ids.append(next_token(ids, image, values))
    return ids[len(request.prompt_ids) :]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> NeuronRunner:
    def tensors(config: Any, rows: list[list[Any]]) -> Any:
        pixels = torch.zeros(1, 1, 4, 3, 32, 32)
        pixels[0, 0, 0, 0, 0, 0] = rows[0][0].getpixel((0, 0))[0] if rows[0] else 0
        return pixels, torch.ones(1, 1, 2, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64), torch.ones(1) * len(rows[0])

    monkeypatch.setattr(neuron_images, "import_nxdi", lambda module: SimpleNamespace(get_image_tensors=tensors))
    return NeuronRunner(RememberingModel(), IMAGE_TOKEN)


def request(seed: int, length: int, image: bool = False) -> GenerationRequest:
    """An image is as wide as it is bright, so that which one was seen can be told."""
    rng = random.Random(seed)
    ids = [rng.randrange(256) for _ in range(length)]
    sampling = SamplingParams(temperature=rng.choice([0.0, 0.5, 1.5]), top_p=0.9, top_k=rng.choice([0, 5, 200]))
    if not image:
        return GenerationRequest(tuple(ids), sampling)
    ids[rng.randrange(length)], width = IMAGE_TOKEN, rng.randint(40, 60)
    pixels = Image.new("RGB", (width, width), (width, 0, 0))
    return GenerationRequest(tuple(ids), sampling, LoadedImage(pixels, b"", "PNG", str(seed), "a picture"))


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_in_the_other_slots_a_request_is_answered_as_if_alone(runner, seed):
    rng, live, made = random.Random(seed), {}, {}
    for number in range(120):
        free = [slot for slot in range(3) if slot not in live]
        if free and rng.random() < 0.4:
            slot = rng.choice(free)
            live[slot] = request(1000 * seed + number, rng.randint(1, 16), image=rng.random() < 0.5)
            made[slot] = [prefill(runner, slot, live[slot]).token_id]
        named = [slot for slot in live if len(live[slot].prompt_ids) + len(made[slot]) <= 32 and rng.random() < 0.7]
        rng.shuffle(named)
        if named:
            for slot, sampled in zip(named, runner.decode(named), strict=True):
                made[slot].append(sampled.token_id)
        for slot in [slot for slot in live if number == 119 or rng.random() < 0.05]:
            assert made[slot] == alone(live.pop(slot), len(made[slot]))
            runner.release(slot)


def test_a_full_slot_is_not_decoded_and_may_sit_beside_others(runner):
    full, other = request(1, 16), request(2, 4)
    prefill(runner, 0, full)
    for _ in range(16):
        runner.decode([0])
    made = [prefill(runner, 1, other).token_id]
    with pytest.raises(ValueError, match="32 tokens"):
        runner.decode([1, 0])
    made += [runner.decode([1])[0].token_id for _ in range(5)]
    assert made == alone(other, 6)


def test_a_live_slot_is_not_prefilled_over(runner):
    first = request(5, 6)
    made = [prefill(runner, 1, first).token_id]
    with pytest.raises(ValueError, match="slot 1"):
        prefill(runner, 1, request(6, 6))
    assert [*made, runner.decode([1])[0].token_id] == alone(first, 2)


def test_a_prompt_longer_than_the_largest_bucket_is_refused_with_both_numbers(runner):
    with pytest.raises(PromptTooLong, match=r"17 tokens.* 16"):
        prefill(runner, 0, request(3, 17))
    prefill(runner, 0, request(3, 16))


def test_a_mismatch_of_image_and_token_leaves_the_slot_free(runner):
    good = request(4, 6, image=True)
    for broken in (GenerationRequest(good.prompt_ids), GenerationRequest(good.prompt_ids * 2, image=good.image)):
        with pytest.raises(BadRequest, match="image"):
            prefill(runner, 0, broken)
    assert prefill(runner, 0, good).token_id == alone(good, 1)[0]
