"""Two answers side by side: which words differ, where they parted, and what each sampler saw there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from mllama_demo.explore.filter_steps import Steps, steps_of
from mllama_demo.explore.results import Cell
from mllama_demo.sampling import SamplingParams


@dataclass(frozen=True)
class Part:
    """A run of words. same: in both; changed: a in one and b in the other; only_a, only_b: b or a is empty.
    White space belongs to the word before it, so that all a of a comparison make up the first text."""

    kind: Literal["same", "changed", "only_a", "only_b"]
    a: str
    b: str


_KINDS: dict[str, Literal["same", "changed", "only_a", "only_b"]] = {
    "equal": "same",
    "replace": "changed",
    "delete": "only_a",
    "insert": "only_b",
}


def word_differences(a: str, b: str) -> tuple[Part, ...]:
    """The words of both texts aligned (Ratcliff and Obershelp's matching, as in difflib)."""
    words_a, words_b = (re.findall(r"\s+|\S+\s*", text) for text in (a, b))
    bare_a, bare_b = ([word.strip() for word in words] for words in (words_a, words_b))
    matcher = SequenceMatcher(None, bare_a, bare_b, autojunk=False)
    return tuple(
        Part(_KINDS[kind], "".join(words_a[a0:a1]), "".join(words_b[b0:b1])) for kind, a0, a1, b0, b1 in matcher.get_opcodes()
    )


@dataclass(frozen=True)
class Seen:
    """What one sampler saw where the answers part. token_id: None where the answer had ended. steps: None without a record.
    other_possible: whether it could have drawn the other's token; None where the record does not tell."""

    token_id: int | None
    text: str
    draw: float | None
    steps: Steps | None
    other_possible: bool | None


Cause = Literal["by_hand", "random_number", "filters", "greedy", "unknown"]


@dataclass(frozen=True)
class Parting:
    """The first token that differs. index: how many tokens are the same. cause: by_hand, somebody chose one of them; greedy, one
    of them took the likeliest; filters, one could not have drawn the other's token; random_number, both could, and the numbers
    or the probabilities differed."""

    index: int
    a: Seen
    b: Seen
    cause: Cause


@dataclass(frozen=True)
class Comparison:
    """parting: None where the answers are the same, token by token, or where a server tells text alone."""

    parts: tuple[Part, ...]
    parting: Parting | None

    @property
    def same(self) -> bool:
        """Whether the texts are equal."""
        return all(part.kind == "same" for part in self.parts) and all(part.a == part.b for part in self.parts)


def compare(a: Cell, b: Cell, sampling_a: SamplingParams, sampling_b: SamplingParams) -> Comparison:
    """sampling_a, sampling_b: what their samplers had, see Run.sampling."""
    parts = word_differences(a.text, b.text)
    ids_a, ids_b = ([token.id for token in cell.tokens] for cell in (a, b))
    if ids_a == ids_b or -1 in ids_a or -1 in ids_b:
        return Comparison(parts, None)
    shared = min(len(ids_a), len(ids_b))
    index = next((i for i in range(shared) if ids_a[i] != ids_b[i]), shared)
    id_a, id_b = (ids[index] if index < len(ids) else None for ids in (ids_a, ids_b))
    seen_a, seen_b = _seen(a, index, sampling_a, id_b), _seen(b, index, sampling_b, id_a)
    return Comparison(parts, Parting(index, seen_a, seen_b, _cause(seen_a, seen_b, sampling_a, sampling_b)))


def _seen(cell: Cell, index: int, sampling: SamplingParams, other: int | None) -> Seen:
    if index >= len(cell.tokens):
        return Seen(None, "", None, None, None)
    token = cell.tokens[index]
    if token.trace is None:
        return Seen(token.id, token.text, None, None, None)
    steps = steps_of(token.trace, sampling)
    possible = None
    if other is not None:
        found = next((candidate for candidate in steps.candidates if candidate.token_id == other), None)
        if found is not None:
            possible = found.cut_by is None
        elif token.trace.after_top_p <= len(steps.candidates):
            possible = False
    return Seen(token.id, token.text, token.trace.draw, steps, possible)


def _cause(a: Seen, b: Seen, sampling_a: SamplingParams, sampling_b: SamplingParams) -> Cause:
    if a.steps is None or b.steps is None:
        return "unknown"
    if a.steps.by_hand or b.steps.by_hand:
        return "by_hand"
    if sampling_a.greedy or sampling_b.greedy:
        return "greedy"
    if a.other_possible is False or b.other_possible is False:
        return "filters"
    return "random_number" if a.other_possible and b.other_possible else "unknown"
