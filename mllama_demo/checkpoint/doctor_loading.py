"""The doctor's checks of what a start needs: memory and disk space, also before the checkpoint is there, and a fast disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mllama_demo.checkpoint.doctor_artifacts import artifacts_state
from mllama_demo.checkpoint.findings import GB, DoctorContext, Finding, Status, decimal_size
from mllama_demo.checkpoint.machine import nearest_existing
from mllama_demo.checkpoint.memory import GIB, core_memory
from mllama_demo.checkpoint.plan import verdict
from mllama_demo.checkpoint.torch_memory import torch_memory
from mllama_demo.checkpoint.torch_plan import alternatives, free_memory, torch_options
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.neuron import GRAPH_DISK_BYTES

_LAPTOP_DISK = GB  # bytes for conversations and their images; an estimate
_SLOW_MINUTES = 10
_NO_MATTER = 5 * GB  # weights of this size are read in a minute even from a slow disk


def device_memory(context: DoctorContext) -> Iterator[Finding]:
    if context.on_neuron and context.shape:
        memory = core_memory(context.shape, context.settings.neuron)
        status = "fail" if memory.free < 0 else "warn" if memory.free < GIB else "ok"
        remedy = "" if status == "ok" else "`python -m mllama_demo plan` with the same options shows what fits"
        yield Finding("device memory", status, f"on each core {verdict(memory)}", remedy)


def host_memory(context: DoctorContext) -> Iterator[Finding]:
    """On Neuron the host divides the weights among the cores, which can take twice their size (an estimate)."""
    if context.settings.backend == "torch":
        yield from _torch_memory(context)
        return
    needed, free = context.weights_bytes, context.machine.memory
    if not context.on_neuron or needed is None:
        return
    size = decimal_size(needed)
    if free is None:
        yield Finding("host memory", "warn", f"unknown; the weights take {size}")
    elif free < needed:
        text = f"{decimal_size(free)} free, less than the {size} of the weights"
        yield Finding("host memory", "fail", text, "end other programs, or take a larger machine or a smaller model")
    elif free < 2 * needed:
        text = f"{decimal_size(free)} free, for weights of {size}"
        yield Finding("host memory", "warn", text, "cutting them for the cores may take them twice; end other programs")
    else:
        yield Finding("host memory", "ok", f"{decimal_size(free)} free, for weights of {size}")


def _torch_memory(context: DoctorContext) -> Iterator[Finding]:
    """By the formula of `plan --device`, for the CPU or the GPU that the model will be on."""
    if context.shape is None:
        return
    on_gpu = context.on_gpu
    stored = context.checkpoint.dtype if isinstance(context.checkpoint, CheckpointInfo) else "bfloat16"
    options = torch_options(context.settings, stored, "cuda" if on_gpu else "cpu")
    memory = torch_memory(context.shape, options)
    free = (
        free_memory(context.settings.device if context.settings.device != "auto" else "cuda")
        if on_gpu
        else context.machine.memory
    )
    check = "gpu memory" if on_gpu else "host memory"
    kind = options.dtype if options.quantization == "none" else options.quantization
    needs = f"the model takes {decimal_size(memory.needed)} in {kind}, and {decimal_size(memory.total)} with full caches"
    if free is None:
        yield Finding(check, "warn", f"unknown; {needs}")
    elif free < memory.needed:
        fitting = [o for o in alternatives(options) if torch_memory(context.shape, o).needed <= free]
        better = fitting[0] if fitting else None
        words = "" if better is None else better.dtype if better.quantization == "none" else f"quantization {better.quantization}"
        remedy = f"{words} would fit" if words else "end other programs, or take a larger machine or a smaller model"
        yield Finding(check, "fail", f"{decimal_size(free)} free, but {needs}", remedy)
    elif free < memory.total:
        remedy = "reduce prefix_cache_mb, vision_cache_size or batch_size"
        yield Finding(check, "warn", f"{decimal_size(free)} free; {needs}", remedy)
    else:
        yield Finding(check, "ok", f"{decimal_size(free)} free; {needs}")


# --- disk ------------------------------------------------------------------------------------------------------------------


def disk(context: DoctorContext) -> Iterator[Finding]:
    """Space for the checkpoint while it is missing, for what is compiled, and for conversations."""
    if not context.on_neuron and context.settings.backend != "torch":
        yield from _disk_space(context, context.settings.data_dir, _LAPTOP_DISK, "for conversations", scarce="warn")
        return
    missing = 0
    if isinstance(context.checkpoint, str) and not context.settings.model_path.exists():
        missing = context.weights_bytes or 0
    if context.settings.backend == "torch":
        if missing:
            yield from _disk_space(context, context.settings.model_path, missing, "for the checkpoint", scarce="fail")
        else:
            yield from _disk_space(context, context.settings.data_dir, _LAPTOP_DISK, "for conversations", scarce="warn")
        return
    compiled = context.compilation is not None and artifacts_state(context.compilation)[0] == "ok"
    needed = 0 if compiled and context.settings.backend == "neuron" else _compiled_bytes(context)
    if missing + needed:
        purpose = "for what is compiled" if not missing else "for the checkpoint and what is compiled from it"
        folder = context.compilation.location.folder if context.compilation else context.settings.model_path
        yield from _disk_space(context, folder, missing + needed, purpose, scarce="fail")


def _compiled_bytes(context: DoctorContext) -> int:
    if context.compilation is not None:
        return context.compilation.bytes
    if context.shape is None:
        return 0
    o = context.settings.neuron
    return o.tensor_parallel_size * core_memory(context.shape, o).weights + o.graphs * GRAPH_DISK_BYTES


def _disk_space(context: DoctorContext, folder: Path, needed: int, purpose: str, *, scarce: Status) -> Iterator[Finding]:
    existing = nearest_existing(folder)
    free = context.machine.disk_free(existing)
    if not os.access(existing, os.W_OK):
        yield Finding("disk", "fail", f"{existing} cannot be written to", f"it is needed {purpose}; name another folder")
    elif free < needed:
        text = f"{decimal_size(free)} free in {existing}, and about {decimal_size(needed)} are wanted {purpose}"
        yield Finding("disk", scarce, text, "make room, or name a folder on another disk")
    else:
        yield Finding("disk", "ok", f"{decimal_size(free)} free in {existing}, {purpose}")


def disk_speed(context: DoctorContext) -> Iterator[Finding]:
    """How fast the largest file of the weights is read, and what that makes of a start."""
    found = context.checkpoint
    if not isinstance(found, CheckpointInfo) or found.bytes < _NO_MATTER or found.identity is not None:
        return
    largest = max((found.path / name for name in found.weight_files), key=lambda file: file.stat().st_size)
    rate = context.machine.disk_rate(largest)
    if rate is None:
        return
    read = _read_at_start(context, found)
    minutes = read / rate / 60
    text = f"{rate / 10**6:,.0f} MB/s; a start reads {decimal_size(read)}, in {max(1, round(minutes))} min"
    if minutes > _SLOW_MINUTES:
        remedy = (
            "raise the throughput of the volume (EBS gp3 starts at 125 MB/s), or put the model on the instance's own NVMe disk"
        )
        yield Finding("disk speed", "warn", text, remedy)
    else:
        yield Finding("disk speed", "ok", text)


def _read_at_start(context: DoctorContext, found: CheckpointInfo) -> int:
    """On Neuron the weights of every core, which are stored beside the compiled model."""
    if context.on_neuron and context.shape:
        return context.settings.tensor_parallel_size * core_memory(context.shape, context.settings.neuron).weights
    return found.bytes
