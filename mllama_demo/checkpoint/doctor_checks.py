"""The doctor's checks. Each is a function from a `DoctorContext` to `Finding`s; CHECKS has their order.

A check changes nothing, imports no PyTorch and uses no network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mllama_demo.checkpoint import neuron_sdks
from mllama_demo.checkpoint.compilation import artifacts as compiled_artifacts
from mllama_demo.checkpoint.compilation.compile import Compilation
from mllama_demo.checkpoint.findings import DoctorContext, Finding, Status
from mllama_demo.checkpoint.machine import nearest_existing, same_chips, version_key
from mllama_demo.checkpoint.memory import GIB, core_memory
from mllama_demo.checkpoint.neuron_sdks import NXDI, Sdk
from mllama_demo.checkpoint.plan import verdict
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.model_shape import PUBLISHED
from mllama_demo.config.neuron import CORES, SCRATCHPAD_PAGE_MIB
from mllama_demo.errors import ConfigError

GB = 10**9
Verdict = tuple[Status, str, str]  # status, text and remedy of a Finding
_CORES: dict[str, int] = {**CORES}
_CORES_PER_DEVICE = 2
_WITHOUT_NEURON = "or leave --config out to run the small model of this demo with PyTorch"
_LAPTOP_DISK = GB  # bytes for conversations and their images; an estimate


# --- the machine ---------------------------------------------------------------------------------------------------------


def instance(s: DoctorContext) -> Iterator[Finding]:
    found, wanted = s.machine.instance_type, s.settings.instance_type
    if not s.neuron:
        yield Finding("instance", "ok", found or f"no EC2 instance ({s.machine.product or 'name unknown'})")
    elif found is None:
        text = f"no EC2 instance by its name ({s.machine.product or 'unknown'}); the configuration is for {wanted}"
        yield Finding("instance", "warn", text)
    elif found == wanted:
        yield Finding("instance", "ok", f"{found}, as configured")
    elif not same_chips(found, wanted):
        text = f"{found}, which has other chips than the {wanted} of the configuration"
        yield Finding("instance", "fail", text, f"start a {wanted}, or take a configuration for this instance")
    elif _CORES.get(found, 0) < s.settings.tensor_parallel_size:
        text = f"{found} has {_CORES.get(found, 0)} NeuronCores, and tensor_parallel_size is {s.settings.tensor_parallel_size}"
        yield Finding("instance", "fail", text, f"start a {wanted}, or take a configuration for this instance")
    else:
        text = f"{found}, but the configuration is for {wanted}"
        yield Finding("instance", "warn", text, f"its NeuronCores are enough; set instance_type to {found}")


def devices(s: DoctorContext) -> Iterator[Finding]:
    count, cores = s.machine.neuron_devices, s.settings.tensor_parallel_size
    if not s.neuron:
        processor = "a GPU" if s.machine.gpu and s.settings.device != "cpu" else "the CPU"
        runs = f"the model runs with PyTorch on {processor}"
        if s.has_neuron:
            remedy = "name one of the configurations in configs/ to use Neuron, such as --config configs/trn1-90b.yaml"
            yield Finding("neuron devices", "warn", f"{count}, but not used by this configuration: {runs}", remedy)
        else:
            yield Finding("neuron devices", "ok", f"Neuron is absent here, and not needed: {runs}")
        return
    expected = _CORES.get(s.machine.instance_type or "", CORES[s.settings.instance_type]) // _CORES_PER_DEVICE
    if count == 0:
        remedy = "see the driver" if s.has_neuron else f"start on a {s.settings.instance_type}, {_WITHOUT_NEURON}"
        yield Finding("neuron devices", "fail", "Neuron is absent here: there is no /dev/neuron0", remedy)
    elif count * _CORES_PER_DEVICE < cores:
        text = f"{count}, with {count * _CORES_PER_DEVICE} NeuronCores, but tensor_parallel_size is {cores}"
        yield Finding("neuron devices", "fail", text, "pass every /dev/neuron* into the container, or look into dmesg")
    elif count < expected:
        text = f"{count} of {expected}, which is enough for {cores} NeuronCores"
        yield Finding("neuron devices", "warn", text, "look into dmesg if this is no container that was given a part of them")
    else:
        yield Finding("neuron devices", "ok", f"{count}; {cores} of {count * _CORES_PER_DEVICE} NeuronCores are used")


def driver(s: DoctorContext) -> Iterator[Finding]:
    if not s.has_neuron:
        return
    version, on_disk, sdk = s.machine.driver, s.machine.driver_on_disk, s.sdk
    threshold, first_fit = neuron_sdks.DRIVER_THAT_NEEDS_NEWER_RUNTIME
    if version is None:
        if on_disk:
            yield Finding("driver", "fail", f"{on_disk} is installed but not loaded", "sudo modprobe neuron")
        elif s.machine.neuron_devices:  # a container may not show the host's driver
            yield Finding("driver", "warn", "its version cannot be seen (/sys/module/neuron)", "see `modinfo neuron` on the host")
        else:
            yield Finding("driver", "fail", "there is none", "install aws-neuronx-dkms, or start from a Neuron AMI")
    elif sdk and version_key(version) < version_key(sdk.driver):
        text = f"{version}, older than {sdk.driver} of SDK {sdk.name}"
        yield Finding("driver", "warn", text, "update aws-neuronx-dkms and restart the machine")
    elif sdk and version_key(version) >= threshold and sdk.release < first_fit:
        text = f"{version}, which needs the Neuron runtime 2.33 or later; SDK {sdk.name} came with an older one"
        yield Finding("driver", "warn", text, f"if the runtime does not start, install driver {sdk.driver}")
    else:
        yield Finding("driver", "ok", f"{version}, loaded")


# --- the software --------------------------------------------------------------------------------------------------------


def packages(s: DoctorContext) -> Iterator[Finding]:
    versions = s.machine.versions
    if not s.neuron:
        missing = [name for name in ("torch", "transformers", "gradio") if name not in versions]
        if missing:
            text = f"{' and '.join(missing)} not installed in this environment"
            yield Finding("packages", "fail", text, "pip install -r requirements.txt, or `make run`, which does it")
        else:
            yield Finding("packages", "ok", f"torch {versions['torch']}, transformers {versions['transformers']}")
        return
    if "gradio" not in versions:
        yield Finding("packages", "fail", "gradio is not installed in this environment", "pip install -r requirements-neuron.txt")
    if NXDI not in versions:
        remedy = (
            "activate the PyTorch inference environment of the Neuron SDK, such as source /opt/aws_neuronx_venv_…/bin/activate"
        )
        yield Finding("neuron sdk", "fail", f"{NXDI} is not installed in this environment", remedy)
        return
    if s.sdk is None:
        text = f"{NXDI} {versions[NXDI]} is of no release that this demo knows"
        yield Finding("neuron sdk", "warn", text, f"it knows {_known()}; others may work")
        return
    found = list(_sdk(s, s.sdk))
    yield from found or [Finding("neuron sdk", "ok", f"{s.sdk.name}, a set that AWS released together")]


def _sdk(s: DoctorContext, sdk: Sdk) -> Iterator[Finding]:
    """The problems of a known release of the SDK."""
    if differences := sdk.differences(s.machine.versions):
        text = f"like {sdk.name}, but {'; '.join(differences)}"
        yield Finding("neuron sdk", "warn", text, "install the packages as one set; mixed ones may fail while compiling")
    if sdk.release > neuron_sdks.LAST_ON_TRN1_INF2:
        text = f"{sdk.name}, whose NxD Inference AWS supports on Trn2 and newer only"
        yield Finding("neuron sdk", "warn", text, "on trn1 and inf2 use SDK 2.28 or older")
    if sdk.release <= neuron_sdks.LAST_WITHOUT_11B and s.shape and s.shape.hidden < PUBLISHED["90B"].hidden:
        text = f"{sdk.name}, in which AWS supports 90B but not 11B"
        yield Finding("neuron sdk", "warn", text, "use SDK 2.22 to 2.28")


def _known() -> str:
    return f"{neuron_sdks.SDKS[0].name} to {neuron_sdks.SDKS[-1].name}"


# --- the model -----------------------------------------------------------------------------------------------------------


def checkpoint(s: DoctorContext) -> Iterator[Finding]:
    found = s.checkpoint
    if isinstance(found, CheckpointInfo):
        files = "1 file" if len(found.weight_files) == 1 else f"{len(found.weight_files)} files"
        text = f"{found.name}: {_count(found.parameters)} parameters in {files}, {_size(found.bytes)}, every tensor in its place"
        yield Finding("checkpoint", "ok", text)
        return
    unfinished = s.settings.model_path.with_name(s.settings.model_path.name + ".converting")
    remedy = f"a conversion was interrupted ({unfinished}); give the same convert command again" if unfinished.exists() else ""
    yield Finding("checkpoint", "fail", found, remedy)


def device_memory(s: DoctorContext) -> Iterator[Finding]:
    if s.neuron and s.shape:
        memory = core_memory(s.shape, s.settings.neuron)
        status = "fail" if memory.free < 0 else "warn" if memory.free < GIB else "ok"
        remedy = "" if status == "ok" else "`python -m mllama_demo plan` with the same options shows what fits"
        yield Finding("device memory", status, f"on each core {verdict(memory)}", remedy)


def host_memory(s: DoctorContext) -> Iterator[Finding]:
    """On Neuron the host divides the weights among the cores, which can take twice their size (an estimate)."""
    found, free = s.checkpoint, s.machine.memory
    if not isinstance(found, CheckpointInfo):
        return
    needed = found.bytes if s.neuron else found.parameters * (4 if _in_float32(s) else 2)
    factor = 2 if s.neuron else 1
    if free is None:
        yield Finding("host memory", "warn", f"unknown; the weights take {_size(needed)}", "")
    elif free < needed:
        text = f"{_size(free)} free, less than the {_size(needed)} of the weights"
        yield Finding("host memory", "fail", text, "end other programs, or take a larger machine or a smaller model")
    elif free < factor * needed:
        text = f"{_size(free)} free, for weights of {_size(needed)}"
        yield Finding("host memory", "warn", text, "cutting them for the cores may take them twice; end other programs")
    else:
        yield Finding("host memory", "ok", f"{_size(free)} free, for weights of {_size(needed)}")


def _in_float32(s: DoctorContext) -> bool:
    """The decision of engine.torch.runner.choose_dtype, without importing torch."""
    on_cpu = not s.machine.gpu or s.settings.device == "cpu"
    return s.settings.dtype == "float32" or (s.settings.dtype == "auto" and on_cpu)


# --- compiled models ----------------------------------------------------------------------------------------------------


def disk(s: DoctorContext) -> Iterator[Finding]:
    if not s.neuron:
        yield from _disk_space(s, "disk", s.settings.data_dir, _LAPTOP_DISK, "for conversations", scarce="warn")
        return
    wanted = s.compilation
    if wanted and artifacts_state(wanted)[0] != "ok":
        yield from _disk_space(s, "disk", wanted.location.folder, wanted.bytes, "for what is compiled", scarce="fail")


def _disk_space(s: DoctorContext, check: str, folder: Path, needed: int, purpose: str, *, scarce: Status) -> Iterator[Finding]:
    existing = nearest_existing(folder)
    free = s.machine.disk_free(existing)
    if not os.access(existing, os.W_OK):
        yield Finding(check, "fail", f"{existing} cannot be written to", f"it is needed {purpose}; name another folder")
    elif free < needed:
        text = f"{_size(free)} free in {existing}, and about {_size(needed)} are wanted {purpose}"
        yield Finding(check, scarce, text, "make room, or name a folder on another disk")
    else:
        yield Finding(check, "ok", f"{_size(free)} free in {existing}, {purpose}")


def artifacts(s: DoctorContext) -> Iterator[Finding]:
    if s.neuron and s.compilation:
        yield Finding("artifacts", *artifacts_state(s.compilation))


def artifacts_state(wanted: Compilation) -> Verdict:
    """Whether the model is compiled. Something else in its folder is a failure, because `serve` fails too."""
    folder = wanted.location.folder
    try:
        if wanted.exists:
            return "ok", f"{folder} was compiled from exactly this", ""
    except ConfigError as error:
        return "fail", str(error), ""
    remedy = "`python -m mllama_demo compile` with the same options; `serve` does it as well"
    near = None if wanted.location.from_environment else compiled_artifacts.closest(wanted.root, wanted.inputs)
    if near:
        return (
            "warn",
            f"nothing is compiled from this; in {near[0]}, the closest, {compiled_artifacts.first_three(near[1])}",
            remedy,
        )
    return "warn", f"nothing is compiled in {folder if wanted.location.from_environment else wanted.root}", remedy


# --- environment variables -----------------------------------------------------------------------------------------------


def environment(s: DoctorContext) -> Iterator[Finding]:
    """One finding for each relevant variable that is set, or one finding when none is."""
    if not s.neuron:
        return
    found = [
        Finding(name, *verdict)
        for name, check in _VARIABLES.items()
        if (value := s.machine.environ.get(name, "").strip()) and (verdict := check(s, value))
    ]
    none = Finding("environment", "ok", "no variable is set that changes how the model is compiled or run")
    yield from found or [none]


def _core_count(s: DoctorContext, value: str) -> Verdict:
    if not value.isdigit():
        return "fail", f"{value!r} is no number of NeuronCores", "unset it"
    return _cores(s, value, int(value))


def _core_range(s: DoctorContext, value: str) -> Verdict:
    """A list as the Neuron runtime reads it: "0-15", "3" or "0,1,4-7"."""
    cores: set[int] = set()
    for part in value.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            return "fail", f"{value!r} is no list of NeuronCores", "unset it, or write it like 0-31"
        first = int(match[1])
        cores.update(range(first, int(match[2] or first) + 1))
    return _cores(s, value, len(cores))


def _cores(s: DoctorContext, value: str, count: int) -> Verdict:
    wanted = s.settings.tensor_parallel_size
    if count < wanted:
        return "fail", f"{value} leaves {count} NeuronCores, but tensor_parallel_size is {wanted}", "unset it"
    return "ok", value, ""


def _page_size(s: DoctorContext, value: str) -> Verdict:
    if value != str(SCRATCHPAD_PAGE_MIB):
        text = f"{value}, but this model is compiled for pages of {SCRATCHPAD_PAGE_MIB} MiB"
        return "fail", text, "unset it, and the demo sets the one that fits"
    return "ok", value, ""


def _artifacts_variable(s: DoctorContext, value: str) -> Verdict:
    if s.settings.compiled_artifacts and s.settings.compiled_artifacts != Path(value):
        return "warn", f"{value} is used, and compiled_artifacts ({s.settings.compiled_artifacts}) is not", "unset one of them"
    return "ok", f"{value}; vLLM reads it as well", ""


def _rpc_timeout(s: DoctorContext, value: str) -> Verdict:
    """Milliseconds. AWS's tutorial uses 180000 because the default of 10000 is too short."""
    if not value.isdigit() or int(value) < 180_000:
        return (
            "warn",
            f"{value}; only vLLM's server reads it, and requests to it may fail with less than 180000",
            "export it as 180000",
        )
    return "ok", f"{value}; only vLLM's server reads it", ""


def _work_dir(s: DoctorContext, value: str) -> Verdict:
    """NxDI empties this folder at each compilation."""
    return "ok", f"{value}; not used here, as `compile` works beside the artifact", ""


def _compiler_flags(s: DoctorContext, value: str) -> Verdict:
    return "warn", f"{value!r} is given to the compiler besides what NxDI gives it", "unset it unless you know that it is needed"


_VARIABLES: dict[str, Callable[[DoctorContext, str], Verdict]] = {
    "NEURON_RT_NUM_CORES": _core_count,
    "NEURON_RT_VISIBLE_CORES": _core_range,
    "NEURON_SCRATCHPAD_PAGE_SIZE": _page_size,
    "NEURON_COMPILED_ARTIFACTS": _artifacts_variable,
    "BASE_COMPILE_WORK_DIR": _work_dir,
    "NEURON_CC_FLAGS": _compiler_flags,
    "VLLM_RPC_TIMEOUT": _rpc_timeout,
}

CHECKS: tuple[Callable[[DoctorContext], Iterator[Finding]], ...] = (
    *(instance, devices, driver, packages, checkpoint, device_memory, host_memory, disk, artifacts, environment),
)


# --- formatting ---------------------------------------------------------------------------------------------------------------


def _size(count: int) -> str:
    return f"{count / GB:,.1f} GB" if count >= GB else f"{count / 10**6:,.0f} MB"


def _count(parameters: int) -> str:
    return f"{parameters / 10**9:.1f} billion" if parameters >= 10**9 else f"{parameters / 10**6:.1f} million"
