"""Metrics of the answers of a run: diversity, similarity, entropy, length and speed. Pure functions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from mllama_demo.errors import BadRequest
from mllama_demo.explore.filter_steps import entropy
from mllama_demo.explore.grid import AXES, Axis
from mllama_demo.explore.results import Cell, Run

_CHRF_ORDER = 6
_CHRF_BETA = 2


def split_words(text: str) -> list[str]:
    """Sequences of letters and digits, in lower case."""
    return re.findall(r"\w+", text.lower())


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Number of different n-grams of words divided by the number of all n-grams, over all texts. None without any n-gram.

    distinct-1 and distinct-2 of Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    """
    grams = [tuple(words[i : i + n]) for words in map(split_words, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def unique_share(texts: Sequence[str]) -> float | None:
    """Number of different texts divided by the number of all texts. None without texts."""
    return len(set(texts)) / len(texts) if texts else None


def self_similarity(texts: Sequence[str]) -> float | None:
    """Similarity of the texts, from 0 to 100: the mean chrF of every text against every other. None with fewer than two texts.

    Zhu et al. 2018, "Texygen", do the same with BLEU. chrF also works for answers of a few words.
    """
    if len(texts) < 2:
        return None
    grams = [character_grams(text) for text in texts]
    return fmean((chrf(a, b) + chrf(b, a)) / 2 for a, b in combinations(grams, 2))


def character_grams(text: str) -> list[Counter[str]]:
    """Counts the character n-grams of a text, for each n from 1 to 6. White space is ignored."""
    bare = "".join(text.split())
    return [Counter(bare[i : i + n] for i in range(len(bare) - n + 1)) for n in range(1, _CHRF_ORDER + 1)]


def chrf(hypothesis: list[Counter[str]], reference: list[Counter[str]]) -> float:
    """Character n-gram F-score from 0 to 100, with β = 2, of the character_grams of two texts.

    Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    if hypothesis == reference:  # two empty texts too
        return 100.0
    precisions, recalls = [], []
    for made, wanted in zip(hypothesis, reference, strict=True):
        if made and wanted:
            matches = sum(min(count, wanted[gram]) for gram, count in made.items())
            precisions.append(matches / made.total())
            recalls.append(matches / wanted.total())
    precision, recall = (fmean(values) if values else 0.0 for values in (precisions, recalls))
    if precision + recall == 0:
        return 0.0
    weight = _CHRF_BETA**2
    return 100 * (1 + weight) * precision * recall / (weight * precision + recall)


# --- measures of cells ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One number that describes a group of cells.

    Attributes:
        unit: text after the number.
        digits: number of decimals.
        of: computes the number; None where it is not defined.
    """

    name: str
    label: str
    unit: str
    digits: int
    help: str
    of: Callable[[Sequence[Cell]], float | None]

    def text(self, value: float | None) -> str:
        """The formatted number."""
        return "–" if value is None else f"{value:.{self.digits}f}{self.unit}"


def _texts(cells: Sequence[Cell]) -> list[str]:
    return [cell.text for cell in cells]


def mean_entropy(cell: Cell) -> float | None:
    """Mean entropy of the answer's tokens in bits, before any filter. None without a record.

    The unrecorded candidates count as one outcome, so the result is a lower bound.
    """
    if cell.traces is None:
        return None
    return fmean(entropy(trace.raw_probabilities(), trace.unrecorded_mass()) for trace in cell.traces)


def _prefill_time(cell: Cell) -> float | None:
    if cell.timings is None or cell.timings.ttft_s is None:
        return None
    return cell.timings.ttft_s - cell.timings.waited_s


def _mean_of(value: Callable[[Cell], float | None]) -> Callable[[Sequence[Cell]], float | None]:
    """A function for Measure.of: the mean over the cells where the value is defined."""

    def mean(cells: Sequence[Cell]) -> float | None:
        known = [number for cell in cells if (number := value(cell)) is not None]
        return fmean(known) if known else None

    return mean


_SIMILARITY_HELP = "mean chrF between answers: 100 when all are the same"
_ENTROPY_HELP = "how undecided the model was, mean over tokens, before any filter"
MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("distinct_1", "Distinct-1", "", 2, "different words / words", lambda cells: distinct(_texts(cells), 1)),
        Measure("distinct_2", "Distinct-2", "", 2, "different word pairs / word pairs", lambda cells: distinct(_texts(cells), 2)),
        Measure("unique", "Unique answers", "", 2, "different answers / answers", lambda cells: unique_share(_texts(cells))),
        Measure("self_similarity", "Self-similarity", "", 0, _SIMILARITY_HELP, lambda cells: self_similarity(_texts(cells))),
        Measure("entropy", "Entropy", " bits", 2, _ENTROPY_HELP, _mean_of(mean_entropy)),
        Measure("length", "Length", " tokens", 0, "mean", _mean_of(lambda cell: len(cell.tokens))),
        Measure("ttft", "Time to first token", " s", 3, "mean, without waiting for a slot", _mean_of(_prefill_time)),
        Measure("speed", "Speed", " tokens/s", 1, "mean of a cell", _mean_of(lambda cell: cell.tokens_per_second)),
    )
}


@dataclass(frozen=True)
class Group:
    """Cells that have the same values on some axes.

    Attributes:
        values: the values on these axes.
        cells: the cells with a complete answer.
        missing: number of cells without a complete answer.
    """

    values: dict[Axis, float]
    cells: tuple[Cell, ...]
    missing: int

    def measure(self, name: str) -> float | None:
        return MEASURES[name].of(self.cells) if self.cells else None


def group_cells(run: Run, axes: Sequence[Axis]) -> list[Group]:
    """Groups the run's cells by their values on the axes, in the order of the grid. Without axes, all cells are one group."""
    found: dict[tuple[float, ...], list[Cell]] = {}
    for cell in run.cells:
        found.setdefault(tuple(getattr(cell, axis) for axis in axes), []).append(cell)
    return [
        Group(dict(zip(axes, key, strict=True)), tuple(c for c in cells if c.complete), sum(not c.complete for c in cells))
        for key, cells in found.items()
    ]


@dataclass(frozen=True)
class HeatMap:
    """A measure over two axes. values: [rows][columns], None where the measure is not defined."""

    measure: Measure
    rows: Axis
    columns: Axis
    row_values: tuple[float, ...]
    column_values: tuple[float, ...]
    values: tuple[tuple[float | None, ...], ...]

    def shade(self, value: float | None) -> float | None:
        """The position of the value between the smallest and the largest, from 0 to 1. None for None."""
        known = [v for row in self.values for v in row if v is not None]
        if value is None:
            return None
        low, high = min(known), max(known)
        return 0.5 if high == low else (value - low) / (high - low)


def heat_map(run: Run, measure: str, rows: Axis = "temperature", columns: Axis = "top_p") -> HeatMap:
    """Computes a measure for each pair of values, over all cells that have them. Raises BadRequest for an unknown name."""
    _check_name(measure, MEASURES, "measure")
    for axis in (rows, columns):
        _check_name(axis, AXES, "axis")
    if rows == columns:
        raise BadRequest(f"A heat map needs two different axes, got {rows} twice.")
    by_value = {(g.values[rows], g.values[columns]): g.measure(measure) for g in group_cells(run, (rows, columns))}
    row_values, column_values = getattr(run.grid, rows), getattr(run.grid, columns)
    values = tuple(tuple(by_value[row, column] for column in column_values) for row in row_values)
    return HeatMap(MEASURES[measure], rows, columns, row_values, column_values, values)


def _check_name(name: Any, allowed: Any, what: str) -> None:
    if name not in allowed:
        raise BadRequest(f"There is no {what} {name!r:.80}; there are {', '.join(allowed)}.")
