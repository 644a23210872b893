"""The training against what the demo runs: the same pixels, the same prompt, the same numbers, from nothing to a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, MllamaForConditionalGeneration

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.images.tiles import tile_layout
from tests.support.meta_reference import MetaReference
from training.backdrops import backdrop
from training.batches import cut_tiles
from training.dialogue import ChatFormat
from training.export import HEAD, LOGIT_SCALE, export
from training.labels import HEADS, IGNORE
from training.model import (
    ASPECT_RATIOS,
    FLOAT32_ATTENTION,
    IMAGE_MEAN,
    IMAGE_STD,
    MAX_TILES,
    TILE,
    Student,
    cross_attention_layers,
    make_config,
)
from training.plan import Size, read_plan
from training.talk.exchange import Exchange
from training.team import Team
from training.warm_start import start_from

SMALL = Size(
    text_width=64,
    text_heads=4,
    text_kv_heads=2,
    text_mlp=96,
    vision_width=32,
    vision_heads=2,
    local_layers=2,
    intermediate=(0, 1),
)
ALONE = Team(0, 1, torch.device("cpu"), 0)


@pytest.fixture(scope="module")
def chat(tokenizer: Tokenizer) -> ChatFormat:
    return ChatFormat(tokenizer)


@pytest.fixture(scope="module")
def student(chat: ChatFormat) -> Student:
    torch.manual_seed(3)
    student = Student(make_config(SMALL, chat.image, chat.begin, chat.end, chat.pad)).eval()
    with torch.no_grad():
        for name, parameter in student.model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.15)
            elif "gate" in name:
                parameter.fill_(0.7)
    return student


@pytest.fixture(scope="module")
def exported(student: Student, embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export(student, embedded / "tokenizer.json", folder)
    return folder


SIZES = [(300, 300), (300, 120), (120, 400), (420, 110), (70, 60), (110, 330), (200, 100), (150, 149)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pictures_are_cut_into_the_tiles_that_the_processor_makes(exported, width, height):
    image = backdrop("the sea", width, height, np.random.default_rng(1))
    layout = tile_layout(width, height, TILE, MAX_TILES)
    made = AutoImageProcessor.from_pretrained(exported)(images=[[image]], return_tensors="pt")
    resized = np.asarray(image.resize((layout.width, layout.height), 2))
    tiles = torch.from_numpy(cut_tiles(resized, layout)).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    filled = torch.arange(MAX_TILES) < layout.tiles
    ours = (tiles - mean) / std * filled[:, None, None, None]
    # A step of one in eight bits is allowed: rounding after resizing.
    assert (ours - made["pixel_values"][0, 0]).abs().max() <= 1.01 / 255 / min(IMAGE_STD)
    assert made["aspect_ratio_ids"].item() == ASPECT_RATIOS.index([layout.rows, layout.columns]) + 1
    assert made["aspect_ratio_mask"][0, 0].bool().tolist() == filled.tolist()


@pytest.mark.parametrize("image_turn", [None, 0, 1])
def test_training_conversations_are_the_prompts_of_the_demo(chat, tokenizer, image_turn):
    exchanges = [
        Exchange("what", "What is in this image?", 'The text says "STOP 42".'),
        Exchange("count", "how many dogs are there", "There are two dogs."),
        Exchange("where", "Where is it?", "At the top left."),
    ]
    row = chat.encode(exchanges, image_turn)
    ids, labels = row.ids, row.labels
    reference = ImageRef("0", "image", 300, 300)
    messages: list[Message] = []
    for index, exchange in enumerate(exchanges):
        messages.append(Message("user", exchange.question, reference if index == image_turn else None))
        prompt = encode_chat(tuple(messages), tokenizer)
        assert ids[: len(prompt)] == prompt
        answer = [*tokenizer.encode(exchange.answer), chat.end]
        assert labels[len(prompt) : len(prompt) + len(answer)] == answer
        messages.append(Message("assistant", exchange.answer))
    assert len(ids) == len(labels)
    assert sum(label != IGNORE for label in labels) == sum(len(tokenizer.encode(e.answer)) + 1 for e in exchanges)


def test_a_limit_leaves_out_whole_turns(chat):
    exchanges = [Exchange("what", "What is this?", "A dog.")] * 20
    row = chat.encode(exchanges, 0, limit=60)
    ids, labels = row.ids, row.labels
    assert len(ids) == len(labels) <= 60
    assert ids[-1] == chat.end


@pytest.mark.parametrize(("width", "height"), [(300, 300), (300, 100), (90, 360), (70, 70)])
def test_the_loss_is_that_of_metas_computation(student, exported, chat, width, height):
    """Cross-entropy by the training's fast path against an independent computation from the written files."""
    image = backdrop("a brick wall", width, height, np.random.default_rng(2))
    layout = tile_layout(width, height, TILE, MAX_TILES)
    resized = image.resize((layout.width, layout.height), 2)
    row = chat.encode([Exchange("what", "What is this?", "A dog and a cat."), Exchange("count", "How many?", "Two.")], 0)
    ids, labels = row.ids, row.labels
    tiles = torch.from_numpy(cut_tiles(np.asarray(resized), layout))[None]
    ratio = torch.tensor([ASPECT_RATIOS.index([layout.rows, layout.columns]) + 1])
    filled = (torch.arange(MAX_TILES) < layout.tiles)[None]
    with torch.no_grad():
        rounded = Student(student.model.config).eval()
        rounded.load_state_dict({name: value.half().float() for name, value in student.state_dict().items()})
        states = rounded.see(tiles, ratio, filled)
        wanted = torch.tensor([labels])
        loss = rounded.talk_loss(
            torch.tensor([ids]),
            wanted,
            torch.arange(len(ids))[None],
            image_at=torch.tensor([ids.index(chat.image)]),
            states=states,
            filled=filled,
        )
    reference = MetaReference(exported)
    logits = reference.logits(ids, reference.see(image))
    expected = torch.nn.functional.cross_entropy(logits[:-1] / LOGIT_SCALE, torch.tensor(labels[1:]), ignore_index=IGNORE)
    assert loss.item() == pytest.approx(expected.item(), abs=2e-3)


def test_the_written_folder_is_a_whole_checkpoint(exported, student):
    info = check_checkpoint(exported)
    assert info.parameters == sum(value.numel() for value in student.model.state_dict().values())
    assert (info.dtype, info.tile_size, info.max_tiles) == ("float16", TILE, MAX_TILES)
    config = json.loads((exported / "config.json").read_text())
    assert config["image_token_index"] == config["text_config"]["vocab_size"]
    assert config["text_config"]["rope_theta"] == 10000.0


def test_transformers_reads_the_written_folder(exported, student):
    loaded = MllamaForConditionalGeneration.from_pretrained(exported, dtype=torch.float32)
    for name, value in student.model.state_dict().items():
        written = LOGIT_SCALE * value if name == HEAD else value
        assert torch.equal(loaded.state_dict()[name], written.half().float()), name


@pytest.mark.parametrize(("layers", "expected"), [((32, 8), [3, 8, 13, 18, 23, 28, 33, 38]), ((4, 2), [1, 4]), ((6, 2), [2, 6])])
def test_cross_attention_sits_where_the_published_models_have_it(layers, expected):
    assert cross_attention_layers(*layers) == expected


def test_an_impossible_placement_of_cross_attention_is_refused():
    with pytest.raises(ValueError, match="no multiple"):
        cross_attention_layers(5, 2)


def test_new_weights_start_from_a_smaller_checkpoint_and_answer_as_it_does(student, exported, embedded, chat):
    """Two more vision layers that change nothing yet, and the same tokens."""
    deeper = Student(make_config(replace(SMALL, local_layers=4), chat.image, chat.begin, chat.end, chat.pad)).eval()
    fresh = start_from(deeper, embedded / "tokenizer.json", exported)
    assert fresh
    assert all("layers.2." in name or "layers.3." in name for name in fresh)
    tiles = torch.randint(0, 256, (1, MAX_TILES, 3, TILE, TILE), dtype=torch.uint8)
    picture = tiles, torch.tensor([6]), torch.ones(1, MAX_TILES, dtype=torch.bool)
    with torch.no_grad():
        states = [one.see(*picture) for one in (student, deeper)]
        ids = torch.tensor([chat.encode([Exchange("what", "What is this?", "A dog.")], None).ids])
        logits = [one.model(input_ids=ids, use_cache=False).logits for one in (student, deeper)]
    torch.testing.assert_close(*states, rtol=0, atol=0.02)
    torch.testing.assert_close(*logits, rtol=0, atol=0.02)


def test_attention_in_float32_is_that_of_transformers(student, chat):
    other = Student(student.model.config, FLOAT32_ATTENTION).eval()
    other.load_state_dict(student.state_dict())
    tiles = torch.randint(0, 256, (2, MAX_TILES, 3, TILE, TILE), dtype=torch.uint8)
    filled = torch.arange(MAX_TILES)[None] < torch.tensor([[4], [2]])
    with torch.no_grad():
        expected, found = (one.see(tiles, torch.tensor([6, 2]), filled) for one in (student, other))
    torch.testing.assert_close(found, expected)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = other.patch_loss(
            other.see(tiles, torch.tensor([6, 2]), filled), torch.zeros(2, len(HEADS), MAX_TILES, 36, dtype=torch.int16)
        )
    loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in other.parameters())


def test_the_configuration_has_even_head_counts_for_tensor_parallel_2_and_a_file_of_at_most_20_mb(chat):
    plan = read_plan()
    size = plan.size
    assert all(count % 2 == 0 for count in (size.text_heads, size.text_kv_heads, size.vision_heads))
    with torch.device("meta"):
        model = Student(make_config(size, plan.vocabulary, 0, 1, 2)).model
    assert 2 * sum(value.numel() for value in model.state_dict().values()) < 19.5e6
