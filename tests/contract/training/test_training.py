"""The training against what the demo runs: the same pixels, the same prompt, the same numbers, from nothing to a checkpoint."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
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
from training.export import HEAD, LOGIT_SCALE, export, load
from training.labels import IGNORE
from training.model import (
    ASPECT_RATIOS,
    IMAGE_MEAN,
    IMAGE_STD,
    MAX_TILES,
    TILE,
    Size,
    Student,
    cross_attention_layers,
    make_config,
)
from training.optimizer import Optimizer
from training.talk.exchange import Exchange
from training.team import Team
from training.train import Run, Stage, layers, learning_rate

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


def test_training_can_go_on_from_a_written_folder(exported, student):
    other = Student(student.model.config)
    load(other, exported)
    for name, value in student.model.state_dict().items():
        # The head is written multiplied, which rounds it elsewhere.
        torch.testing.assert_close(
            other.model.state_dict()[name], value.half().float(), rtol=1e-3 if name == HEAD else 0, atol=1e-7
        )


def test_a_folder_of_another_size_is_no_start(exported, student, embedded):
    with pytest.raises(ValueError, match="another model"):
        load(Student(student.model.config), embedded)


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


def test_head_counts_allow_tensor_parallel_2():
    size = Size()
    assert all(count % 2 == 0 for count in (size.text_heads, size.text_kv_heads, size.vision_heads))


# --- the training itself -------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_stays_and_falls_to_the_end():
    stage = Stage("see", minutes=10, rate=1.0, batch=4, seed=1)
    assert learning_rate(stage, 0, 0) < 0.1
    assert learning_rate(stage, 100, 60) == 1.0
    assert 0.4 < learning_rate(stage, 100, 480) < 0.6
    assert learning_rate(stage, 100, 600) <= 0.01


def _one_batch(chat: ChatFormat) -> tuple[torch.Tensor, torch.Tensor]:
    row = chat.encode([Exchange("sum", "What is 2 + 2?", "4.")], None)
    return torch.tensor([row.ids] * 2), torch.tensor([row.labels] * 2)


@pytest.fixture
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every step of training takes a twentieth of a second, however busy the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr("training.train.time.monotonic", lambda: next(ticks) / 20)


def _run(folder: Path, chat: ChatFormat, minutes: float) -> Run:
    torch.manual_seed(5)
    student = Student(make_config(SMALL, chat.image, chat.begin, chat.end, chat.pad))
    run = Run(folder, student, ALONE)
    ids, labels = _one_batch(chat)
    embedding = student.model.model.vision_model.patch_embedding
    optimizer = Optimizer([(student, 1.0)], layers(student), embedding, 3e-3, ALONE)

    def batches(size: int, seed: str):
        while True:
            yield None

    run.train(Stage("talk", minutes, 3e-3, 2, 1), optimizer, batches, lambda _: (student.talk_loss(ids, labels), {}))
    return run


def test_a_run_learns_saves_its_curve_and_does_nothing_when_it_is_done(tmp_path, chat, steady_clock):
    run = _run(tmp_path, chat, 0.1)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    again = _run(tmp_path, chat, 0.1)
    assert again.done == ["talk"]
    assert again.step == run.step
    weights = zip(run.student.parameters(), again.student.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, chat, steady_clock):
    torch.manual_seed(5)
    student = Student(make_config(SMALL, chat.image, chat.begin, chat.end, chat.pad))
    embedding = student.model.model.vision_model.patch_embedding
    optimizer = Optimizer([(student, 1.0)], layers(student), embedding, 3e-3, ALONE)
    run = Run(tmp_path, student, ALONE)
    run.stage, run.step, run.spent_s = "talk", 70, 5.9
    run.save(optimizer)
    resumed = _run(tmp_path, chat, 0.1)
    assert 70 < resumed.step < 80
    assert resumed.done == ["talk"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches the drawings and fonts that training needs")
def test_a_short_run_makes_a_checkpoint_from_nothing(tmp_path):
    """Fetches the packages, draws, trains both stages and writes: about a minute the first time.

    Without an evaluation, because a model that has learned nothing writes every answer to the limit.
    """
    command = [sys.executable, "-m", "training", "--minutes", "0.2", "--batch", "8", "--cases", "0"]
    command += ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert check_checkpoint(tmp_path / "out").max_tiles == 4


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches the drawings and fonts that the cases are made of")
def test_the_evaluation_prints_a_row_for_each_type_of_question(embedded):
    command = [sys.executable, "-m", "training.evaluate", str(embedded), "--cases", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "| name one thing |" in done.stdout
    assert "temperature 1" in done.stdout
    figures = [float(figure) for figure in re.findall(r"\*\*(\d\.\d\d)\*\*", done.stdout)]
    assert len(figures) > 60
    assert sum(figures) / len(figures) > 0.5


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--batch", "1"], ["--start", "nowhere"], ["--nonsense"]])
def test_wrong_options_are_refused_at_once(words):
    done = subprocess.run([sys.executable, "-m", "training", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
