"""Times of the engine by bucket, and the device memory that it takes."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint.memory import CoreMemory
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import prefill
from mllama_demo.verify.cases import Case, of_group, passage
from mllama_demo.verify.comparison import Engine

PREFILLS = 5
DECODE_STEPS = 16
# Where the Neuron driver shows memory: a folder for each device and core, and below it one for each purpose. "total" is the
# memory in use (docs-neuron, "Neuron Sysfs User Guide").
_MEMORY_FILES = "sys/devices/virtual/neuron_device/neuron*/neuron_core*/stats/memory_usage/device_mem/*/total"


@dataclass(frozen=True)
class Timing:
    """Seconds of one kind of step.

    Attributes:
        what: "first token" or "decode step".
        bucket: The bucket that the step belongs to, in tokens; for an engine without buckets, the length that was measured.
        prompt_tokens: Of the longest prompt in the slots.
        slots: How many slots were in use.
    """

    what: str
    bucket: int
    prompt_tokens: int
    image: bool
    slots: int
    median: float
    fastest: float
    slowest: float
    times: int


def measure_times(
    engine: Engine,
    tokenizer: Tokenizer,
    cases: Sequence[Case],
    context_buckets: Sequence[int],
    token_buckets: Sequence[int],
    report: Callable[[str], None],
) -> list[Timing]:
    """Measures the first token for each bucket of prompts and for an image, and a decode step for each bucket of contexts."""
    found = []
    longest = context_buckets[-1]
    # Every prompt and image is another one, because an engine may keep what it has read.
    for bucket in context_buckets:
        length = max(3, bucket - 2)
        report(f"measuring the first token, prompts of {length} tokens")
        requests = [passage(tokenizer, length, number) for number in range(PREFILLS + 1)]
        found.append(_timing("first token", bucket, requests[0], 1, list(_prefill_times(engine, requests))))
    pictures = [case.request for case in of_group(cases, "aspect ratio")]
    if pictures:  # as few as one, for a model whose images have one tile
        images = [_as_new(request, number) for number, request in enumerate(islice(cycle(pictures), PREFILLS + 1))]
        report("measuring the first token, with an image")
        found.append(
            _timing("first token", _bucket(context_buckets, images[0]), images[0], 1, list(_prefill_times(engine, images)))
        )
    for previous, bucket in zip((0, *token_buckets), token_buckets, strict=False):
        length = min(bucket - DECODE_STEPS - 2, longest)
        if length <= max(previous, 2):
            continue  # no prompt reaches this bucket, or it is too narrow for the steps
        report(f"measuring decode steps, contexts of {length} tokens")
        request = passage(tokenizer, length)
        times = list(_decode_times(engine, request, next(of_group(cases, "text")).request))
        found.append(_timing("decode step", bucket, request, engine.slots, times))
    return found


def _as_new(request: GenerationRequest, number: int) -> GenerationRequest:
    """The same request with an image that the engine takes for one that it has not seen. Each number gives another one."""
    assert request.image is not None
    return replace(
        request, image=replace(request.image, digest=hashlib.sha256(f"{request.image.digest} {number}".encode()).hexdigest())
    )


def _bucket(buckets: Sequence[int], request: GenerationRequest) -> int:
    return next((bucket for bucket in buckets if bucket > len(request.prompt_ids)), buckets[-1])


def _prefill_times(engine: Engine, requests: Sequence[GenerationRequest]) -> Iterator[float]:
    for request in requests:
        started = time.perf_counter()
        prefill(engine, 0, request)
        yield time.perf_counter() - started
        engine.release(0)


def _decode_times(engine: Engine, longest: GenerationRequest, other: GenerationRequest) -> Iterator[float]:
    slots = list(range(engine.slots))
    try:
        for slot in slots:
            prefill(engine, slot, other if slot else longest)
        for _ in range(DECODE_STEPS + 1):
            started = time.perf_counter()
            engine.decode(slots)
            yield time.perf_counter() - started
    finally:
        for slot in slots:
            engine.release(slot)


def _timing(what: str, bucket: int, request: GenerationRequest, slots: int, times: list[float]) -> Timing:
    """The first time is left out, because it may include what happens once."""
    kept = times[1:]
    return Timing(
        what,
        bucket,
        len(request.prompt_ids),
        request.image is not None,
        slots,
        statistics.median(kept),
        min(kept),
        max(kept),
        len(kept),
    )


@dataclass(frozen=True)
class MemoryFound:
    """Device memory of one core, in bytes.

    Attributes:
        planned: What `plan` computes.
        fullest: In use on the fullest core; None where it could not be measured.
        cores: On how many cores there is anything.
    """

    planned: int
    fullest: int | None
    cores: int

    @classmethod
    def of(cls, planned: CoreMemory, root: Path) -> MemoryFound:
        """Reads what the Neuron driver shows below root."""
        sums: dict[Path, int] = {}
        for file in root.glob(_MEMORY_FILES):
            try:
                sums[file.parents[4]] = sums.get(file.parents[4], 0) + int(file.read_text())
            except (OSError, ValueError):
                continue
        used = [size for size in sums.values() if size]
        return cls(planned.total, max(used, default=None), len(used))
