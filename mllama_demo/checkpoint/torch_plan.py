"""Says before loading whether a model fits the memory of this machine with backend torch, and which quantization would."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from mllama_demo.checkpoint.machine import this_machine
from mllama_demo.checkpoint.torch_memory import DTYPE_BYTES, GB, TorchMemory, TorchOptions, torch_memory
from mllama_demo.config.model_shape import ModelShape
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from mllama_demo.runtime.cpu import has_bfloat16_units
from mllama_demo.runtime.words import counted

log = logging.getLogger(__name__)
_PARTS = {
    "weights": "weights",
    "text_cache": "text cache",
    "image_cache": "image cache",
    "encoded_images": "encoded images, kept for follow-up questions",
    "prefix_cache": "prefix cache, when it is full",
    "computing": "the largest step (estimate)",
    "program": "the program (estimate)",
}


def weights_dtype(settings: Settings, stored: str, device: str) -> str:
    """The type of the weights, a key of DTYPE_BYTES: the option dtype, or what auto stands for.

    auto is bfloat16 on a GPU. On a CPU it is float32, but bfloat16 where that is the type of the checkpoint and the CPU has units
    for it.

    Args:
        stored: the type of the checkpoint's numbers.
        device: "cpu" or "cuda".
    """
    if settings.dtype != "auto":
        return settings.dtype
    exact = stored == "bfloat16" and settings.quantization == "none" and has_bfloat16_units()
    return "bfloat16" if device != "cpu" or exact else "float32"


def torch_options(settings: Settings, stored: str, device: str) -> TorchOptions:
    """The options as backend torch takes them on a device, "cpu" or "cuda". stored: the type of the checkpoint's numbers."""
    return TorchOptions(
        device=device,
        dtype=weights_dtype(settings, stored, device),
        stored=stored if stored in DTYPE_BYTES else "bfloat16",
        quantization=settings.quantization,
        slots=settings.batch_size,
        seq_len=settings.seq_len,
        vision_cache_size=settings.vision_cache_size,
        prefix_cache=settings.prefix_cache_mb * 2**20,
        bfloat16_units=has_bfloat16_units(),
    )


def free_memory(device: str) -> int | None:
    """Free bytes of this machine within the limit of a container, or of its GPU (cuda or cuda:N); None when it is not known."""
    if not device.startswith("cuda"):
        return this_machine().memory
    gpu = _visible_gpu(int(device.partition(":")[2] or "0"))
    if gpu is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", gpu]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _visible_gpu(number: int) -> str | None:
    """The index or UUID, for nvidia-smi, of the GPU that CUDA counts as this number; None when CUDA sees no such GPU.

    nvidia-smi ignores CUDA_VISIBLE_DEVICES. CUDA stops reading it at the first entry that names no GPU, such as -1.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(number)
    entries = [entry.strip() for entry in visible.split(",")][: number + 1]
    return entries[number] if len(entries) > number and all(entry and entry[0] != "-" for entry in entries) else None


def check_memory(settings: Settings, shape: ModelShape, stored: str, devices: Sequence[str]) -> None:
    """Checks the memory of the devices that the model may run on. Unknown memory counts as enough.

    Logs a warning when the model fits, but not with full caches.

    Args:
        stored: the type of the checkpoint's numbers.
        devices: "cpu", "cuda" or "cuda:N", the likeliest first.

    Raises:
        ConfigError: no device has the memory that the start and the first request need.
    """
    choices = [(torch_options(settings, stored, device.partition(":")[0]), free_memory(device)) for device in devices]
    for options, free in choices:
        memory = torch_memory(shape, options)
        if free is None or memory.total <= free:
            return
        if memory.needed <= free:
            log.warning(
                "With full caches the model in %s takes %.1f GB of memory, but %.1f GB are free; reduce prefix_cache_mb (%d), "
                "vision_cache_size (%d) or batch_size (%d).",
                settings.model_path,
                memory.total / GB,
                free / GB,
                settings.prefix_cache_mb,
                settings.vision_cache_size,
                settings.batch_size,
            )
            return
    options, free = choices[0]
    assert free is not None
    raise ConfigError(
        f"The model in {settings.model_path} needs {torch_memory(shape, options).needed / GB:.1f} GB of memory "
        f"({_words(options)}, {_slots(options)}), but {free / GB:.1f} GB are free; {_remedy(shape, options, free)}."
    )


def _remedy(shape: ModelShape, options: TorchOptions, free: int) -> str:
    """What to change so that a model fits that does not."""

    def fits(other: TorchOptions) -> bool:
        return torch_memory(shape, other).needed <= free

    remedies = ["batch_size 1"] if fits(replace(options, slots=1)) else []
    if smaller := [other for other in alternatives(options) if fits(other)]:
        best = smaller[0]
        remedies.append(f"dtype {best.dtype}" if best.quantization == "none" else f"quantization {best.quantization}")
    if remedies:
        return " or ".join(remedies) + " would fit"
    return "reduce batch_size or seq_len, or use a machine with more memory or a smaller model"


def alternatives(options: TorchOptions) -> list[TorchOptions]:
    """The same with every quantization, the most exact first."""
    plain = "float32" if options.device == "cpu" else "bfloat16"
    quantized = [replace(options, quantization=name, dtype=plain) for name in ("int8", "int4")]
    return [replace(options, quantization="none", dtype=name) for name in ("float32", "bfloat16")] + quantized


def plan_torch(settings: Settings, shape: ModelShape, origin: str, stored: str, as_json: bool) -> tuple[str, bool]:
    """The text of the command `plan` for backend torch, and whether the model fits. Unknown memory counts as enough."""
    device = settings.device.partition(":")[0]
    options, free = torch_options(settings, stored, device), free_memory(settings.device)
    memory = torch_memory(shape, options)
    found = [(other, torch_memory(shape, other)) for other in alternatives(options)]
    fits = free is None or memory.total <= free
    if as_json:
        return json.dumps(_as_json(options, memory, found, free, fits), indent=2), fits
    return _report(options, memory, found, free, fits, origin), fits


def _report(
    options: TorchOptions,
    memory: TorchMemory,
    found: list[tuple[TorchOptions, TorchMemory]],
    free: int | None,
    fits: bool,
    origin: str,
) -> str:
    known = "unknown" if free is None else f"{free / GB:.1f} GB"
    lines = [f"GB of memory: {origin} on {options.device}, {_words(options)}, {_slots(options)}", ""]
    lines += [f"  {getattr(memory, part) / GB:7.2f}   {words}" for part, words in _PARTS.items()]
    verdict = "fits" if fits else "does not fit"
    lines += [f"  {memory.total / GB:7.2f}   peak; free: {known}" + ("" if free is None else f"; {verdict}")]
    lines += ["", "With the same slots and context:", ""]
    for other, needed in found:
        mark = "" if free is None else "  fits" if needed.total <= free else "  does not fit"
        lines.append(f"  {needed.total / GB:7.2f}   {_words(other)}{mark}")
    return "\n".join(lines)


def _as_json(
    options: TorchOptions,
    memory: TorchMemory,
    found: list[tuple[TorchOptions, TorchMemory]],
    free: int | None,
    fits: bool,
) -> dict[str, Any]:
    return {
        **asdict(options),
        "free": free,
        "fits": fits,
        "bytes": {**asdict(memory), "total": memory.total},
        "choices": [
            {
                "quantization": other.quantization,
                "dtype": other.dtype,
                "total": needed.total,
                "fits": free is None or needed.total <= free,
            }
            for other, needed in found
        ],
    }


def _words(options: TorchOptions) -> str:
    return options.dtype if options.quantization == "none" else options.quantization


def _slots(options: TorchOptions) -> str:
    return f"{counted(options.slots, 'slot')} of {options.seq_len} tokens"
