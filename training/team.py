"""The processes that train together: on a GPU, one, with workers that draw; on a CPU, one single-threaded process per core.

Processes synchronise once per step, threads thousands of times per step. With threads, another busy program on the machine slowed
training down to a fifth (measured), because all threads wait for the slowest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True)
class Team:
    """One training process and its place among all of them.

    Attributes:
        rank: Number of the process, 0 to size - 1.
        size: Number of processes.
        workers: Number of worker processes that draw pictures for this process.
        bfloat16: Whether matrices are multiplied in bfloat16. The weights stay in float32.
    """

    rank: int
    size: int
    device: torch.device
    workers: int
    bfloat16: bool = False

    def autocast(self) -> torch.autocast:
        """The context in which losses are computed."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def share(self, batch: int) -> int:
        """How many pictures of a batch this process draws. The shares of all processes add up to the batch."""
        return batch // self.size + (self.rank < batch % self.size)

    def average(self, params: Sequence[Tensor], rows: int, value: float) -> float:
        """Replaces each gradient by its mean over all processes. Returns the mean of `value` over all processes.

        Args:
            params: The parameters. The same ones have gradients in every process.
            rows: Length of the batch that the gradients of this process are the mean of: the weight of its gradients.
        """
        if self.size == 1:
            return value
        learning = [param for param in params if param.grad is not None]
        weighted = [param.grad * rows for param in learning if param.grad is not None]
        *grads, total, mean = self.add_up([*weighted, torch.tensor(float(rows)), torch.tensor(value)])
        for param, grad in zip(learning, grads, strict=True):
            param.grad = grad / total
        return float(mean / self.size)

    def add_up(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over all processes."""
        if self.size == 1 or not tensors:
            return list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def work_together(task: Callable[..., None], *args: Any, members: int = 0) -> None:
    """Runs task(team, *args) in every process. members: number of processes on a CPU, 0 for one per core."""
    if torch.cuda.is_available():
        task(Team(0, 1, torch.device("cuda"), max(1, (os.cpu_count() or 2) - 2), bfloat16=True), *args)
        return
    members = members or os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        spawn(_member, (members, str(meeting), task, args), nprocs=members)


def _has_bfloat16() -> bool:
    """Whether the processor multiplies matrices in bfloat16 (avx512_bf16 or AMX). Elsewhere PyTorch emulates it slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _member(rank: int, size: int, meeting: str, task: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        task(Team(rank, size, torch.device("cpu"), 0, bfloat16=_has_bfloat16()), *args)
    finally:
        if size > 1:
            dist.destroy_process_group()
