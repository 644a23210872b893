"""Chooses the number of CPU threads by measuring."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

# More threads must be this many times as fast. On a busy machine they wait for each other, and other programs wait for them.
WORTHWHILE = 1.15
RUNS = 5


def choose_threads(step: Callable[[], object], most: int) -> int:
    """Sets PyTorch's number of threads to the one with the fastest step, and returns it.

    Tries 1, 2, 4 and so on until more threads are not faster.

    Args:
        step: The computation to measure.
        most: The largest number to try.
    """
    best, fastest = 1, _median_s(step, 1)
    while best < most:
        count = min(2 * best, most)
        seconds = _median_s(step, count)
        if seconds * WORTHWHILE > fastest:
            break
        best, fastest = count, seconds
    torch.set_num_threads(best)
    return best


def _median_s(step: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    step()  # starts the threads
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)
