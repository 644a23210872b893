"""Known faults and times, where the engine fails or the model has few images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.backends import load_runner
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo
from mllama_demo.verify import faults
from mllama_demo.verify.cases import Case, make_cases, of_group
from mllama_demo.verify.comparison import Comparer
from mllama_demo.verify.measure import PREFILLS, measure_times
from mllama_demo.verify.reference import FROZEN_IDS, Expected, Reference, Step

INFO = BackendInfo("neuron", "model", "device", 1, 128, 32, 4)


@pytest.fixture(scope="module")
def engine():
    return load_runner(Settings(device="cpu", threads=1, batch_size=1, seq_len=128), lambda detail: None)


@pytest.fixture(scope="module")
def tokenizer(embedded: Path) -> Tokenizer:
    return Tokenizer(embedded)


@pytest.mark.parametrize("max_tiles", [1, 4])
def test_times_with_an_image_are_measured_as_often_for_a_model_of_one_tile(engine, tokenizer, max_tiles):
    cases = make_cases(tokenizer, replace(INFO, max_tiles=max_tiles), (128,), (128,))
    found = measure_times(engine, tokenizer, cases, (128,), (128,), lambda text: None)
    [image] = [timing for timing in found if timing.image]
    assert image.times == PREFILLS
    assert [timing.what for timing in found] == ["first token", "first token", "decode step"]


class Failing:
    """An engine that fails at every prompt."""

    slots = 1

    def begin(self, *arguments: object) -> None:
        raise RuntimeError("NRT_FAILURE")

    def release(self, slot: int) -> None: ...


def reference(cases: list[Case], *, frozen: bool) -> Reference:
    expected = Expected((1,) * 8, (Step((1,), (0.0,), 0.0),) * 8)
    names = [name for case in cases for name in ((case.key, f"{case.key}/{FROZEN_IDS}") if frozen else (case.key,))]
    return Reference("", "nobody", dict.fromkeys(names, expected))


@pytest.mark.parametrize(
    ("frozen", "found"), [(True, "the engine failed"), (False, "this reference cannot show it")], ids=["fails", "not recorded"]
)
def test_frozen_ids_are_not_told_and_the_reason_is_right(tokenizer, frozen, found):
    cases = list(of_group(make_cases(tokenizer, INFO, (64,), (128,)), "aspect ratio"))
    expected = reference(cases, frozen=frozen)
    assert expected.has(cases[0], FROZEN_IDS) == frozen
    engine: Any = Failing()
    comparer = Comparer(engine, expected, 0.0, str, lambda text: None)
    fault = faults.frozen_ids(comparer, cases)
    assert (fault.state, fault.found) == ("not told", found)
    assert bool(comparer.failures) == frozen
