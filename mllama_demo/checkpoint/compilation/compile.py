"""The command `compile`: compiles a checkpoint for a Neuron configuration, unless an equal one is compiled already.

`serve` uses this module too. All checks come before the compilation, which takes up to an hour. The Neuron SDK is imported in a
process of its own (worker.py), never here.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllama_demo.checkpoint.compilation import artifacts
from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.checkpoint.compilation.artifacts import ArtifactLocation
from mllama_demo.checkpoint.compilation.fingerprint import compilation_inputs
from mllama_demo.checkpoint.machine import check_instance, check_sdk, free_bytes
from mllama_demo.checkpoint.memory import GIB, CoreMemory, core_memory
from mllama_demo.checkpoint.plan import verdict
from mllama_demo.checkpoint.validate import CheckpointInfo, check_checkpoint
from mllama_demo.config.loader import load_settings
from mllama_demo.config.model_shape import read_shape
from mllama_demo.config.neuron import CORES, GIB_PER_CORE, NeuronOptions
from mllama_demo.config.settings import Settings
from mllama_demo.engine.neuron.compiler_log import CompileProgress
from mllama_demo.engine.neuron.config import neuron_values
from mllama_demo.errors import ConfigError
from mllama_demo.runtime.process import sigterm_as_interrupt

# Disk space for each graph: traced, compiled, and in model.pt. An upper estimate.
_GRAPH_BYTES = GIB


@dataclass(frozen=True)
class Compilation:
    """What is to be compiled, and where.

    Attributes:
        values: NxDI's configuration of the model.
        inputs: everything that the compiled model depends on.
        root: the folder of all artifacts of this model.
    """

    options: NeuronOptions
    checkpoint: CheckpointInfo
    values: dict[str, Any]
    inputs: dict[str, Any]
    root: Path
    location: ArtifactLocation
    memory: CoreMemory

    @property
    def graphs(self) -> int:
        return len(self.options.context_encoding_buckets) + len(self.options.token_generation_buckets)

    @property
    def bytes(self) -> int:
        """Disk space for the weights of every core and the graphs."""
        return self.options.tensor_parallel_size * self.memory.weights + self.graphs * _GRAPH_BYTES

    @property
    def exists(self) -> bool:
        """Whether it is compiled already. Raises ConfigError when its folder holds something else."""
        return artifacts.is_compiled_from(self.location, self.inputs)


def main(options: Sequence[str], dry_run: bool) -> int:
    """The command `compile`, with the options of `serve`. dry_run: print what would be done, and do nothing."""
    settings = load_settings([*options, "--backend", "neuron"])
    compilation = plan_compilation(settings)
    if dry_run:
        print(describe(compilation))
        return 0
    check_can_compile(compilation)
    try:
        with sigterm_as_interrupt():
            folder = ensure_compiled(compilation, _Terminal(), report=_print)
    except KeyboardInterrupt:
        raise ConfigError(compile_job.INTERRUPTED) from None
    _print(f"{folder} is ready; serve with the same options loads it.")
    return 0


def plan_compilation(settings: Settings, environ: Mapping[str, str] | None = None) -> Compilation:
    """The compilation that a configuration needs. Raises CheckpointError for a checkpoint that is not complete."""
    checkpoint = check_checkpoint(settings.model_path)
    options = settings.neuron
    values = neuron_values(options)
    inputs = compilation_inputs(checkpoint, values, options.instance_type)
    root = (settings.compiled_artifacts or checkpoint.path / "neuron-compiled-artifacts").absolute()
    return Compilation(
        options,
        checkpoint,
        values,
        inputs,
        root,
        artifacts.locate(root, inputs, os.environ if environ is None else environ),
        core_memory(read_shape(checkpoint.path / "config.json"), options),
    )


def check_can_compile(compilation: Compilation) -> None:
    """Raises ConfigError when the SDK is missing, or when the machine or the memory of its cores does not suit."""
    check_sdk()
    check_instance(compilation.options.instance_type, compilation.options.tensor_parallel_size)
    if compilation.memory.exact > GIB_PER_CORE * GIB:
        raise ConfigError(
            f"The model would not fit the {GIB_PER_CORE} GiB of a NeuronCore: weights and caches alone are "
            f"{compilation.memory.exact / GIB:.1f} GiB; `python -m mllama_demo plan` with the same options shows what would."
        )


def ensure_compiled(
    compilation: Compilation,
    on_progress: Callable[[CompileProgress, float], None],
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Compiles the model if no equal one is compiled, which takes half an hour or more. Returns its folder.

    An exception, also one of on_progress, leaves no artifact and no process behind.

    Args:
        compilation: what to compile.
        on_progress: called at least every second with the progress and the seconds since the start.
        report: called with one line for each message.

    Raises:
        ConfigError: the compilation failed.
    """
    folder = compilation.location.folder
    if compilation.exists:
        report(f"{folder} was compiled from exactly this before; there is nothing to do.")
        return folder
    if not compilation.location.from_environment and (near := artifacts.closest(compilation.root, compilation.inputs)):
        report(f"What is compiled already is something else; in {near[0].name}, the closest, {artifacts.first_three(near[1])}.")
    report(f"Compiling {compilation.checkpoint.name} in {compilation.graphs} graphs into {folder} …")
    started = time.monotonic()
    log = folder.with_name(folder.name + ".log")
    try:
        with artifacts.new_artifact(compilation.location) as work:
            _check_space(compilation)
            made = work / "artifact"
            job = {"model_path": str(compilation.checkpoint.path), "values": compilation.values, "folder": str(made)}
            try:
                compile_job.run(
                    job, compilation.graphs, work / "nxd", work / "log", lambda now: on_progress(now, time.monotonic() - started)
                )
            except ConfigError as error:
                if str(work / "log") in str(error):
                    shutil.copyfile(work / "log", log)
                raise ConfigError(str(error).replace(str(work / "log"), str(log))) from None
            artifacts.copy_tokenizer_and_processor(compilation.checkpoint.path, made)
            shutil.copyfile(work / "log", made / "compile.log")
            artifacts.write_manifest(made, compilation.inputs, time.monotonic() - started)
        log.unlink(missing_ok=True)  # of an earlier compilation that failed
    except OSError as error:
        if artifacts.full_disk(error):
            raise ConfigError(f"The disk of {folder} is full; nothing was kept of the compilation.") from None
        raise ConfigError(f"{error.filename or folder} cannot be written or read ({error.strerror or error}).") from None
    if not compilation.exists:
        raise ConfigError(f"{folder} was removed right after the compilation; is another program deleting files there?")
    return folder


def describe(compilation: Compilation) -> str:
    """The table that --dry-run prints."""
    o, sdk = compilation.options, compilation.inputs["sdk"]
    sampling = o.on_device_sampling_config
    installed = ", ".join(f"{name} {version}" for name, version in sdk.items() if version)
    cores = f"{o.tensor_parallel_size} of {CORES[o.instance_type]} NeuronCores"
    free = free_bytes(compilation.location.folder)
    lines = {
        "model": f"{compilation.checkpoint.path}, {compilation.checkpoint.parameters / 1e9:,.3g} billion parameters",
        "for": f"{o.instance_type}, {cores}, {o.dtype}",
        "slots": f"{o.batch_size} of {o.seq_len} tokens",
        "graphs": f"{compilation.graphs}: prompts of {_lengths(o.context_encoding_buckets)}; "
        f"contexts of {_lengths(o.token_generation_buckets)}",
        "sampling": "on the host, with probabilities"
        if sampling is None
        else f"on the device, among {sampling.global_topk} candidates",
        "memory": f"{compilation.memory.total / GIB:.2f} GiB of the {GIB_PER_CORE} of each core, {verdict(compilation.memory)}",
        "SDK": installed if sdk["neuronx-distributed-inference"] else f"not installed here ({installed or 'no package of it'})",
        "disk": f"{compilation.bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
        "into": str(compilation.location.folder)
        + ("" if sdk["neuronx-distributed-inference"] else " (another name where the SDK is)"),
        "state": _state(compilation),
    }
    return "\n".join(f"{name:10}{text}" for name, text in lines.items())


def describe_progress(progress: CompileProgress, seconds: float) -> str:
    """The progress as text: share, stage and duration."""
    return f"{progress.fraction:.0%}, {progress}, {tqdm.format_interval(seconds)}"


def _state(compilation: Compilation) -> str:
    try:
        if compilation.exists:
            return "compiled; nothing to do"
    except ConfigError as error:
        return str(error)
    near = None if compilation.location.from_environment else artifacts.closest(compilation.root, compilation.inputs)
    return "to be compiled" + (f"; in {near[0].name}, the closest, {artifacts.first_three(near[1])}" if near else "")


def _check_space(compilation: Compilation) -> None:
    folder = compilation.location.folder
    free = free_bytes(folder)
    if free < compilation.bytes:
        raise ConfigError(
            f"The compiled model needs {compilation.bytes / 1e9:.1f} GB on the disk of {folder.parent}, "
            f"where {free / 1e9:.1f} GB are free; name another folder with --compiled-artifacts."
        )


def _lengths(buckets: Sequence[int]) -> str:
    return ", ".join(map(str, buckets))


class _Terminal:
    """Draws a progress bar in a terminal. Elsewhere it prints one line for each new stage or count."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: CompileProgress, seconds: float) -> None:
        if sys.stdout.isatty():
            line = "[{bar:30}] {percentage:.0f}%, {desc}, {elapsed}"
            bar = tqdm.format_meter(progress.fraction, 1, seconds, prefix=str(progress), ascii=".#", bar_format=line)
            print(f"\r{bar}\x1b[K", end="", flush=True)
        elif str(progress) != self._last:
            self._last = str(progress)
            _print(describe_progress(progress, seconds))


def _print(line: str) -> None:
    print(("\r\x1b[K" if sys.stdout.isatty() else "") + line, flush=True)
