"""Sampling steps whose results are recorded in tests/unit/engine/data/sampled_steps.npz.

    python -m tests.support.recorded_steps

writes the file with sample_by_sorting: every faster sampler must give the same tokens. The file has the results alone. The logits
are made of a bit generator's raw stream with exact arithmetic, and so are the same on every machine and with every numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mllama_demo.engine.token_sampler import TokenTrace
from mllama_demo.sampling import SamplingParams
from tests.support.samplers import sample_by_sorting

RECORD = Path(__file__).parents[1] / "unit/engine/data/sampled_steps.npz"
VOCABULARIES = (1_300, 128_256)
ANSWERS = 20  # of each vocabulary and shape of the logits
STEPS = 8  # of each answer
TEMPERATURES = (0.0, 0.05, 0.3, 0.6, 0.6, 1.0, 1.0, 1.3, 1.6, 2.0, 2.0)
TOP_P = (0.01, 0.2, 0.5, 0.8, 0.9, 0.95, 0.99, 0.9999, 1.0, 1.0)
TOP_K = (0, 0, 0, 1, 2, 10, 64, 200)
SHAPES = ("flat", "narrow", "usual", "peaked", "rounded", "masked", "bfloat16", "few values")


@dataclass(frozen=True)
class Answer:
    """The steps of one request: logits [steps, vocabulary] float32, sampling values, and how many tokens exist already."""

    logits: np.ndarray
    params: SamplingParams
    skip: int


def answers(vocabulary: int) -> Iterator[Answer]:
    """Yields the answers of a vocabulary, always the same."""
    for number in range(len(SHAPES) * ANSWERS):
        bits = np.random.PCG64(number * 1_000_003 + vocabulary)
        temperature = TEMPERATURES[int(bits.random_raw() % len(TEMPERATURES))]
        top_p = TOP_P[int(bits.random_raw() % len(TOP_P))]
        top_k = TOP_K[int(bits.random_raw() % len(TOP_K))]
        logits = np.stack([_logits(bits, vocabulary, SHAPES[number % len(SHAPES)]) for _ in range(STEPS)])
        params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, seed=number)
        yield Answer(logits, params, skip=number % 3 * 5)


def _logits(bits: np.random.PCG64, vocabulary: int, shape: str) -> np.ndarray:
    """Returns logits [vocabulary] float32. Each is a sum of four integers, close to a normal distribution, times a power of 2."""
    raw = bits.random_raw(vocabulary)
    sums = sum((raw >> np.uint64(16 * part) & np.uint64(0xFFFF)).astype(np.int64) for part in range(4)) - 131_070
    logits = np.asarray(sums, dtype=np.float32)  # standard deviation 37,837
    if shape == "narrow":
        return logits / np.float32(2**26) + np.float32(4)
    if shape == "flat":
        return logits / np.float32(2**18)
    logits /= np.float32(2**14)
    if shape == "peaked":
        logits[:: vocabulary // 40] += np.float32(8)
    elif shape == "rounded":
        logits = np.round(logits * np.float32(4)) / np.float32(4)
    elif shape == "masked":
        logits[: vocabulary // 2] = -np.inf
        logits[:: vocabulary // 20] += np.float32(4)
    elif shape == "bfloat16":
        logits = (logits.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    elif shape == "few values":
        logits = np.round(logits / np.float32(8))
    return logits


def columns(traces: list[TokenTrace]) -> dict[str, np.ndarray]:
    """Returns what is recorded of each step, by name."""
    whole = [trace.whole for trace in traces]
    assert None not in whole
    return {
        "chosen": np.array([trace.chosen for trace in traces], dtype=np.int32),
        "rank": np.array([numbers.chosen_rank for numbers in whole if numbers], dtype=np.int32),
        "after_top_k": np.array([trace.after_top_k for trace in traces], dtype=np.int32),
        "after_top_p": np.array([trace.after_top_p for trace in traces], dtype=np.int32),
        "draw": np.array([np.nan if trace.draw is None else trace.draw for trace in traces]),
        "log_mass": np.array([trace.log_mass for trace in traces]),
        "log_masses": np.array([numbers.log_masses or (np.nan,) * 3 for numbers in whole if numbers]),
        "sum_of_ids": np.array([sum(trace.token_ids) for trace in traces], dtype=np.int64),
        "last_recorded": np.array([trace.token_ids[-1] for trace in traces], dtype=np.int32),
        "last_logit": np.array([trace.logits[-1] for trace in traces], dtype=np.float32),
    }


def main() -> None:
    record = {}
    for vocabulary in VOCABULARIES:
        traces = []
        for answer in answers(vocabulary):
            random = np.random.default_rng(answer.params.seed)
            random.random(answer.skip)
            traces += [sample_by_sorting(logits, answer.params, random) for logits in answer.logits]
        record |= {f"{vocabulary} {name}": values for name, values in columns(traces).items()}
    RECORD.parent.mkdir(exist_ok=True)
    np.savez_compressed(RECORD, **record)
    print(f"{RECORD}: {RECORD.stat().st_size} bytes, {len(record['1300 chosen'])} steps of each vocabulary")


if __name__ == "__main__":
    main()
