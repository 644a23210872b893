"""What the CPU of this machine can do, told without torch, and how PyTorch's threads wait on it."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

# Products of bfloat16 numbers with float32 sums: avx512_bf16 of 2020 and later, amx_bf16 for matrices since 2023.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_CPUINFO = Path("/proc/cpuinfo")
SPIN_COUNT = 2000  # iterations in which a thread of PyTorch spins before it sleeps: some 0.1 ms


def flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The names that Linux gives to the features of an x86 CPU; empty elsewhere."""
    return frozenset(_first(cpuinfo, "flags").split())


def model_name(cpuinfo: Path = _CPUINFO) -> str:
    """The name of an x86 CPU on Linux; elsewhere what Python knows, which may be the architecture only."""
    return _first(cpuinfo, "model name") or platform.processor() or platform.machine()


def _first(cpuinfo: Path, field: str) -> str:
    """The first value of a field, or an empty text."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


@functools.cache
def has_bfloat16_units() -> bool:
    """Whether the CPU multiplies bfloat16 numbers faster than float32 numbers."""
    return not _BFLOAT16_FLAGS.isdisjoint(flags())


def limit_spinning(*, quantized: bool) -> None:
    """Lets the threads of PyTorch sleep soon while they wait. GNU OpenMP reads these variables when PyTorch is imported.

    By default a thread spins for several milliseconds. Where other programs use the cores too, it takes the core that the thread
    needs for which it waits, and a step takes many times as long.

    Args:
        quantized: onnxruntime's threads need the cores right after each operation of PyTorch.
    """
    if quantized:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    elif "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
