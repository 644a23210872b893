"""Checkpoints of scripts/make_random_checkpoint.py are complete, and a runner answers with them about an image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import MllamaForConditionalGeneration

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.config.model_shape import PUBLISHED, read_shape
from mllama_demo.engine.runner import prefill
from mllama_demo.engine.torch.runner import TorchRunner
from tests.support.scripts import script
from tests.support.torch_runner_cases import ask, picture

SCRIPT = script("make_random_checkpoint")
TINY = SCRIPT.SHAPES["tiny"].model


def test_transformers_finds_every_tensor_and_no_other(random_checkpoint: Path) -> None:
    loaded = MllamaForConditionalGeneration.from_pretrained(random_checkpoint, local_files_only=True, output_loading_info=True)
    report = loaded[1]  # type: ignore[index]  # a pair, with output_loading_info
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report


def test_a_runner_answers_about_an_image(random_checkpoint: Path) -> None:
    runner = TorchRunner.load(random_checkpoint, slots=1, max_seq_len=256)
    images = [picture(2, 1, seed) for seed in (1, 2)]
    traces = []
    for image in images:
        traces.append(prefill(runner, 0, ask(Tokenizer(random_checkpoint), "What is this?", image=image)).trace)
        runner.release(0)
    assert traces[0] is not None
    assert torch.isfinite(torch.tensor(traces[0].logits)).all()
    assert traces[0] != traces[1], "the images change nothing"


def test_the_same_seed_gives_the_same_weights(random_checkpoint: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        SCRIPT.write_checkpoint(tmp_path / name, TINY, seed=seed)
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (random_checkpoint, tmp_path / "same", tmp_path / "other")
    ]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_the_weights_are_divided_into_files_that_an_index_lists(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SCRIPT, "FILE_LIMIT", 10**6)
    SCRIPT.write_checkpoint(tmp_path / "divided", TINY)
    divided, whole = check_checkpoint(tmp_path / "divided"), check_checkpoint(random_checkpoint)
    assert len(divided.weight_files) > 1
    assert divided.parameters == whole.parameters


def test_the_large_shape_is_that_of_the_published_model(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SCRIPT.configs.config(SCRIPT.SHAPES["11b"].model, "bfloat16", instruct=True)))
    assert read_shape(file) == PUBLISHED["11B"]


@pytest.mark.slow
def test_every_id_of_the_published_vocabulary_has_a_text_or_is_special(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(SCRIPT.tokenizer_json(SCRIPT.plain_tokens(128000)), encoding="utf-8")
    tokenizer = Tokenizer(tmp_path)
    assert all(tokenizer.token_bytes(token_id) for token_id in range(128000))
    named = {
        "<|begin_of_text|>": 128000,
        "<|end_of_text|>": 128001,
        "<|eom_id|>": 128008,
        "<|eot_id|>": 128009,
        "<|image|>": 128256,
    }
    assert {name: tokenizer.special_id(name) for name in named} == named
    text = "What is left of the dog? Three “quoted” words."
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_folder_with_files_is_refused(random_checkpoint: Path) -> None:
    with pytest.raises(SystemExit, match="is no empty folder"):
        SCRIPT.write_checkpoint(random_checkpoint, TINY)
