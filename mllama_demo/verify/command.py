"""The command `verify`: compares the configured engine with a reference on the CPU, measures it, and writes a report."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from mllama_demo import __version__
from mllama_demo.backends import checked_model, load_runner, runner_info
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint import machine, neuron_sdks
from mllama_demo.checkpoint.compilation.shared_checkpoint import checkpoint_of
from mllama_demo.checkpoint.memory import core_memory
from mllama_demo.checkpoint.torch_plan import weights_dtype
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.loader import load_settings
from mllama_demo.config.model_shape import PUBLISHED, read_shape
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo
from mllama_demo.engine.neuron.config import neuron_values
from mllama_demo.engine.torch.runner import choose_device
from mllama_demo.errors import ConfigError, DemoError
from mllama_demo.runtime.cpu import model_name
from mllama_demo.verify import faults, report
from mllama_demo.verify.cases import STORY, Case, make_cases
from mllama_demo.verify.comparison import Comparer, Engine, own_answers
from mllama_demo.verify.measure import MemoryFound, Timing, measure_times
from mllama_demo.verify.reference import Reference, compute_reference, load_reference, weights_digest
from mllama_demo.verify.sampling import sample_by_row

DIFFERS, CANNOT_RUN = 1, 2
# The largest difference of a logit that rounding explains. docs/verify.md has the figures that these were chosen by.
TOLERANCE = {"float32": 0.002, "float16": 0.1, "bfloat16": 1.0}
INT8_TOLERANCE = 1.5
NO_REFERENCE = "none"
_COMPARED_BACKENDS = ("torch", "neuron")
_PROGRESS_S = 10.0
_ENDED = "The verification ended before {}; the end of its output says why."
_TORCH_LENGTHS = (64, 256, 1024)


@dataclass
class _Verification:
    """One run: what is compared, and what was found so far."""

    settings: Settings
    checkpoint: CheckpointInfo
    tokenizer: Tokenizer
    info: BackendInfo
    context_buckets: Sequence[int]
    token_buckets: Sequence[int]
    cases: Sequence[Case]


def main(options: Sequence[str], output: Path, record: Path | None, reference: str | None, tolerance: float | None) -> int:
    """The command `verify`, with the options of `serve`.

    Args:
        output: the folder for report.md and report.json.
        record: write the reference into this file, and compare nothing.
        reference: a file that `record` wrote; "none" compares the engine with itself; None computes the reference here.
        tolerance: the largest difference of a logit; None chooses it by the engine's number format.

    Returns:
        0 when everything agrees, 1 when something differs. 2 when it cannot run, with a report where the engine was the reason.
    """
    run = _prepare(load_settings(options))
    allowed = tolerance if tolerance is not None or record is not None else _tolerance(run.settings, run.checkpoint)
    if record is not None:
        found = compute_reference(run.settings, run.checkpoint, run.cases, _say)
        try:
            found.save(record)
        except OSError as error:
            raise ConfigError(f"The reference cannot be written to {record} ({error.strerror}).") from None
        print(f"{record} has the reference of {len(run.cases)} cases; verify --reference {record} compares an engine with it.")
        return 0
    if run.settings.backend == "neuron":
        checked_model(run.settings)  # before the reference, which may take an hour
    # The report exists from now on, because an engine may end this process.
    redact = report.Redaction(run.settings, run.checkpoint.name)
    _write(_report(run, "nothing", redact, problem=_ENDED.format("the reference was there")), output)
    expected = _reference(run, reference)
    result = _verify(run, expected, allowed or 0.0, redact, lambda found: _write(found, output))
    files = _write(result, output)
    print(f"{'Passed' if result.passed else 'Failed'}: {' and '.join(map(str, files))} have everything that was found.")
    if result.problem:
        print(result.problem, file=sys.stderr)
        return CANNOT_RUN
    return 0 if result.passed else DIFFERS


def _write(found: report.Report, output: Path) -> tuple[Path, Path]:
    try:
        return report.write(found, output)
    except OSError as error:
        raise ConfigError(f"The report cannot be written to {output} ({error.strerror}); name a folder with --output.") from None


def _prepare(settings: Settings) -> _Verification:
    if settings.backend not in _COMPARED_BACKENDS:
        raise ConfigError(
            f"backend is {settings.backend}, but verify compares the logits of an engine in this process; use backend neuron or "
            "torch."
        )
    checkpoint = checkpoint_of(settings)
    info, tokenizer = runner_info(settings, checkpoint), Tokenizer(settings.model_path)
    if settings.backend == "neuron":
        context, token = settings.neuron.context_encoding_buckets, settings.neuron.token_generation_buckets
    else:
        context = token = (*(length for length in _TORCH_LENGTHS if length < settings.seq_len), settings.seq_len)
    return _Verification(settings, checkpoint, tokenizer, info, context, token, make_cases(tokenizer, info, context, token))


def _tolerance(settings: Settings, checkpoint: CheckpointInfo) -> float:
    if settings.quantization == "int8":
        return INT8_TOLERANCE
    if settings.quantization == "int4":
        raise ConfigError("quantization is int4, whose rounding is as large as a fault; say with --tolerance what is allowed.")
    if settings.backend == "neuron":
        return TOLERANCE[settings.neuron.dtype]
    return TOLERANCE[_torch_choice(settings, checkpoint)[1]]


def _torch_choice(settings: Settings, checkpoint: CheckpointInfo) -> tuple[str, str]:
    """The device and the type of the weights, as the engine of backend torch will choose them."""
    device = choose_device(settings.device)
    return device, weights_dtype(settings, checkpoint.dtype, device.partition(":")[0])


def _reference(run: _Verification, name: str | None) -> Reference | None:
    """The reference; None where the engine is compared with itself."""
    if name == NO_REFERENCE:
        return None
    if name is not None:
        return load_reference(Path(name), weights_digest(run.checkpoint), run.cases)
    return compute_reference(run.settings, run.checkpoint, run.cases, _say)


def _verify(
    run: _Verification,
    expected: Reference | None,
    tolerance: float,
    redact: report.Redaction,
    save: Callable[[report.Report], object],
) -> report.Report:
    """Compares and measures. Saves what was found before each part, for the case that the engine ends this process."""
    try:
        _say("loading the engine")
        save(_report(run, "nothing", redact, problem=_ENDED.format("the engine was loaded")))
        # Images are encoded anew for each request: the time of a first token is that of a new image.
        engine = cast("Engine", load_runner(run.settings.model_copy(update={"vision_cache_size": 0}), _Progress()))
        if expected is None:
            _say("answering alone, for the comparison of the engine with itself")
            expected = Reference("", "the engine's own answers to one request at a time", own_answers(engine, run.cases))
    except DemoError as error:
        return _report(run, "nothing", redact, problem=f"The engine could not be loaded: {redact(str(error))}")
    except Exception as error:  # of the SDK
        text = redact(f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}")
        return _report(run, "nothing", redact, problem=f"The engine could not be loaded ({text}).")
    comparer = Comparer(engine, expected, tolerance, redact, _say)

    def begin(part: str) -> None:
        _say(part)
        save(_report(run, expected.computed, redact, comparer=comparer, problem=_ENDED.format(f"{part} was done")))

    begin("comparing every case alone")
    comparer.alone([case for case in run.cases if case.group != "empty tiles"])
    begin("comparing mixed batches")
    comparer.mixed(run.cases)
    begin("comparing reused slots")
    comparer.reused(run.cases)
    begin("sampling by row")
    on_device = run.info.max_top_k is not None
    sampling = run.settings.on_device_sampling_config
    varies = not (on_device and sampling is not None and sampling.deterministic)
    draws = sample_by_row(comparer, next(case for case in run.cases if case.name == STORY), varies=varies)
    found: list[faults.Fault] = []
    if run.settings.backend == "neuron":
        found = [
            faults.frozen_ids(comparer, run.cases),
            faults.empty_tiles(comparer, run.cases),
            faults.nucleus(draws if on_device and varies else None),
            faults.second_slot(comparer.failures),
        ]
    timings: list[Timing] = []
    begin("measuring")
    try:
        timings = measure_times(engine, run.tokenizer, run.cases, run.context_buckets, run.token_buckets, _say)
    except Exception as error:
        comparer.failed("times", "measured", error)
    return _report(run, expected.computed, redact, comparer=comparer, found=found, timings=timings)


def _report(
    run: _Verification,
    reference: str,
    redact: report.Redaction,
    *,
    comparer: Comparer | None = None,
    found: Sequence[faults.Fault] = (),
    timings: Sequence[Timing] = (),
    problem: str = "",
) -> report.Report:
    memory = None
    if run.settings.backend == "neuron" and not problem:
        shape = read_shape(run.checkpoint.path / "config.json")
        memory = MemoryFound.of(core_memory(shape, run.settings.neuron), machine.ROOT)
    return report.Report(
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        program=f"mllama_demo {__version__}",
        machine=_machine(run.settings),
        model=_model(run.checkpoint),
        configuration=_configuration(run.settings, run.checkpoint),
        reference=redact(reference),
        comparisons=comparer.found if comparer else (),
        faults=found,
        timings=timings,
        memory=memory,
        problem=problem,
    )


def _machine(settings: Settings) -> dict[str, Any]:
    here = machine.this_machine((*neuron_sdks.PACKAGES, "torch"))
    facts: dict[str, Any] = {
        "processor": model_name(),
        "logical processors": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": dict(here.versions),
    }
    if settings.backend == "neuron":
        sdk = neuron_sdks.closest(here.versions)
        facts = {
            "instance": here.instance_type or "unknown",
            "neuron devices": here.neuron_devices,
            "driver": here.driver or "unknown",
            "neuron SDK": sdk.name if sdk else "unknown",
        } | facts
    return facts


def _model(checkpoint: CheckpointInfo) -> dict[str, Any]:
    """The name of its folder is private; a published model is told by its sizes."""
    shape = read_shape(checkpoint.path / "config.json")
    size = next((name for name, published in PUBLISHED.items() if published == shape), "not a published one")
    return {
        "size": size,
        "parameters": checkpoint.parameters,
        "dtype": checkpoint.dtype,
        "digest of the weights": weights_digest(checkpoint),
    }


def _configuration(settings: Settings, checkpoint: CheckpointInfo) -> dict[str, Any]:
    if settings.backend == "neuron":
        return {"backend": "neuron", "instance_type": settings.instance_type, **neuron_values(settings.neuron)}
    device, dtype = _torch_choice(settings, checkpoint)
    if device.startswith("cuda"):
        device = f"{device}, {torch.cuda.get_device_name(device)}"
    chosen = {"backend": "torch", "device": device, "dtype": dtype, "quantization": settings.quantization}
    return chosen | {"batch_size": settings.batch_size, "seq_len": settings.seq_len}


class _Progress:
    """Prints what the engine says while it compiles and loads, at most every few seconds."""

    def __init__(self) -> None:
        self._said = -math.inf

    def __call__(self, detail: str) -> None:
        if time.monotonic() - self._said >= _PROGRESS_S:
            self._said = time.monotonic()
            _say(detail)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
