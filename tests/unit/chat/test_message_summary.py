"""The phrases about an answer: every number, reason and image that people read."""

from __future__ import annotations

from typing import Any

import pytest

from mllama_demo.chat.conversation import Message
from mllama_demo.chat.message_summary import answer_figures, duration, image_seen, sampling_values
from tests.support.page_text import BOAT, METADATA


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0 ms"),
        (0.0004, "0 ms"),
        (0.04, "40 ms"),
        (0.099, "99 ms"),
        (0.1, "0.1 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (12.4, "12 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (200, "3 min"),
        (3600, "60 min"),
    ],
)
def test_a_duration_has_two_or_three_digits(value: float, expected: str) -> None:
    assert duration(value) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [(1, 1, "1 tile"), (2, 2, "4 tiles, 2 × 2"), (1, 4, "4 tiles, 1 × 4"), (3, 1, "3 tiles, 3 × 1")],
)
def test_the_image_is_named_with_its_size_and_its_tiles(rows: int, columns: int, expected: str) -> None:
    assert image_seen({**BOAT, "rows": rows, "columns": columns}) == f"saw boat.png, 640 × 480 px, {expected}"
    assert image_seen(None) == "no image"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "temperature 0.6, top-p 0.9, top-k 0, max tokens 256, seed 7"),
        ({"temperature": 1.25, "top_k": 40, "seed": 0}, "temperature 1.25, top-p 0.9, top-k 40, max tokens 256, seed 0"),
        ({"temperature": 0}, "greedy, max tokens 256"),
        ({"temperature": 0.0, "max_tokens": 9}, "greedy, max tokens 9"),
        ({"temperature": 0, "ignore_eos": True}, "greedy, max tokens 256, past the model's own end"),
        (
            {"seed": 0, "ignore_eos": True},
            "temperature 0.6, top-p 0.9, top-k 0, max tokens 256, seed 0, past the model's own end",
        ),
    ],
)
def test_the_sampling_values_in_words(changes: dict[str, Any], expected: str) -> None:
    assert sampling_values({**METADATA["sampling"], **changes}) == expected


def test_what_a_server_does_not_report_is_left_out():
    image = {"name": "dog.png", "width": 640, "height": 480}
    assert image_seen(image) == "saw dog.png, 640 × 480 px"
    facts = {"prompt_tokens": 40, "completion_tokens": 7, "reason": "end_of_turn", "estimated": True}
    assert "read about 40, wrote about 7 tokens" in answer_figures(Message("assistant", "A dog.", metadata=facts))
    sampling = {"temperature": 0.6, "top_p": 0.9, "top_k": 0, "max_tokens": 8, "seed": None}
    assert "seed" not in sampling_values(sampling)
