"""The doctor's checks. Each is a function from a `DoctorContext` to `Finding`s; CHECKS has their order.

A check changes nothing, imports no PyTorch, and uses no network but for a remote server and a folder in S3 that the configuration
names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mllama_demo.chat.prompt import END_OF_TURN
from mllama_demo.checkpoint import neuron_sdks
from mllama_demo.checkpoint.doctor_artifacts import artifacts
from mllama_demo.checkpoint.doctor_loading import device_memory, disk, disk_speed, host_memory
from mllama_demo.checkpoint.doctor_remote import ray_cluster, remote_server, vllm_fork
from mllama_demo.checkpoint.findings import DoctorContext, Finding, Verdict, decimal_size
from mllama_demo.checkpoint.machine import same_chips, version_key
from mllama_demo.checkpoint.neuron_sdks import NXDI, Sdk
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.neuron import CORES, SCRATCHPAD_PAGE_MIB, chip, family_of
from mllama_demo.errors import CheckpointError
from mllama_demo.runtime.words import counted, parameter_count

_CORES: dict[str, int] = {**CORES}
_WITHOUT_NEURON = "or leave --config out to run the small model of this demo with PyTorch"


# --- the machine ---------------------------------------------------------------------------------------------------------


def instance(context: DoctorContext) -> Iterator[Finding]:
    found, wanted = context.machine.instance_type, context.settings.instance_type
    if not context.on_neuron:
        yield Finding("instance", "ok", found or f"no EC2 instance ({context.machine.product or 'name unknown'})")
    elif found is None:
        text = f"no EC2 instance by its name ({context.machine.product or 'unknown'}); the configuration is for {wanted}"
        yield Finding("instance", "warn", text)
    elif found == wanted:
        yield Finding("instance", "ok", f"{found}, as configured")
    elif not same_chips(found, wanted):
        text = f"{found}, which has other chips than the {wanted} of the configuration"
        yield Finding("instance", "fail", text, f"start a {wanted}, or take a configuration for this instance")
    elif _CORES.get(found, 0) < context.settings.tensor_parallel_size:
        text = (
            f"{found} has {_CORES.get(found, 0)} NeuronCores, and tensor_parallel_size is {context.settings.tensor_parallel_size}"
        )
        yield Finding("instance", "fail", text, f"start a {wanted}, or take a configuration for this instance")
    else:
        text = f"{found}, but the configuration is for {wanted}"
        yield Finding("instance", "warn", text, f"its NeuronCores are enough; set instance_type to {found}")


def devices(context: DoctorContext) -> Iterator[Finding]:
    count, cores = context.machine.neuron_devices, context.settings.tensor_parallel_size
    if not context.on_neuron:
        runs = f"the model runs {context.elsewhere or 'with PyTorch on ' + ('a GPU' if context.on_gpu else 'the CPU')}"
        if context.has_neuron:
            remedy = "name one of the configurations in configs/ to use Neuron, such as --config configs/trn1-90b.yaml"
            yield Finding("neuron devices", "warn", f"{count}, but not used by this configuration: {runs}", remedy)
        else:
            yield Finding("neuron devices", "ok", f"Neuron is absent here, and not needed: {runs}")
        return
    here = context.machine.instance_type if context.machine.instance_type in _CORES else context.settings.instance_type
    of_device = chip(here).cores
    expected = _CORES[here] // of_device
    if count == 0:
        remedy = (
            "see the driver"
            if context.has_neuron
            else f"start on an instance {context.settings.instance_type}, {_WITHOUT_NEURON}"
        )
        yield Finding("neuron devices", "fail", "Neuron is absent here: there is no /dev/neuron0", remedy)
    elif count * of_device < cores:
        text = f"{count}, with {count * of_device} NeuronCores, but tensor_parallel_size is {cores}"
        yield Finding("neuron devices", "fail", text, "pass every /dev/neuron* into the container, or look into dmesg")
    elif count < expected:
        text = f"{count} of {expected}, which is enough for {cores} NeuronCores"
        yield Finding("neuron devices", "warn", text, "look into dmesg if this is no container that was given a part of them")
    else:
        yield Finding("neuron devices", "ok", f"{count}; {cores} of {count * of_device} NeuronCores are used")


def cores_in_use(context: DoctorContext) -> Iterator[Finding]:
    """Processes that have Neuron devices open. Only the superuser sees those of other users."""
    if not context.on_neuron:
        return
    for process in context.machine.neuron_processes():
        text = f"process {process.id} ({process.name}) has {counted(len(process.devices), 'Neuron device')} open"
        yield Finding(f"process {process.id}", "fail", text, "a start would fail while it runs; end it, or wait for its end")


def driver(context: DoctorContext) -> Iterator[Finding]:
    if not context.has_neuron:
        return
    version, on_disk, sdk = context.machine.driver, context.machine.driver_on_disk, context.sdk
    threshold, first_fit = neuron_sdks.DRIVER_THAT_NEEDS_NEWER_RUNTIME
    if version is None:
        if on_disk:
            yield Finding("driver", "fail", f"{on_disk} is installed but not loaded", "sudo modprobe neuron")
        elif context.machine.neuron_devices:  # a container may not show the host's driver
            yield Finding("driver", "warn", "its version cannot be seen (/sys/module/neuron)", "see `modinfo neuron` on the host")
        else:
            yield Finding("driver", "fail", "there is none", "install aws-neuronx-dkms, or start from a Neuron AMI")
    elif sdk and version_key(version) < version_key(sdk.driver):
        text = f"{version}, older than {sdk.driver} of SDK {sdk.name}"
        yield Finding("driver", "warn", text, "update aws-neuronx-dkms and restart the machine")
    elif sdk and version_key(version) >= threshold and sdk.key < first_fit:
        text = f"{version}, which needs the Neuron runtime 2.33 or later; SDK {sdk.name} came with an older one"
        yield Finding("driver", "warn", text, f"if the runtime does not start, install driver {sdk.driver}")
    else:
        yield Finding("driver", "ok", f"{version}, loaded")


# --- the software --------------------------------------------------------------------------------------------------------


def packages(context: DoctorContext) -> Iterator[Finding]:
    versions = context.machine.versions
    if not context.on_neuron:
        needed = {"openai": ("openai", "gradio"), "ray": ("ray", "gradio")}.get(
            context.settings.backend, ("torch", "transformers", "gradio")
        )
        missing = [name for name in needed if name not in versions]
        if missing:
            text = f"{' and '.join(missing)} not installed in this environment"
            remedy = (
                "pip install 'ray[serve]'"
                if missing == ["ray"]
                else "pip install -r requirements.txt, or `make run`, which does it"
            )
            yield Finding("packages", "fail", text, remedy)
        else:
            yield Finding("packages", "ok", ", ".join(f"{name} {versions[name]}" for name in needed[:-1]))
        return
    if "gradio" not in versions:
        yield Finding("packages", "fail", "gradio is not installed in this environment", "pip install -r requirements-neuron.txt")
    if NXDI not in versions:
        remedy = (
            "activate the PyTorch inference environment of the Neuron SDK, such as source /opt/aws_neuronx_venv_…/bin/activate"
        )
        yield Finding("neuron sdk", "fail", f"{NXDI} is not installed in this environment", remedy)
        return
    if context.sdk is None:
        text = f"{NXDI} {versions[NXDI]} is of no release that this demo knows"
        yield Finding("neuron sdk", "warn", text, f"it knows {_known()}; others may work")
        return
    found = list(_sdk(context, context.sdk))
    note = f"; {context.sdk.release.note}" if context.sdk.release.note else ""
    yield from found or [Finding("neuron sdk", "ok", f"{context.sdk.name}, a set that AWS released together{note}")]


def _sdk(context: DoctorContext, sdk: Sdk) -> Iterator[Finding]:
    """The problems of a known release of the SDK."""
    family = family_of(context.settings.instance_type)
    if refusal := neuron_sdks.refusal(sdk.nxdi, family):
        yield Finding("neuron sdk", "fail", *refusal)
        return
    oldest, newest = neuron_sdks.first_usable(family).sdk, neuron_sdks.last_on(family).sdk
    if differences := sdk.differences(context.machine.versions):
        text = f"like {sdk.name}, but {'; '.join(differences)}"
        yield Finding("neuron sdk", "warn", text, "install the packages as one set; mixed ones may fail while compiling")
    if family not in sdk.release.instances:
        text = f"{sdk.name}, whose NxD Inference AWS supports on {' and '.join(sdk.release.instances)} only"
        yield Finding("neuron sdk", "warn", text, f"on {family} use SDK {oldest} to {newest}")


def _known() -> str:
    return f"{neuron_sdks.SDKS[0].name} to {neuron_sdks.SDKS[-1].name}"


# --- the model -----------------------------------------------------------------------------------------------------------


def checkpoint(context: DoctorContext) -> Iterator[Finding]:
    if context.elsewhere:
        return
    found = context.checkpoint
    if isinstance(found, CheckpointInfo) and found.identity is not None:
        there = (found.path / "config.json").exists()
        text = f"{found.name}: {parameter_count(found.parameters)}, whose weights are not here; a compiled model has them"
        yield Finding("checkpoint", "ok", text if there else f"{text}; a start fetches the small files")
        return
    if isinstance(found, CheckpointInfo):
        size = f"{counted(len(found.weight_files), 'file')}, {decimal_size(found.bytes)}"
        text = f"{found.name}: {parameter_count(found.parameters)} in {size}, every tensor in its place"
        yield Finding("checkpoint", "ok", text)
        return
    unfinished = context.settings.model_path.with_name(context.settings.model_path.name + ".converting")
    remedy = f"a conversion was interrupted ({unfinished}); give the same convert command again" if unfinished.exists() else ""
    yield Finding("checkpoint", "fail", found, remedy)


def end_of_turn(context: DoctorContext) -> Iterator[Finding]:
    """Warns of a checkpoint that does not name the end of a turn. The demo ends answers there all the same."""
    if (
        context.elsewhere
        or not isinstance(context.checkpoint, CheckpointInfo)
        or not (context.checkpoint.path / "tokenizer.json").exists()
    ):
        return
    try:
        from mllama_demo.chat.tokenizer import Tokenizer  # needs the package tokenizers

        end = Tokenizer(context.checkpoint.path).special_id(END_OF_TURN)
    except CheckpointError as error:
        yield Finding("tokenizer", "fail", str(error))
        return
    except ImportError:  # torch and transformers are missing too, which the check of packages says
        return
    if end not in context.checkpoint.eos_token_ids:
        text = (
            f"eos_token_id in generation_config.json or config.json lacks {end}, {END_OF_TURN}, which ends every answer of a chat"
        )
        remedy = "this demo ends answers there all the same; add it for other programs, whose answers would run on"
        yield Finding("end of turn", "warn", text, remedy)


# --- environment variables -----------------------------------------------------------------------------------------------


def environment(context: DoctorContext) -> Iterator[Finding]:
    """One finding for each relevant variable that is set, or one finding when none is."""
    if not context.on_neuron:
        return
    found = [
        Finding(name, *verdict)
        for name, check in _VARIABLES.items()
        if (value := context.machine.environ.get(name, "").strip()) and (verdict := check(context, value))
    ]
    none = Finding("environment", "ok", "no variable is set that changes how the model is compiled or run")
    yield from found or [none]


def _core_count(context: DoctorContext, value: str) -> Verdict:
    if not value.isdigit():
        return "fail", f"{value!r} is no number of NeuronCores", "unset it"
    return _cores(context, value, int(value))


def _core_range(context: DoctorContext, value: str) -> Verdict:
    """A list as the Neuron runtime reads it: "0-15", "3" or "0,1,4-7"."""
    cores: set[int] = set()
    for part in value.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            return "fail", f"{value!r} is no list of NeuronCores", "unset it, or write it like 0-31"
        first = int(match[1])
        cores.update(range(first, int(match[2] or first) + 1))
    return _cores(context, value, len(cores))


def _cores(context: DoctorContext, value: str, count: int) -> Verdict:
    wanted = context.settings.tensor_parallel_size
    if count < wanted:
        return "fail", f"{value} leaves {count} NeuronCores, but tensor_parallel_size is {wanted}", "unset it"
    return "ok", value, ""


def _page_size(context: DoctorContext, value: str) -> Verdict:
    if value != str(SCRATCHPAD_PAGE_MIB):
        text = f"{value}, but this model is compiled for pages of {SCRATCHPAD_PAGE_MIB} MiB"
        return "fail", text, "unset it, and the demo sets the one that fits"
    return "ok", value, ""


def _artifacts_variable(context: DoctorContext, value: str) -> Verdict:
    if context.settings.compiled_artifacts and str(context.settings.compiled_artifacts) != value:
        return (
            "warn",
            f"{value} is used, and compiled_artifacts ({context.settings.compiled_artifacts}) is not",
            "unset one of them",
        )
    return "ok", f"{value}; vLLM reads it as well", ""


def _rpc_timeout(context: DoctorContext, value: str) -> Verdict:
    """Milliseconds. AWS's tutorial uses 180000 because the default of 10000 is too short."""
    if not value.isdigit() or int(value) < 180_000:
        return (
            "warn",
            f"{value}; only vLLM's server reads it, and requests to it may fail with less than 180000",
            "export it as 180000",
        )
    return "ok", f"{value}; only vLLM's server reads it", ""


def _work_dir(context: DoctorContext, value: str) -> Verdict:
    """NxDI empties this folder at each compilation."""
    return "ok", f"{value}; not used here, as `compile` works beside the artifact", ""


def _logical_cores(context: DoctorContext, value: str) -> Verdict:
    """NxDI takes this variable before its configuration."""
    wanted = str(context.settings.neuron.chip.physical)
    if value != wanted:
        text = f"{value}, but this configuration counts NeuronCores of {wanted} physical ones each"
        return "fail", text, "unset it"
    return "ok", value, ""


def _compiler_flags(context: DoctorContext, value: str) -> Verdict:
    return "warn", f"{value!r} is given to the compiler besides what NxDI gives it", "unset it unless you know that it is needed"


_VARIABLES: dict[str, Callable[[DoctorContext, str], Verdict]] = {
    "NEURON_RT_NUM_CORES": _core_count,
    "NEURON_RT_VISIBLE_CORES": _core_range,
    "NEURON_SCRATCHPAD_PAGE_SIZE": _page_size,
    "NEURON_COMPILED_ARTIFACTS": _artifacts_variable,
    "BASE_COMPILE_WORK_DIR": _work_dir,
    "NEURON_CC_FLAGS": _compiler_flags,
    "NEURON_LOGICAL_NC_CONFIG": _logical_cores,
    "VLLM_RPC_TIMEOUT": _rpc_timeout,
}

CHECKS: tuple[Callable[[DoctorContext], Iterator[Finding]], ...] = (
    *(instance, devices, cores_in_use, driver, packages, vllm_fork, remote_server, ray_cluster, checkpoint, end_of_turn),
    *(device_memory, host_memory, disk, disk_speed, artifacts, environment),
)
