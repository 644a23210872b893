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
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mllama_demo.chat.message_summary import duration
from mllama_demo.checkpoint.compilation import artifacts
from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.checkpoint.compilation import lease as lease_module
from mllama_demo.checkpoint.compilation.artifacts import ArtifactLocation
from mllama_demo.checkpoint.compilation.fingerprint import compilation_inputs, fingerprint
from mllama_demo.checkpoint.compilation.lease import Lease
from mllama_demo.checkpoint.compilation.shared_artifacts import SharedArtifacts, shared_at
from mllama_demo.checkpoint.compilation.shared_checkpoint import checkpoint_of, look_up_checkpoint, share_checkpoint
from mllama_demo.checkpoint.machine import check_instance, check_sdk, free_bytes, version_key
from mllama_demo.checkpoint.memory import GIB, CoreMemory, core_memory
from mllama_demo.checkpoint.neuron_sdks import check_release
from mllama_demo.checkpoint.plan import verdict
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.loader import load_settings
from mllama_demo.config.model_shape import read_shape
from mllama_demo.config.neuron import CORES, GRAPH_DISK_BYTES, NeuronOptions
from mllama_demo.config.settings import Settings
from mllama_demo.engine.loading_progress import LoadingProgress
from mllama_demo.engine.neuron.compiler_log import CompileProgress
from mllama_demo.engine.neuron.config import neuron_values
from mllama_demo.errors import ConfigError, DemoError
from mllama_demo.runtime.process import sigterm_as_interrupt
from mllama_demo.runtime.words import parameter_count

# The first release of NxD Inference whose hf_state_dict_conversion.py of this model reads fused_qkv. 0.2 and 0.3 read it in the
# conversion of Meta's layout only.
FUSED_QKV_SINCE = (0, 4)
_REPORT_S = 60.0  # between two lines about a wait


@dataclass(frozen=True)
class Compilation:
    """What is to be compiled, and where.

    Attributes:
        values: NxDI's configuration of the model.
        inputs: everything that the compiled model depends on.
        root: the folder of all artifacts of this model.
        shared: where other machines put theirs, and get this one's; None where nothing is shared.
        lease: keeps other machines from compiling the same at once; None where nothing is shared.
    """

    options: NeuronOptions
    checkpoint: CheckpointInfo
    values: dict[str, Any]
    inputs: dict[str, Any]
    root: Path
    location: ArtifactLocation
    memory: CoreMemory
    shared: SharedArtifacts | None = None
    lease: Lease | None = None

    @property
    def graphs(self) -> int:
        return self.options.graphs

    @property
    def bytes(self) -> int:
        """Disk space for the weights of every core and the graphs."""
        return self.options.tensor_parallel_size * self.memory.weights + self.graphs * GRAPH_DISK_BYTES

    @property
    def exists(self) -> bool:
        """Whether it is compiled already. Raises ConfigError when its folder holds something else."""
        return artifacts.is_compiled_from(self.location, self.inputs)


def main(options: Sequence[str], dry_run: bool) -> int:
    """The command `compile`, with the options of `serve`. dry_run: print what would be done, and do nothing.

    Raises ConfigError for what prevents the compilation. With dry_run, the SDK and the devices may be missing.
    """
    settings = load_settings(options, neuron_command="`compile`")
    compilation = plan_compilation(settings, keep=not dry_run)
    if dry_run:
        print(describe(compilation))
        if not compilation.exists:
            _check_configuration(compilation)
            _check_space(compilation)
        return 0
    check_can_compile(compilation)
    try:
        with sigterm_as_interrupt():
            transfer = LoadingProgress(lambda text: None, _print)
            folder = ensure_compiled(compilation, _Terminal(), _print, transfer)
            share(compilation, _print, transfer)
    except KeyboardInterrupt:
        raise ConfigError(compile_job.INTERRUPTED) from None
    _print(f"{folder} is ready; serve with the same options loads it.")
    return 0


def plan_compilation(settings: Settings, environ: Mapping[str, str] | None = None, *, keep: bool = True) -> Compilation:
    """The compilation that a configuration needs. Raises CheckpointError for a checkpoint that is not complete.

    Args:
        keep: False looks at the small files that S3 has, instead of writing them beside the checkpoint.
    """
    options = settings.neuron
    values = neuron_values(options)
    place = settings.compiled_artifacts
    shared, folder = shared_at(place), settings.model_path.resolve()
    with nullcontext(checkpoint_of(settings)) if keep else look_up_checkpoint(settings) as checkpoint:
        inputs = compilation_inputs(checkpoint, values, options.instance_type)
        memory = core_memory(read_shape(checkpoint.path / "config.json"), options)
    root = (Path(place) if place and shared is None else folder / "neuron-compiled-artifacts").absolute()
    return Compilation(
        options,
        replace(checkpoint, path=folder),
        values,
        inputs,
        root,
        artifacts.locate(root, inputs, os.environ if environ is None else environ),
        memory,
        shared,
        None if shared is None else Lease(shared, fingerprint(inputs)),
    )


def check_can_compile(compilation: Compilation) -> None:
    """Raises ConfigError when the SDK is missing or refused, or when the machine or the memory of its cores does not suit."""
    check_sdk()
    _check_configuration(compilation)
    check_instance(compilation.options.instance_type, compilation.options.tensor_parallel_size)


def _check_configuration(compilation: Compilation) -> None:
    """What can be told without devices: the release of the SDK, where one is installed, options, variables and memory."""
    check_release(compilation.options.instance_type)
    nxdi = compilation.inputs["sdk"]["neuronx-distributed-inference"] or ""
    if compilation.options.fused_qkv and nxdi and version_key(nxdi) < FUSED_QKV_SINCE:
        raise ConfigError(
            f"fused_qkv is true, but NxD Inference {nxdi} cannot make the fused weights from a checkpoint in the Hugging Face "
            "layout (a KeyError while the weights are cut); use SDK 2.24 or later, or set fused_qkv to false."
        )
    wanted, given = str(compilation.options.chip.physical), os.environ.get("NEURON_LOGICAL_NC_CONFIG", "")
    if given not in ("", wanted):  # NxDI takes the variable, not the configuration
        raise ConfigError(
            f"NEURON_LOGICAL_NC_CONFIG is {given}, but this configuration counts NeuronCores of {wanted} physical ones each, as "
            f"AWS does for instances of the type {compilation.options.instance_type}; unset it."
        )
    if compilation.memory.exact > compilation.memory.capacity:
        raise ConfigError(
            f"The model would not fit the {compilation.options.chip.core_gib} GiB of a NeuronCore: weights and caches alone are "
            f"{compilation.memory.exact / GIB:.1f} GiB; `python -m mllama_demo plan` with the same options shows what would."
        )


def ensure_compiled(
    compilation: Compilation,
    on_progress: Callable[[CompileProgress, float], None],
    report: Callable[[str], None] = lambda line: None,
    on_transfer: Callable[[int, int], None] = lambda done, total: None,
    on_wait: Callable[[float], None] = lambda seconds: None,
) -> Path:
    """Returns the folder of the compiled model. Fetches or compiles it first, if no equal one is there.

    Compiling takes half an hour or more. An exception, also one of a callback, leaves no artifact and no process behind. `share`
    uploads what was compiled, which the caller calls when nobody waits for the model any more. Until then, other machines that
    need the same wait for it.

    Args:
        compilation: what to compile.
        on_progress: called at least every second with the progress and the seconds since the start.
        report: called with one line for each message.
        on_transfer: called with the bytes that are fetched, and with those of the whole artifact.
        on_wait: called every few seconds with the seconds of waiting, while another machine compiles the same.

    Raises:
        ConfigError: the compilation failed, or S3 cannot be used.
    """
    folder = compilation.location.folder
    if compilation.exists:
        report(f"{folder} was compiled from exactly this before; there is nothing to do.")
        return folder
    try:
        if _may_compile(compilation, report, on_wait):
            try:
                _compile(compilation, on_progress, report)
            except BaseException:
                if compilation.lease is not None:
                    compilation.lease.release()
                raise
        else:
            _fetch(compilation, report, on_transfer)
    except OSError as error:
        if artifacts.full_disk(error):
            raise ConfigError(f"The disk of {folder} is full; nothing was kept of the compilation.") from None
        raise ConfigError(f"{error.filename or folder} cannot be written or read ({error.strerror or error}).") from None
    if not compilation.exists:
        raise ConfigError(f"{folder} was removed right after the compilation; is another program deleting files there?")
    return folder


def share(compilation: Compilation, report: Callable[[str], None], on_transfer: Callable[[int, int], None]) -> None:
    """Uploads the compiled model if S3 has none, and ends the lease. A failure is reported only: the model is compiled anyway."""
    shared, name = compilation.shared, fingerprint(compilation.inputs)
    if shared is None:
        return
    try:
        if not shared.has(name):
            report(f"Sharing the compiled model in {shared.url}/{name} …")
            if not shared.store(name, compilation.location.folder, on_transfer):
                report(f"Another machine shared the same compiled model first; {shared.url}/{name} has that one.")
        if compilation.checkpoint.identity is None:
            share_checkpoint(shared, compilation.checkpoint)
    except (DemoError, OSError) as error:
        report(f"Not everything is shared: {error}")
    finally:
        if compilation.lease is not None:
            compilation.lease.release()


def _may_compile(compilation: Compilation, report: Callable[[str], None], on_wait: Callable[[float], None]) -> bool:
    """Whether this machine has to compile. False when S3 has the model. Waits while another machine compiles it."""
    shared, lease, here = compilation.shared, compilation.lease, compilation.checkpoint.identity is None
    name, started, reported = fingerprint(compilation.inputs), time.monotonic(), float("-inf")
    while shared is not None and lease is not None:
        if shared.has(name):
            return False
        if here and lease.acquire():
            there = True
            try:
                there = shared.has(name)  # it may have come just before the lease was free
            finally:
                if there:
                    lease.release()
            return not there
        if not here and not lease.held_elsewhere():
            if shared.has(name):  # likewise
                return False
            break
        waited = time.monotonic() - started
        if waited - reported >= _REPORT_S:
            report(f"Another machine compiles the same model for {shared.url}/{name}; waiting for it, {duration(waited)} …")
            reported = waited
        on_wait(waited)
        time.sleep(lease_module.POLL_S)
    if not here:
        raise ConfigError(
            f"The weights of {compilation.checkpoint.name} are not on this machine, and neither {compilation.root} nor "
            f"{shared.url if shared else 'a folder in S3'} has a model that was compiled from exactly this; compile with these "
            f"options on a machine with the weights, or download them into {compilation.checkpoint.path}."
        )
    return True


def _fetch(compilation: Compilation, report: Callable[[str], None], on_transfer: Callable[[int, int], None]) -> None:
    shared, name = compilation.shared, fingerprint(compilation.inputs)
    assert shared is not None
    report(f"Fetching the compiled model from {shared.url}/{name} into {compilation.location.folder} …")
    with artifacts.new_artifact(compilation.location) as work:
        _check_space(compilation)
        shared.fetch(name, work / "artifact", on_transfer)
        remedy = f"remove {shared.address(name)}, and the next start compiles it anew and shares it"
        artifacts.check(work / "artifact", compilation.inputs, f"{shared.url}/{name}", remedy)


def _compile(
    compilation: Compilation,
    on_progress: Callable[[CompileProgress, float], None],
    report: Callable[[str], None],
) -> None:
    folder, started = compilation.location.folder, time.monotonic()
    if not compilation.location.from_environment and (near := artifacts.closest(compilation.root, compilation.inputs)):
        report(f"What is compiled already is something else; in {near[0].name}, the closest, {artifacts.first_three(near[1])}.")
    report(f"Compiling {compilation.checkpoint.name} in {compilation.graphs} graphs into {folder} …")
    log = folder.with_name(folder.name + ".log")
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


def describe(compilation: Compilation) -> str:
    """The table that --dry-run prints."""
    o, sdk = compilation.options, compilation.inputs["sdk"]
    sampling = o.on_device_sampling_config
    installed = ", ".join(f"{name} {version}" for name, version in sdk.items() if version)
    cores = f"{o.tensor_parallel_size} of {CORES[o.instance_type]} NeuronCores"
    free = free_bytes(compilation.location.folder)
    lines = {
        "model": f"{compilation.checkpoint.path}, {parameter_count(compilation.checkpoint.parameters)}",
        "for": f"{o.instance_type}, {cores}, {o.dtype}",
        "slots": f"{o.batch_size} of {o.seq_len} tokens",
        "graphs": f"{compilation.graphs}: prompts of {_lengths(o.context_encoding_buckets)}; "
        f"contexts of {_lengths(o.token_generation_buckets)}",
        "sampling": "on the host, with probabilities"
        if sampling is None
        else f"on the device, among {sampling.global_topk} candidates",
        "memory": f"{compilation.memory.total / GIB:.2f} GiB of {o.chip.core_gib} on each core, {verdict(compilation.memory)}",
        "SDK": installed if sdk["neuronx-distributed-inference"] else f"not installed here ({installed or 'no package of it'})",
        "disk": f"{compilation.bytes / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free",
        "into": str(compilation.location.folder)
        + ("" if sdk["neuronx-distributed-inference"] else " (another name where the SDK is)"),
        "state": _state(compilation),
        **({"shared": compilation.shared.url} if compilation.shared else {}),
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
