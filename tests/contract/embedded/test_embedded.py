"""What a newcomer meets first: the embedded checkpoint on the pictures of the chat page, through the demo's own runner."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.images.examples import EXAMPLES, EXAMPLES_FOLDER
from mllama_demo.sampling import SamplingParams
from training.answers import Answerer, Prompt

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def answerer(embedded: Path) -> Answerer:
    return Answerer(embedded)


def ask(answerer: Answerer, picture: str | None, *turns: str, seeds: int = 0) -> list[str]:
    """The greedy reply, or with seeds one reply for each at temperature 1."""
    file = (EXAMPLES_FOLDER / picture).read_bytes() if picture else None
    sampled = [Prompt(turns, file, SamplingParams(1.0, 1.0, 0, 110, seed=seed)) for seed in range(seeds)]
    return answerer.answers(iter(sampled or [Prompt(turns, file)]))


@pytest.mark.parametrize(
    ("picture", "question", "expected"),
    [
        ("dog.png", "What is in this image? Tell me a story", r"\bdog\b"),
        ("dog.png", "What is this?", r"\bdog\b"),
        ("dog.png", "Is there a cat?", r"^No\b"),
        ("shapes.png", "What color is the circle?", r"(?i)\bred\b"),
        ("shapes.png", "Is the star left of the circle?", r"^Yes\b"),
        ("shapes.png", "Describe this image", r"(?=.*green star)(?=.*red circle)(?=.*blue square)"),
        ("apples.png", "How many apples are there?", r"\b(four|4)\b"),
        ("stop.png", "What does the text say?", r"\bSTOP\b"),
        ("beach.png", "What is on the right?", r"\bpenguin\b"),
        ("beach.png", "Where is the penguin?", r"\bright\b"),
        (None, "What is the recipe of mayonnaise in two sentences?", r"yolk.*oil"),
        (None, "What is the capital of Italy famous for?", r"Rome|Colosseum"),
        (None, "What is 3 + 4?", r"\b7\b"),
        (None, "What is 2 + 2?", r"\b4\b"),
        (None, "What is in this image?", r"(?i)upload|add|give me|no image|not see"),
        (None, "Write a Python function that sorts a list.", r"tiny demo model.*Llama"),
    ],
)
def test_what_the_page_offers_is_answered_rightly(answerer, picture, question, expected):
    reply = ask(answerer, picture, question)[0]
    assert re.search(expected, reply, re.DOTALL), reply


@pytest.mark.slow
def test_every_example_of_the_page_has_its_picture_and_is_answered(answerer):
    assert len(EXAMPLES) >= 6
    for example in EXAMPLES:
        assert len(ask(answerer, example.image, example.text)[0]) > 1


def test_it_understands_a_pronoun(answerer):
    reply = ask(answerer, "beach.png", "Where is the penguin?", "It is on the right.", "And the umbrella?")[0]
    assert "left" in reply, reply


@pytest.mark.slow
def test_stories_at_temperature_one_differ_and_are_about_what_is_there(answerer):
    replies = ask(answerer, "dog.png", "What is in this image? Tell me a story", seeds=20)
    assert len(set(replies)) >= 12
    assert sum("dog" in reply for reply in replies) >= 17


@pytest.mark.slow
def test_descriptions_at_temperature_one_differ_in_words_and_agree_in_things(answerer):
    replies = ask(answerer, "shapes.png", "Describe this image.", seeds=20)
    assert len(set(replies)) >= 6
    assert sum(all(name in reply.lower() for name in ("star", "circle", "square")) for reply in replies) >= 17


def test_it_is_as_small_as_its_card_says(embedded):
    info = check_checkpoint(embedded)
    card = (embedded / "README.md").read_text(encoding="utf-8")
    assert f"{info.parameters / 1e6:.1f} million parameters" in card
    assert info.bytes < 20e6
    assert sum(file.stat().st_size for file in embedded.iterdir()) < 20e6


def test_its_card_names_the_kinds_it_knows_and_every_licence(embedded):
    card = (embedded / "README.md").read_text(encoding="utf-8")
    found = re.search(r"(\d+) kinds of things – (.*?) –", card, re.DOTALL)
    assert found
    many, named = found.groups()
    assert len(named.split(", ")) == int(many) >= 60
    assert {"CC-BY-4.0", "Apache-2.0", "MIT", "OFL-1.1"} <= set(re.findall(r"[A-Z][A-Za-z-]*-[0-9.]+|\bMIT\b", card))


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
