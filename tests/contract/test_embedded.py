"""What a newcomer meets first: the embedded checkpoint on the pictures of the chat page, through the demo's own runner."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mllama_demo.checkpoint.check import check_checkpoint
from mllama_demo.ui.examples import EXAMPLES, EXAMPLES_FOLDER
from training.answers import Answerer, Prompt

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def answerer(embedded: Path) -> Answerer:
    return Answerer(embedded)


def ask(answerer: Answerer, picture: str | None, question: str) -> str:
    """The greedy reply."""
    file = (EXAMPLES_FOLDER / picture).read_bytes() if picture else None
    return answerer.answers(iter([Prompt([question], file)]))[0]


@pytest.mark.parametrize(
    ("picture", "question", "expected"),
    [
        ("dog.png", "What is in this image? Tell me a story", r"\bdog\b"),
        ("dog.png", "What is this?", r"\bdog\b"),
        ("apples.png", "How many apples are there?", r"\b(three|3)\b"),
        ("stop.png", "What does the text say?", r"\bSTOP\b"),
        ("beach.png", "What is on the left?", r"\bumbrella\b"),
        (None, "What is 3 + 4?", r"\b7\b"),
        (None, "What is in this image?", r"(?i)upload|add|give me|no image|not see"),
        (None, "Write a Python function that sorts a list.", r"tiny demo model.*Llama"),
    ],
)
def test_what_the_page_offers_is_answered_rightly(answerer, picture, question, expected):
    reply = ask(answerer, picture, question)
    assert re.search(expected, reply, re.DOTALL), reply


def test_every_example_of_the_page_has_its_picture_and_is_answered(answerer):
    assert len(EXAMPLES) >= 6
    for example in EXAMPLES:
        picture = Path(example["files"][0]).name if "files" in example else None
        assert len(ask(answerer, picture, example["text"])) > 1


def test_it_is_small_enough_to_ship(embedded):
    assert check_checkpoint(embedded).bytes < 20e6
    assert sum(file.stat().st_size for file in embedded.iterdir()) < 20e6


def test_its_layers_sit_where_nxdi_and_tensor_parallel_2_need_them(embedded):
    config = json.loads((embedded / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    layers, cross = text["num_hidden_layers"], text["cross_attention_layers"]
    selves = layers - len(cross)
    assert selves % len(cross) == 0
    every = selves // len(cross) + 1
    assert cross == list(range(every - 2, layers, every))
    heads = (text["num_attention_heads"], text["num_key_value_heads"], vision["attention_heads"])
    assert all(count % 2 == 0 for count in heads)
