"""What sampling costs for each row of a decode step, against sorting the whole vocabulary.

    python -m benchmarks sampler [--vocabulary 1300] [--rows 1] [--repeats 30] [--threads 2] [--json FILE]

Without --vocabulary and --rows: 1,300 and 128,256 tokens, and 1, 4 and 16 rows. Each line is a shape of the logits with sampling
values. Times are microseconds per row, medians over repeats; the smallest is beside them.
"sorted" is what the sampler did before, without a trace: filter_logits and pick.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import write
from mllama_demo.sampling import SamplingParams

VOCABULARIES = (1_300, 128_256)
ROWS = (1, 4, 16)
SHAPES: dict[str, float] = {"peaked": 8.0, "usual": 3.0, "flat": 0.3}  # the standard deviation of the logits
VALUES = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.6, top_p=0.9),
    SamplingParams(temperature=1.0, top_p=0.95),
    SamplingParams(temperature=1.0, top_p=0.9, top_k=50),
    SamplingParams(temperature=2.0, top_p=0.01),
    SamplingParams(temperature=2.0, top_p=0.9),
    SamplingParams(temperature=2.0, top_p=1.0),
    SamplingParams(temperature=2.0, top_p=1.0, top_k=200),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vocabulary", type=int, action="append", help="may be given more than once")
    parser.add_argument("--rows", type=int, action="append", help="may be given more than once")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write all measurements to this file")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    measured = []
    print(f"{'tokens':>7} {'rows':>4} {'logits':7} {'values':26} {'no trace':>16} {'trace':>16} {'sorted':>16}")
    for vocabulary in args.vocabulary or VOCABULARIES:
        for shape, spread in SHAPES.items():
            for params in VALUES:
                before = sorted_cost(
                    vocabulary, spread, params, max(3, args.repeats // 10 if vocabulary > 10_000 else args.repeats)
                )
                for rows in args.rows or ROWS:
                    found = {
                        name: cost(vocabulary, rows, spread, params, trace, args.repeats)
                        for name, trace in (("no trace", False), ("trace", True))
                    } | {"sorted": before}
                    values = f"T {params.temperature:g} top_p {params.top_p:g} top_k {params.top_k}"
                    cells = (f"{statistics.median(times):9.0f} ({min(times):4.0f})" for times in found.values())
                    print(f"{vocabulary:7} {rows:4} {shape:7} {values:26} {' '.join(cells)}", flush=True)
                    measured.append({"vocabulary": vocabulary, "rows": rows, "logits": shape, "values": values} | found)
    write(args.json, measured)


def cost(vocabulary: int, rows: int, spread: float, params: SamplingParams, trace: bool, repeats: int) -> list[float]:
    """Returns microseconds per row of each repeat."""
    import torch

    from mllama_demo.engine.batch_sampler import sample_rows
    from mllama_demo.engine.token_sampler import TokenSampler

    samplers = [TokenSampler(params, trace) for _ in range(rows)]
    count = batch_count(vocabulary, repeats)
    batches = [torch.from_numpy(make_logits(vocabulary, rows, spread, seed)) for seed in range(count)]
    with torch.inference_mode():
        return [1e6 / rows * timed(sample_rows, samplers, batches[at % count]) for at in range(-3, repeats)][3:]


def sorted_cost(vocabulary: int, spread: float, params: SamplingParams, repeats: int) -> list[float]:
    """Returns microseconds of the sampler that sorted, for one row."""
    from mllama_demo.engine.token_sampler import TokenSampler, filter_logits, pick

    rows, sampler = make_logits(vocabulary, batch_count(vocabulary, repeats), spread, 0), TokenSampler(params)

    def sample(row: np.ndarray) -> int:
        if np.isnan(row).any() or not np.isfinite(row.max()):
            raise FloatingPointError
        if params.greedy:
            return int(np.argmax(row))
        filtered = filter_logits(row, params)
        return int(filtered.order[pick(filtered.probabilities, sampler.draw())])

    return [1e6 * timed(sample, rows[at % len(rows)]) for at in range(repeats)]


def batch_count(vocabulary: int, repeats: int) -> int:
    """Returns how many batches to make. The processor would learn the branches of a sort of a small row that it sorts again."""
    return repeats if vocabulary < 10_000 else 3


def make_logits(vocabulary: int, rows: int, spread: float, seed: int) -> np.ndarray:
    """Returns float32 logits [rows, vocabulary]."""
    return np.random.default_rng(seed).normal(scale=spread, size=(rows, vocabulary)).astype(np.float32)


def timed(call: Callable[..., Any], *arguments: Any) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began
