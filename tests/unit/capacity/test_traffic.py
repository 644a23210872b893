"""Habits of visitors: read from the command line, and drawn."""

from __future__ import annotations

from itertools import islice, pairwise
from statistics import mean

import pytest

from mllama_demo.capacity.traffic import Traffic, draw_arrivals, parse_traffic
from mllama_demo.errors import ConfigError


def test_what_is_left_out_has_its_default() -> None:
    assert parse_traffic("people=200, questions_per_minute=1.5") == Traffic(people=200, questions_per_minute=1.5)
    assert parse_traffic("images=0") == Traffic(images=0.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "takes NAME=NUMBER of people, questions_per_minute, .*, got ''"),
        ("200", "got '200'"),
        ("persons=3", "got 'persons=3'"),
        ("people=2,people=3", "has people twice"),
        ("people=0", "people must be a whole number from 1 to 10,000,000, got '0'"),
        ("people=1.5", "people must be a whole number .*, got '1.5'"),
        ("people=many", "got 'many'"),
        ("images=2", "images must be a number from 0 to 1, got '2'"),
        ("images=nan", "images must be a number from 0 to 1, got 'nan'"),
        ("questions_per_minute=-1", "questions_per_minute must be a number from 0.001 to 60"),
    ],
)
def test_what_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_traffic(text)


def test_questions_have_the_rate_the_lengths_and_the_images_that_were_asked_for() -> None:
    traffic = Traffic(people=60, questions_per_minute=2, prompt_tokens=150, answer_tokens=80, images=0.3)
    drawn = list(islice(draw_arrivals(traffic, max_prompt=10_000, max_answer=10_000, seed=1), 20_000))
    assert all(a.at_s < b.at_s for a, b in pairwise(drawn))
    assert len(drawn) / drawn[-1].at_s == pytest.approx(2.0, rel=0.05)
    assert mean(a.prompt_tokens for a in drawn) == pytest.approx(150, rel=0.05)
    assert mean(a.answer_tokens for a in drawn) == pytest.approx(80, rel=0.05)
    assert mean(a.has_image for a in drawn) == pytest.approx(0.3, rel=0.05)
    assert {a.person for a in drawn} == set(range(60))


def test_lengths_are_cut_and_the_same_seed_draws_the_same_questions() -> None:
    traffic = Traffic(people=1)
    drawn = [list(islice(draw_arrivals(traffic, max_prompt=100, max_answer=50, seed=seed), 500)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert max(a.prompt_tokens for a in drawn[0]) == 100
    assert max(a.answer_tokens for a in drawn[0]) == 50
