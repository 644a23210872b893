"""What the CPU of this machine can do, told without torch."""

from __future__ import annotations

import functools
from pathlib import Path

# Products of bfloat16 numbers with float32 sums: avx512_bf16 of 2020 and later, amx_bf16 for matrices since 2023.
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The names that Linux gives to the features of an x86 CPU; empty elsewhere."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


@functools.cache
def has_bfloat16_units() -> bool:
    """Whether the CPU multiplies bfloat16 numbers faster than float32 numbers."""
    return not _BFLOAT16_FLAGS.isdisjoint(flags())
