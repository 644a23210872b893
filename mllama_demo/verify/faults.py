"""Which known faults of NxD Inference the engine shows. docs/neuron.md describes the faults and what the demo does about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mllama_demo.engine.runner import Sampled
from mllama_demo.verify.cases import Case, of_group
from mllama_demo.verify.comparison import Comparer, difference
from mllama_demo.verify.reference import ALL_TILES, FROZEN_IDS, Step
from mllama_demo.verify.sampling import Nucleus

State = Literal["met", "not met", "not told"]
_FAR = 1000.0  # a difference without bound, where differences are added
_ENOUGH_DRAWS = 5.0  # expected draws; none at all then has a chance of exp(-5)


@dataclass(frozen=True)
class Fault:
    """A known fault.

    Attributes:
        state: "not told" where the engine or the reference cannot show it; found says why.
        harm: Whether answers are wrong because of it. The demo avoids the effect of the other faults.
    """

    name: str
    state: State
    found: str
    harm: bool = False


def frozen_ids(comparer: Comparer, cases: Sequence[Case]) -> Fault:
    """Whether images are computed with the ids of one tile. The demo compiles with a table look-up that prevents it."""
    name = "ids of aspect ratios are constants of the compiled graph"
    known = [case for case in of_group(cases, "aspect ratio") if comparer.reference.has(case, FROZEN_IDS)]
    if not known:
        return Fault(name, "not told", "this reference cannot show it")
    answered, wrong, told = 0, 0, 0
    for case in known:
        right, frozen = comparer.reference.of(case).steps, comparer.reference.of(case, FROZEN_IDS).steps
        with comparer.attempt("aspect ratio", case.name) as slots:
            slots.start(0, case)
            slots.finish()
            made = slots.rows[0].made
            answered += 1
            unlike = any(a.token_ids[0] != b.token_ids[0] for a, b in zip(right, frozen, strict=True))
            told += made[0].trace is not None or unlike
            wrong += _distance(made, frozen) < _distance(made, right)
    if not answered:
        return Fault(name, "not told", "the engine failed")
    if not told:
        return Fault(name, "not told", "the engine returns tokens without logits, and they would be the same")
    if wrong:
        return Fault(name, "met", f"{wrong} of {told} images are nearer to the results with the ids of one tile", harm=True)
    return Fault(name, "not met", f"each of {told} images is nearer to the results with its own ids")


def empty_tiles(comparer: Comparer, cases: Sequence[Case]) -> Fault:
    """Whether decode steps attend to empty tiles. The demo fills all tiles, and leaves them empty only here."""
    name = "decode steps attend to the empty tiles of an image"
    engine: Any = comparer.engine
    found = [case for case in of_group(cases, "empty tiles") if comparer.reference.has(case, ALL_TILES)]
    if not found or not hasattr(engine, "full_canvas"):
        return Fault(name, "not told", "this engine or reference cannot show it")
    [case] = found
    masked, unmasked = comparer.reference.of(case).steps[1:], comparer.reference.of(case, ALL_TILES).steps[1:]
    engine.full_canvas = False
    made: list[Sampled] = []
    try:
        with comparer.attempt("empty tiles", case.name) as slots:
            slots.start(0, case)
            slots.finish()
            made = slots.rows[0].made[1:]
    finally:
        engine.full_canvas = True
    if not made:
        return Fault(name, "not told", "the engine failed")
    if made[0].trace is None:
        return Fault(name, "not told", "the engine returns tokens without logits")
    if _distance(made, unmasked) < _distance(made, masked):
        return Fault(name, "met", "the demo places every image on a canvas without empty tiles, so that no answer changes")
    return Fault(name, "not met", "decode steps leave the empty tiles out")


def _distance(made: Sequence[Sampled], steps: Sequence[Step]) -> float:
    return sum(min(difference(sampled, step), _FAR) for sampled, step in zip(made, steps, strict=True))


def nucleus(draws: Nucleus | None) -> Fault:
    """Whether the device leaves out the token that reaches top_p."""
    name = "on-device sampling leaves out the token that reaches top_p"
    if draws is None:
        return Fault(name, "not told", "the host samples")
    if draws.drawn:
        return Fault(name, "not met", f"it was drawn {draws.drawn} times, {draws.expected:.1f} were expected")
    if draws.expected < _ENOUGH_DRAWS:
        return Fault(name, "not told", f"it was not drawn, but only {draws.expected:.1f} draws were expected")
    return Fault(name, "met", f"it was never drawn, {draws.expected:.1f} draws were expected; answers are a little less varied")


def second_slot(failures: Sequence[BaseException]) -> Fault:
    """Whether a prefill into another slot than the first fails, as up to SDK 2.23."""
    name = "a prompt cannot be read into another slot than the first (SDK 2.22 and 2.23)"
    if any(isinstance(error, IndexError) for error in failures):
        return Fault(name, "met", "an IndexError; use SDK 2.24 or later", harm=True)
    return (
        Fault(name, "not met", "prompts were read into every slot")
        if not failures
        else Fault(name, "not told", "the engine failed in another way")
    )
