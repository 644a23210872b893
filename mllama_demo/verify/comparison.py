"""Leads the slots of an engine along the tokens of the reference, and compares every step.

An engine with logits is compared by its candidates. An engine that samples on its device is compared by the token that it chose:
the reference must find the token as likely as its likeliest, within the tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mllama_demo.engine.runner import ModelRunner, Sampled, prefill
from mllama_demo.verify.cases import Case, of_group
from mllama_demo.verify.reference import Expected, Reference, Step

_COMPARED = 10  # the likeliest tokens of the reference, which the engine must have among its candidates


class Engine(ModelRunner, Protocol):
    """A runner whose answers can be led along given tokens."""

    def replace_last_token(self, slot: int, token_id: int) -> None: ...


@dataclass(frozen=True)
class Comparison:
    """The result of one comparison.

    Attributes:
        difference: The largest difference of a logit, or of the logarithm of their mass; for an engine without logits, how much
            less likely than its likeliest token the reference finds the chosen one, as a difference of logits. Infinite where the
            engine's result has nothing in common with the reference, None where the engine failed.
        note: What was found beside the number, in words.
    """

    group: str
    name: str
    difference: float | None
    tolerance: float
    agrees: bool
    note: str = ""


def difference(sampled: Sampled, expected: Step) -> float:
    """How far a step of the engine is from that of the reference, see Comparison.difference."""
    trace = sampled.trace
    if trace is None:
        logits = dict(zip(expected.token_ids, expected.logits, strict=True))
        return expected.logits[0] - logits.get(sampled.token_id, -math.inf)
    found = dict(zip(trace.token_ids, trace.logits, strict=True))
    if any(token not in found for token in expected.token_ids[:_COMPARED]):
        return math.inf
    candidates = [abs(found[t] - logit) for t, logit in zip(expected.token_ids, expected.logits, strict=True) if t in found]
    found_all = [*candidates, abs(trace.log_mass - expected.log_mass)]
    return math.inf if any(map(math.isnan, found_all)) else max(found_all)


def own_answers(engine: Engine, cases: Sequence[Case]) -> dict[str, Expected]:
    """The engine's own answers, by the keys of the cases: one request at a time, always in slot 0."""
    answers = {}
    for case in cases:
        made = [prefill(engine, 0, case.request)]
        try:
            while len(made) < case.steps:
                made += engine.decode([0])
        finally:
            engine.release(0)
        # Where the device samples, a step has its token only: another token is a difference without bound.
        steps = tuple(Step((s.token_id,), (0.0,), 0.0) if s.trace is None else Step.of(s.trace) for s in made)
        answers[case.key] = Expected(tuple(sampled.token_id for sampled in made), steps)
    return answers


@dataclass
class _Row:
    """A case in a slot.

    Attributes:
        expected: The answer of the reference.
        note: Names another slot whose result came out here.
    """

    case: Case
    expected: Expected
    made: list[Sampled] = field(default_factory=list)
    note: str = ""

    @property
    def next_step(self) -> Step:
        return self.expected.steps[len(self.made)]

    @property
    def finished(self) -> bool:
        return len(self.made) == self.case.steps


class Slots:
    """The slots of an engine, led along the answers of the reference, which are found by the keys of their cases."""

    def __init__(self, engine: Engine, reference: Mapping[str, Expected], tolerance: float) -> None:
        self.engine = engine
        self._reference, self._tolerance = reference, tolerance
        self.rows: dict[int, _Row] = {}

    def start(self, slot: int, case: Case) -> None:
        """Reads the prompt of the case into the slot."""
        row = _Row(case, self._reference[case.key])
        self._add(slot, row, prefill(self.engine, slot, case.request))
        self.rows[slot] = row

    def step(self, slots: Iterable[int] | None = None) -> None:
        """One decode step of these slots, or of all that are not finished."""
        going = [slot for slot, row in self.rows.items() if not row.finished] if slots is None else list(slots)
        if not going:
            return
        steps = {slot: self.rows[slot].next_step for slot in going}
        for slot, sampled in zip(going, self.engine.decode(going), strict=True):
            row = self.rows[slot]
            if not row.note and difference(sampled, steps[slot]) > self._tolerance:
                others = [o for o, step in steps.items() if o != slot and difference(sampled, step) <= self._tolerance]
                row.note = f"step {len(row.made) + 1} has the result of slot {others[0]}" if others else ""
            self._add(slot, row, sampled)

    def finish(self) -> None:
        while any(not row.finished for row in self.rows.values()):
            self.step()

    def release(self, slot: int) -> None:
        self.engine.release(slot)
        self.rows.pop(slot, None)

    def release_all(self) -> None:
        for slot in range(self.engine.slots):
            self.release(slot)

    def _add(self, slot: int, row: _Row, sampled: Sampled) -> None:
        row.made.append(sampled)
        self.engine.replace_last_token(slot, row.expected.tokens[len(row.made) - 1])


class Comparer:
    """Runs the comparisons one after the other. An engine that fails in one is asked the next one all the same.

    Args:
        redact: Makes the text of an exception fit for a stranger.
    """

    def __init__(
        self,
        engine: Engine,
        reference: Reference,
        tolerance: float,
        redact: Callable[[str], str],
        report: Callable[[str], None],
    ) -> None:
        self.engine, self.reference, self.tolerance = engine, reference, tolerance
        self._redact, self._report = redact, report
        self.found: list[Comparison] = []
        self.failures: list[BaseException] = []

    def alone(self, cases: Sequence[Case]) -> None:
        """Every case by itself, in changing slots."""
        for number, case in enumerate(cases):
            with self.attempt(case.group, case.name) as slots:
                slots.start(number % self.engine.slots, case)
                slots.finish()
                self._compare(slots, case.group)

    def mixed(self, cases: Sequence[Case]) -> None:
        """Texts and images in all slots, which join one by one while the others are answered."""
        chosen = _mixture(cases, self.engine.slots)
        if len(chosen) < 2:
            return
        with self.attempt("mixed batch", f"{len(chosen)} requests") as slots:
            for slot, case in enumerate(chosen):
                slots.start(slot, case)
                if slot % 2:
                    slots.step()
            slots.finish()
            self._compare(slots, "mixed batch")

    def reused(self, cases: Sequence[Case]) -> None:
        """A slot whose request is cancelled takes a text after an image and an image after a text, beside a neighbour."""
        images = list(of_group(cases, "aspect ratio")) or list(of_group(cases, "bucket"))
        text = next(of_group(cases, "text"))
        last = self.engine.slots - 1
        with self.attempt("reused slot", "after a cancelled request") as slots:
            if last:
                slots.start(0, text)
            for cancelled, follower in ((images[0], text), (text, images[-1])):
                slots.start(last, cancelled)
                slots.step([last])
                slots.release(last)
                slots.start(last, follower)
                while not slots.rows[last].finished:
                    slots.step([last])
                self._compare(slots, "reused slot", only=[last])
                slots.release(last)
            if last:
                slots.finish()
                self._compare(slots, "reused slot", only=[0])

    def attempt(self, group: str, name: str) -> _Attempt:
        """A with block over free slots. It frees them at the end, and an exception of the engine is a failed comparison."""
        return _Attempt(self, group, name)

    def _compare(self, slots: Slots, group: str, only: Sequence[int] | None = None) -> None:
        for slot, row in slots.rows.items():
            if only is not None and slot not in only:
                continue
            worst = max(difference(sampled, step) for sampled, step in zip(row.made, row.expected.steps, strict=False))
            name = row.case.name if group == row.case.group else f"slot {slot}: {row.case.group}, {row.case.name}"
            self.add(group, name, worst, row.note)

    def add(self, group: str, name: str, found: float, note: str = "") -> None:
        """Adds a comparison, and reports it if it failed."""
        self._append(Comparison(group, name, found, self.tolerance, found <= self.tolerance, note))

    def failed(self, group: str, name: str, error: BaseException) -> None:
        """Adds a comparison in which the engine failed."""
        self.failures.append(error)
        text = self._redact(f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}")
        self._append(Comparison(group, name, None, self.tolerance, False, text))

    def _append(self, comparison: Comparison) -> None:
        self.found.append(comparison)
        if not comparison.agrees:
            number = "the engine failed" if comparison.difference is None else f"{comparison.difference:.3g}"
            self._report(f"DIFFERS: {comparison.group}, {comparison.name}: {number}. {comparison.note}".rstrip())


class _Attempt:
    """Frees all slots at the end, and turns an exception of the engine into a failed comparison."""

    def __init__(self, comparer: Comparer, group: str, name: str) -> None:
        self._comparer, self._group, self._name = comparer, group, name
        self._slots = Slots(comparer.engine, comparer.reference.answers, comparer.tolerance)

    def __enter__(self) -> Slots:
        return self._slots

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        self._slots.release_all()
        if isinstance(error, Exception):
            self._comparer.failed(self._group, self._name, error)
            return True
        return False


def _mixture(cases: Sequence[Case], slots: int) -> list[Case]:
    """One case for each slot: images of unlike aspect ratios, a text and a long prompt by turns."""
    texts = [*of_group(cases, "text"), *of_group(cases, "bucket")]
    images = list(of_group(cases, "aspect ratio"))
    images = [*images[1::3], *images[0::3], *images[2::3]]
    chosen: list[Case] = []
    while len(chosen) < slots and (texts or images):
        kind = images if images and (len(chosen) % 2 == 0 or not texts) else texts
        chosen.append(kind.pop(0))
    return chosen
