"""`python -m mllama_demo compile --config …`: a checkpoint and a Neuron configuration → a folder that a device loads.

Finds what is compiled already and compiles what is not; `serve` asks here too. Everything that can be wrong is found before the
hour that it takes. Imports nothing heavy: the Neuron SDK is imported in a process of its own (compile_worker).
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

from mllama_demo.checkpoint.compilation import artifacts
from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.checkpoint.compilation.artifacts import Place
from mllama_demo.checkpoint.compilation.fingerprint import ingredients
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

# Of disk, for each graph: as it was traced, as it was compiled, and again in model.pt. An estimate from above.
_GRAPH_BYTES = GIB


@dataclass(frozen=True)
class Compilation:
    """What is to be compiled, into which place; nothing is done yet. root: of all artifacts of this model."""

    options: NeuronOptions
    checkpoint: CheckpointInfo
    values: dict[str, Any]
    made_of: dict[str, Any]
    root: Path
    place: Place
    memory: CoreMemory

    @property
    def graphs(self) -> int:
        return len(self.options.context_encoding_buckets) + len(self.options.token_generation_buckets)

    @property
    def bytes(self) -> int:
        """What it takes of the disk, the weights of every core and the graphs."""
        return self.options.tensor_parallel_size * self.memory.weights + self.graphs * _GRAPH_BYTES

    @property
    def exists(self) -> bool:
        """Whether it was compiled before. Raises ConfigError for something else in its place, and says what differs."""
        return artifacts.is_made_of(self.place, self.made_of)


def main(options: Sequence[str], dry_run: bool) -> int:
    """The command `compile`, with the options of `serve`. dry_run: print what would be done, and do nothing."""
    settings = load_settings([*options, "--backend", "neuron"])
    wanted = compilation(settings)
    if dry_run:
        print(plan(wanted))
        return 0
    check(wanted)
    try:
        with sigterm_as_interrupt():
            folder = compiled(wanted, _Terminal(), say=_say)
    except KeyboardInterrupt:
        raise ConfigError(compile_job.INTERRUPTED) from None
    _say(f"{folder} is ready; serve with the same options loads it.")
    return 0


def compilation(settings: Settings, environ: Mapping[str, str] | None = None) -> Compilation:
    """Raises CheckpointError or ConfigError for a checkpoint that is not whole."""
    checkpoint = check_checkpoint(settings.model_path)
    options = settings.neuron
    values = neuron_values(options)
    made_of = ingredients(checkpoint, values, options.instance_type)
    root = (settings.compiled_artifacts or checkpoint.path / "neuron-compiled-artifacts").absolute()
    return Compilation(
        options,
        checkpoint,
        values,
        made_of,
        root,
        artifacts.place(root, made_of, os.environ if environ is None else environ),
        core_memory(read_shape(checkpoint.path / "config.json"), options),
    )


def check(wanted: Compilation) -> None:
    """Raises ConfigError for a machine or a configuration with which it would all be in vain."""
    check_sdk()
    check_instance(wanted.options.instance_type, wanted.options.tensor_parallel_size)
    if wanted.memory.exact > GIB_PER_CORE * GIB:
        raise ConfigError(
            f"The model would not fit the {GIB_PER_CORE} GiB of a NeuronCore: weights and caches alone are "
            f"{wanted.memory.exact / GIB:.1f} GiB; `python -m mllama_demo plan` with the same options shows what would."
        )


def compiled(
    wanted: Compilation, tell: Callable[[CompileProgress, float], None], say: Callable[[str], None] = lambda line: None
) -> Path:
    """The folder of the compiled model, compiled now if it must be, which takes half an hour or more.

    tell: called all the while with how far it is, and the seconds so far. Raises ConfigError with one sentence. Whatever is
    raised, also by tell, leaves no artifact and no process behind.
    """
    folder = wanted.place.folder
    if wanted.exists:
        say(f"{folder} was compiled from exactly this before; there is nothing to do.")
        return folder
    if not wanted.place.named and (near := artifacts.closest(wanted.root, wanted.made_of)):
        say(f"What is compiled already is something else; in {near[0].name}, the closest, {artifacts.few(near[1])}.")
    say(f"Compiling {wanted.checkpoint.name} in {wanted.graphs} graphs into {folder} …")
    started = time.monotonic()
    log = folder.with_name(folder.name + ".log")
    try:
        with artifacts.new_artifact(wanted.place) as work:
            _check_space(wanted)
            made = work / "artifact"
            job = {"model_path": str(wanted.checkpoint.path), "values": wanted.values, "folder": str(made)}
            try:
                compile_job.run(job, wanted.graphs, work / "nxd", work / "log", lambda now: tell(now, time.monotonic() - started))
            except ConfigError as error:
                if str(work / "log") in str(error):
                    shutil.copyfile(work / "log", log)
                raise ConfigError(str(error).replace(str(work / "log"), str(log))) from None
            artifacts.copy_tokenizer_and_processor(wanted.checkpoint.path, made)
            shutil.copyfile(work / "log", made / "compile.log")
            artifacts.write_manifest(made, wanted.made_of, time.monotonic() - started)
        log.unlink(missing_ok=True)  # of an earlier try that failed
    except OSError as error:
        if artifacts.full_disk(error):
            raise ConfigError(f"The disk of {folder} is full; nothing was kept of the compilation.") from None
        raise ConfigError(f"{error.filename or folder} cannot be written or read ({error.strerror or error}).") from None
    if not wanted.exists:
        raise ConfigError(f"{folder} is gone again; is another program tidying up there?")
    return folder


def plan(wanted: Compilation) -> str:
    """What would be done, and with what."""
    o, sdk = wanted.options, wanted.made_of["sdk"]
    sampling = o.on_device_sampling_config
    installed = ", ".join(f"{name} {version}" for name, version in sdk.items() if version)
    cores = f"{o.tensor_parallel_size} of {CORES[o.instance_type]} NeuronCores"
    free = free_bytes(wanted.place.folder)
    lines = {
        "model": f"{wanted.checkpoint.path}, {wanted.checkpoint.parameters / 1e9:,.3g} billion parameters",
        "for": f"{o.instance_type}, {cores}, {o.dtype}",
        "slots": f"{o.batch_size} of {o.seq_len} tokens",
        "graphs": f"{wanted.graphs}: prompts of {_lengths(o.context_encoding_buckets)}; "
        f"contexts of {_lengths(o.token_generation_buckets)}",
        "sampling": "on the host, with probabilities"
        if sampling is None
        else f"on the device, among {sampling.global_topk} candidates",
        "memory": f"{wanted.memory.total / GIB:.2f} GiB of the {GIB_PER_CORE} of each core, {verdict(wanted.memory)}",
        "SDK": installed if sdk["neuronx-distributed-inference"] else f"not installed here ({installed or 'no package of it'})",
        "disk": f"{wanted.bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
        "into": str(wanted.place.folder) + ("" if sdk["neuronx-distributed-inference"] else " (another name where the SDK is)"),
        "state": _state(wanted),
    }
    return "\n".join(f"{name:10}{text}" for name, text in lines.items())


def in_words(progress: CompileProgress, seconds: float) -> str:
    """For people who wait."""
    return f"{progress.fraction:.0%}, {progress}, {_clock(seconds)}"


def _state(wanted: Compilation) -> str:
    try:
        if wanted.exists:
            return "compiled; nothing to do"
    except ConfigError as error:
        return str(error)
    near = None if wanted.place.named else artifacts.closest(wanted.root, wanted.made_of)
    return "to be compiled" + (f"; in {near[0].name}, the closest, {artifacts.few(near[1])}" if near else "")


def _check_space(wanted: Compilation) -> None:
    free = free_bytes(wanted.place.folder)
    if free < wanted.bytes:
        raise ConfigError(
            f"The compiled model needs {wanted.bytes / 1e9:.1f} GB on the disk of {wanted.place.folder.parent}, where "
            f"{free / 1e9:.1f} GB are free; name another folder with --compiled-artifacts."
        )


def _lengths(buckets: Sequence[int]) -> str:
    return ", ".join(map(str, buckets))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


class _Terminal:
    """A bar that is drawn over and over; where there is no terminal, a line for everything new."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: CompileProgress, seconds: float) -> None:
        if sys.stdout.isatty():
            filled = round(30 * progress.fraction)
            line = f"[{'#' * filled}{'.' * (30 - filled)}] {in_words(progress, seconds)}"
            print(f"\r{line}\x1b[K", end="", flush=True)
        elif str(progress) != self._last:
            self._last = str(progress)
            _say(in_words(progress, seconds))


def _say(line: str) -> None:
    print(("\r\x1b[K" if sys.stdout.isatty() else "") + line, flush=True)
