"""Measures against hand-computed examples, and the comparison of two answers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from mllama_demo.engine.token_sampler import filter_logits
from mllama_demo.errors import BadRequest
from mllama_demo.explore import measures
from mllama_demo.explore.compare import Comparison, Divergence, compare, word_diff
from mllama_demo.explore.grid import make_grid
from mllama_demo.explore.measures import (
    MEASURES,
    character_grams,
    distinct,
    group_cells,
    heat_map,
    mean_entropy,
    self_similarity,
    unique_share,
)
from mllama_demo.explore.results import Cell
from mllama_demo.sampling import SamplingParams
from tests.support.explore_runs import failed_cell, logits_at, make_run, sampled_cell, with_texts

# --- texts ---------------------------------------------------------------------------------------------------------------


def test_distinct_n_divides_different_ngrams_by_all_ngrams() -> None:
    """Five words of which four differ; pairs a-dog, dog-and, and-a, a-dog: three of four."""
    assert distinct(["A dog and a dog"], 1) == pytest.approx(3 / 5)
    assert distinct(["A dog and a dog"], 2) == pytest.approx(3 / 4)


def test_ngrams_are_pooled_over_answers_but_do_not_span_two() -> None:
    assert distinct(["red sun", "red sky"], 1) == pytest.approx(3 / 4)
    assert distinct(["red sun", "red sky"], 2) == 1.0
    assert distinct(["red", "sun"], 2) is None


def test_unique_share_counts_equal_answers_once() -> None:
    assert unique_share(["a", "b", "a", "a"]) == 0.5
    assert unique_share([]) is None


def chrf(hypothesis: str, reference: str) -> float:
    return measures.chrf(character_grams(hypothesis), character_grams(reference))


def test_chrf_of_a_hand_computed_example() -> None:
    """abc against abd: 2 of 3 characters, 1 of 2 pairs, 0 of 1 triple; precision and recall are both their mean, 7/18."""
    assert chrf("abc", "abd") == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_chrf_weights_recall_twice_as_much_as_precision() -> None:
    """ab against abab: precision 1 and 1, recall 2/4 and 1/3, so P = 1, R = 5/12 over the orders that both have."""
    precision, recall = 1.0, (1 / 2 + 1 / 3) / 2
    assert chrf("ab", "abab") == pytest.approx(100 * 5 * precision * recall / (4 * precision + recall))
    assert chrf("ab", "abab") < chrf("abab", "ab")


@pytest.mark.parametrize(
    ("a", "b", "score"), [("same", "same", 100), ("a b", "ab", 100), ("ab", "xy", 0), ("", "", 100), ("", "x", 0)]
)
def test_chrf_of_equal_different_and_empty_texts(a: str, b: str, score: float) -> None:
    assert chrf(a, b) == score


def test_chrf_agrees_with_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacrebleu is not in the environment of the Neuron SDK")

    reference = "Once upon a time there was a dog, and the dog was red."
    for hypothesis in ("Once there was a dog.", "A red sun stood over the sea", reference, "dog"):
        assert chrf(hypothesis, reference) == pytest.approx(sacrebleu.sentence_chrf(hypothesis, [reference]).score)


def test_self_similarity_is_the_mean_chrf_over_all_pairs() -> None:
    pair = (chrf("abc", "abd") + chrf("abd", "abc")) / 2
    assert self_similarity(["abc", "abc"]) == 100
    assert self_similarity(["abc", "abc", "abd"]) == pytest.approx((100 + 2 * pair) / 3)
    assert self_similarity(["abc"]) is None


# --- cells and groups ----------------------------------------------------------------------------------------------------


def test_mean_entropy_ignores_the_filters_and_needs_traces() -> None:
    """All 40 candidates of a small vocabulary are recorded, so nothing is left out."""
    cell = sampled_cell(SamplingParams(temperature=0.2, top_k=5, seed=1, max_tokens=1), 1)
    whole = filter_logits(logits_at(0), SamplingParams(temperature=1.0, top_p=1.0)).probabilities
    expected = -sum(p * math.log2(p) for p in whole)
    found = mean_entropy(cell)
    assert found is not None
    assert 0.9 * expected <= found <= expected + 1e-9
    assert mean_entropy(with_texts(make_run(), "no record").cells[0]) is None


def test_time_measures_exclude_the_wait_for_a_slot() -> None:
    cells = make_run().cells
    assert MEASURES["ttft"].of(cells) == pytest.approx(0.25)
    assert MEASURES["speed"].of(cells) == pytest.approx(5.0)
    assert MEASURES["length"].of(cells) == 6


def test_groups_count_incomplete_cells_as_missing() -> None:
    run = make_run()
    incomplete = run.model_copy(update={"cells": (failed_cell(run.cells[0]), *run.cells[1:])})
    found = group_cells(incomplete, ["temperature"])
    assert [(g.values, len(g.cells), g.missing) for g in found] == [({"temperature": 0.5}, 3, 1), ({"temperature": 1.5}, 4, 0)]
    assert len(group_cells(run, [])[0].cells) == 8
    assert group_cells(make_run(make_grid({"prompt": "Hello", "max_tokens": 3})), [])[0].measure("self_similarity") is None


def test_a_heat_map_has_a_value_for_each_pair_and_none_without_answers() -> None:
    run = with_texts(make_run(), "a", "a", "a", "b", "a", "b", "c", "d")
    table = heat_map(run, "unique", "temperature", "top_p")
    assert (table.row_values, table.column_values) == ((0.5, 1.5), (0.8, 1.0))
    assert table.values == ((0.5, 1.0), (1.0, 1.0))
    assert (table.shade(0.5), table.shade(1.0), table.shade(None)) == (0.0, 1.0, None)
    cells = [failed_cell(c) if (c.temperature, c.top_p) == (0.5, 0.8) else c for c in run.cells]
    assert heat_map(run.model_copy(update={"cells": tuple(cells)}), "unique").values[0][0] is None
    assert MEASURES["unique"].text(None) == "–"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("beauty",), "there are distinct_1"),
        (("unique", "size", "top_p"), "temperature, top_p, top_k, seed"),
        (("unique", "top_p", "top_p"), "two different axes"),
    ],
)
def test_an_unknown_measure_or_axis_is_refused_and_named(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        heat_map(make_run(), *arguments)


# --- comparing -----------------------------------------------------------------------------------------------------------


def test_word_diff_aligns_words_and_keeps_every_character() -> None:
    a, b = "The red  dog sat.\nIt slept.", "The dog sat down.\nIt slept."
    segments = word_diff(a, b)
    assert [(segment.kind, segment.a.strip(), segment.b.strip()) for segment in segments] == [
        ("same", "The", "The"),
        ("only_a", "red", ""),
        ("same", "dog", "dog"),
        ("changed", "sat.", "sat down."),
        ("same", "It slept.", "It slept."),
    ]
    assert "".join(segment.a for segment in segments) == a
    assert "".join(segment.b for segment in segments) == b


def compare_samples(first: dict, second: dict, tokens: int = 12) -> tuple[Comparison, list[Cell]]:
    values = [SamplingParams(**{"top_p": 1.0, "max_tokens": tokens, **given}) for given in (first, second)]
    a, b = (sampled_cell(value, tokens) for value in values)
    return compare(a, b, *values), [a, b]


def diverge(first: dict, second: dict) -> Divergence:
    divergence = compare_samples(first, second)[0].divergence
    assert divergence is not None
    return divergence


def test_equal_answers_do_not_diverge() -> None:
    comparison, _ = compare_samples({"temperature": 1.0, "seed": 1}, {"temperature": 1.0, "seed": 1})
    assert comparison.same
    assert comparison.divergence is None


def test_two_seeds_diverge_because_of_the_random_number() -> None:
    first, second = ({"temperature": 1.0, "top_k": 60, "seed": seed} for seed in (1, 2))
    found, (_, (a, b)) = diverge(first, second), compare_samples(first, second)
    assert [t.id for t in a.tokens[: found.index]] == [t.id for t in b.tokens[: found.index]]
    assert (found.a.token_id, found.b.token_id) == (a.tokens[found.index].id, b.tokens[found.index].id)
    assert found.a.token_id != found.b.token_id
    assert found.a.draw != found.b.draw
    assert found.a.steps is not None
    assert found.b.steps is not None
    assert [c.final for c in found.a.steps.candidates] == [c.final for c in found.b.steps.candidates]
    assert (found.cause, found.a.other_possible, found.b.other_possible) == ("random_number", True, True)


def test_answers_diverge_because_of_filters_when_the_other_token_was_cut() -> None:
    causes = set()
    for seed in range(10):
        found = diverge({"temperature": 1.5, "seed": seed}, {"temperature": 1.5, "top_k": 2, "seed": seed})
        assert found.a.other_possible is True
        assert (found.cause == "filters") == (found.b.other_possible is False)
        causes.add(found.cause)
    assert "filters" in causes


def test_answers_diverge_because_of_greedy_when_one_is_greedy() -> None:
    assert diverge({"temperature": 0.0, "seed": 1}, {"temperature": 1.9, "seed": 1}).cause == "greedy"


def test_answers_diverge_where_one_of_them_ends() -> None:
    values = SamplingParams(temperature=0.0, seed=1)
    comparison = compare(sampled_cell(values, 3), sampled_cell(values, 5), values, values)
    assert comparison.divergence is not None
    assert (comparison.divergence.index, comparison.divergence.a.token_id, comparison.divergence.cause) == (3, None, "unknown")


def test_answers_without_token_ids_are_compared_by_words_only() -> None:
    a, b = with_texts(make_run(), "a dog", "a cat").cells[:2]
    a, b = (cell.model_copy(update={"tokens": tuple(t.model_copy(update={"id": -1}) for t in cell.tokens)}) for cell in (a, b))
    values = SamplingParams(seed=1)
    comparison = compare(a, b, values, replace(values, seed=2))
    assert comparison.divergence is None
    assert not comparison.same
