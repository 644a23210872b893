"""Compares two answers: which words differ, at which token the answers diverge, and why."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from mllama_demo.explore.filter_steps import FilterSteps, filter_steps
from mllama_demo.explore.results import Cell, Token
from mllama_demo.sampling import SamplingParams

DiffKind = Literal["same", "changed", "only_a", "only_b"]
_KINDS: dict[str, DiffKind] = {"equal": "same", "replace": "changed", "delete": "only_a", "insert": "only_b"}


@dataclass(frozen=True)
class DiffSegment:
    """Consecutive words that are equal or differ. White space belongs to the word before it.

    Attributes:
        kind: same: a and b have the same words; changed: a was replaced by b; only_a, only_b: the other one is empty.
        a: text of the first answer. All `a` of a comparison, joined, are the whole first text.
        b: text of the second answer.
    """

    kind: DiffKind
    a: str
    b: str


def word_diff(a: str, b: str) -> tuple[DiffSegment, ...]:
    """Aligns the words of two texts (Ratcliff and Obershelp's matching, as in difflib)."""
    words_a, words_b = (re.findall(r"\s+|\S+\s*", text) for text in (a, b))
    bare_a, bare_b = ([word.strip() for word in words] for words in (words_a, words_b))
    matcher = SequenceMatcher(None, bare_a, bare_b, autojunk=False)
    return tuple(
        DiffSegment(_KINDS[kind], "".join(words_a[a0:a1]), "".join(words_b[b0:b1]))
        for kind, a0, a1, b0, b1 in matcher.get_opcodes()
    )


@dataclass(frozen=True)
class DivergentToken:
    """The token of one answer at the position where two answers diverge.

    Attributes:
        token_id: None where the answer had ended.
        text: of the token.
        draw: the random number, None without one.
        steps: how the token was chosen; None without a record.
        record: the token with its candidates; None where the answer had ended.
        other_possible: whether this sampler could have drawn the other answer's token; None where the record does not tell.
    """

    token_id: int | None
    text: str = ""
    draw: float | None = None
    steps: FilterSteps | None = None
    other_possible: bool | None = None
    record: Token | None = None


Cause = Literal["forced", "random_number", "filters", "greedy", "unknown"]


@dataclass(frozen=True)
class Divergence:
    """The first token that differs.

    Attributes:
        index: how many tokens are the same.
        a: the token of the first answer.
        b: the token of the second answer.
        cause: forced: a user chose one of them; greedy: one of them is the likeliest token; filters: one sampler could not have
            drawn the other's token; random_number: both could, and the numbers or the probabilities differed.
    """

    index: int
    a: DivergentToken
    b: DivergentToken
    cause: Cause


@dataclass(frozen=True)
class Comparison:
    """Two answers compared.

    Attributes:
        segments: the words of both texts, aligned.
        divergence: None where all tokens are equal, and where a server returned text without tokens.
    """

    segments: tuple[DiffSegment, ...]
    divergence: Divergence | None

    @property
    def same(self) -> bool:
        """Whether the texts are equal."""
        return all(segment.a == segment.b for segment in self.segments)


def compare(a: Cell, b: Cell, sampling_a: SamplingParams, sampling_b: SamplingParams) -> Comparison:
    """Compares two answers. sampling_a, sampling_b: what they were sampled with, see Run.effective_sampling."""
    segments = word_diff(a.text, b.text)
    ids_a, ids_b = ([token.id for token in cell.tokens] for cell in (a, b))
    if ids_a == ids_b or -1 in ids_a or -1 in ids_b:
        return Comparison(segments, None)
    shared = min(len(ids_a), len(ids_b))
    index = next((i for i in range(shared) if ids_a[i] != ids_b[i]), shared)
    id_a, id_b = (ids[index] if index < len(ids) else None for ids in (ids_a, ids_b))
    token_a, token_b = _divergent_token(a, index, sampling_a, id_b), _divergent_token(b, index, sampling_b, id_a)
    return Comparison(segments, Divergence(index, token_a, token_b, _cause(token_a, token_b, sampling_a, sampling_b)))


def _divergent_token(cell: Cell, index: int, sampling: SamplingParams, other: int | None) -> DivergentToken:
    if index >= len(cell.tokens):
        return DivergentToken(None)
    token = cell.tokens[index]
    if token.trace is None:
        return DivergentToken(token.id, token.text, record=token)
    steps = filter_steps(token.trace, sampling)
    possible = None
    if other is not None:
        found = next((candidate for candidate in steps.candidates if candidate.token_id == other), None)
        if found is not None:
            possible = found.cut_by is None
        elif token.trace.after_top_p <= len(steps.candidates) and not token.trace.reported:
            possible = False
    return DivergentToken(token.id, token.text, token.trace.draw, steps, possible, token)


def _cause(a: DivergentToken, b: DivergentToken, sampling_a: SamplingParams, sampling_b: SamplingParams) -> Cause:
    if a.steps is None or b.steps is None:
        return "unknown"
    if a.steps.forced or b.steps.forced:
        return "forced"
    if sampling_a.greedy or sampling_b.greedy:
        return "greedy"
    if a.other_possible is False or b.other_possible is False:
        return "filters"
    return "random_number" if a.other_possible and b.other_possible else "unknown"
