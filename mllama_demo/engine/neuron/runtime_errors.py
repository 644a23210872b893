"""What an error of the Neuron runtime or of the Neuron compiler means, and what to do about it, found in its text.

The codes are those of NRT_STATUS in nrt_status.h, and the advice is that of AWS's page "Neuron Runtime Troubleshooting on Inf1,
Inf2 and Trn1" (both in github.com/aws-neuron/aws-neuron-sdk, as of August 2026). An error reaches this program as the text of an
exception, as a line of the runtime on standard error, or as a line in the log of a compilation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

REPLACE_HARDWARE = "stop the instance and start it again, which moves it to other hardware, or replace it"
_RELOAD = "reload the driver (sudo rmmod neuron; sudo modprobe neuron) or reboot the instance"
_HELD = "`neuron-ls` shows which process holds them; end it, or wait until it has ended"
_MEMORY = (
    "`python -m mllama_demo plan` with the same options shows what fits; take fewer slots (batch_size), a shorter seq_len or "
    "fewer buckets, and end other programs on the NeuronCores (`neuron-ls` shows them)"
)
_AGAIN = (
    "compile the model again with the SDK that is installed, and keep to one release (`python -m mllama_demo doctor` compares)"
)


@dataclass(frozen=True)
class Status:
    """One code of NRT_STATUS.

    Attributes:
        ends_process: Whether a process that has met the error must be started again before it can compute.
    """

    code: int
    name: str
    meaning: str
    advice: str
    ends_process: bool = False


# In the order of preference, where one text names several: the cause of a failure before its consequences.
STATUSES = (
    Status(
        1201, "NRT_EXEC_HW_ERR_HBM_UE", "the memory of a device is damaged, and its results may be wrong", REPLACE_HARDWARE, True
    ),
    Status(
        1202,
        "NRT_EXEC_HW_ERR_NC_UE",
        "the memory inside a NeuronCore is damaged, and its results are wrong",
        REPLACE_HARDWARE,
        True,
    ),
    Status(1203, "NRT_EXEC_HW_ERR_DMA_ABORT", "a DMA engine of a device has failed", REPLACE_HARDWARE, True),
    Status(1205, "NRT_EXEC_HW_ERR_REPAIRABLE_HBM_UE", "the memory of a device had an error that can be repaired", _RELOAD, True),
    Status(
        1200,
        "NRT_EXEC_HW_ERR_COLLECTIVES",
        "the NeuronCores wait for each other in vain",
        f"look for a hardware error before this one in the log and in `dmesg`; with one, {REPLACE_HARDWARE}",
        True,
    ),
    Status(6, "NRT_HW_ERROR", "a device has failed", f"`dmesg` says which (NEURON_HW_ERR); {REPLACE_HARDWARE}", True),
    Status(
        101,
        "NRT_EXEC_UNIT_UNRECOVERABLE",
        "a NeuronCore has met an error that it cannot leave by itself",
        f"the process of the model must be started again; if that does not help, {_RELOAD}",
        True,
    ),
    Status(4, "NRT_RESOURCE", "the device or the host has no memory left for this", _MEMORY, True),
    Status(
        11,
        "NRT_FAIL_HOST_MEM_ALLOC",
        "the host has no memory left for this",
        "end other programs on the machine; `python -m mllama_demo doctor` says how much memory is free",
        True,
    ),
    Status(9, "NRT_LOAD_NOT_ENOUGH_NC", "there are not enough free NeuronCores", _HELD, True),
    Status(1005, "NRT_EXEC_NC_BUSY", "another process uses the NeuronCores", _HELD, True),
    Status(10, "NRT_UNSUPPORTED_NEFF_VERSION", "the model was compiled for another version of the runtime", _AGAIN),
    Status(
        1204,
        "NRT_EXEC_SW_NQ_OVERFLOW",
        "a queue of notifications has overflowed",
        "set the environment variable NEURON_RT_ENABLE_DGE_NOTIFICATIONS=0 and start again",
        True,
    ),
    Status(1206, "NRT_NETWORK_PROXY_FAILURE", "the network between instances has failed", "check EFA, or use one instance", True),
    Status(
        1003,
        "NRT_EXEC_COMPLETED_WITH_NUM_ERR",
        "the model computed values that are no numbers",
        "check the checkpoint with `python -m mllama_demo doctor`, and compile the model again",
    ),
    Status(
        1004,
        "NRT_EXEC_COMPLETED_WITH_ERR",
        "a step ended with an error of the logic or of the hardware",
        f"look for NEURON_HW_ERR in `dmesg`; with one, {REPLACE_HARDWARE}",
        True,
    ),
    Status(1002, "NRT_EXEC_BAD_INPUT", "the compiled model does not take this input", _AGAIN),
    Status(1006, "NRT_EXEC_OOB", "a step read or wrote outside of a tensor", _AGAIN),
    Status(2, "NRT_INVALID", "the compiled model, or an input of it, is not valid for this runtime", _AGAIN),
    Status(
        5,
        "NRT_TIMEOUT",
        "a step did not end in time, as a device that hangs does",
        f"look for NEURON_HW_ERR in `dmesg`; if it comes again, {REPLACE_HARDWARE}",
        True,
    ),
    Status(7, "NRT_QUEUE_FULL", "the queue of the device is full", "start the model again", True),
    Status(
        13,
        "NRT_UNINITIALIZED",
        "the runtime could not be started",
        f"the lines before this one in the log say why; if a device does not answer, {_RELOAD}",
        True,
    ),
    Status(14, "NRT_CLOSED", "the runtime has been closed", "start the model again", True),
    Status(
        1,
        "NRT_FAILURE",
        "the runtime failed for a reason without a code of its own",
        "the lines before this one in the log, and `dmesg`, say more",
    ),
)
_BY_NAME = {status.name: status for status in STATUSES}
_BY_CODE = {status.code: status for status in STATUSES}
# Codes that only say that something has failed. The runtime writes the reason into a line before.
_UNSPECIFIC = (_BY_NAME["NRT_FAILURE"], _BY_NAME["NRT_UNINITIALIZED"])
_LINES_BEFORE = 20
_NAME = re.compile(r"\bNRT_[A-Z_]+\b")
# 'nrt_load_collectives status=4 message="Allocation Failure"', 'Could not load the model status=4 message=…', 'Inference
# completed with err: 1006', 'Failed to load NN: model, err: 2'
_CODE = re.compile(
    r"(?:\bnrt_\w+ |load the model )status=(\d+)\b|Inference completed with err: (\d+)\b|"
    r"Failed to load NN: [^\n]{0,300}?err: (\d+)\b"
)
# Messages without a code.
_MESSAGES = (
    (re.compile(r"NeuronCore\(s\) not available"), f"The NeuronCores are in use; {_HELD}."),
    (
        re.compile(r"NEURON_HW_ERR=\w+|Uncorrectable (?:HBM )?memory error"),
        f"A device has a hardware error; {REPLACE_HARDWARE}.",
    ),
    (re.compile(r"device mempool [^\n]{0,200}needed \d+ available \d+"), f"The memory of a device is used up; {_MEMORY}."),
    (
        re.compile(r"Could not open the nd\d+|Could not find VNC id"),
        "The model needs more NeuronCores than this machine has, or than this process may use; set instance_type and "
        "tensor_parallel_size for this machine, and look at NEURON_RT_VISIBLE_CORES and NEURON_RT_NUM_CORES.",
    ),
    (re.compile(r"Failed to initialize devices|Failed to stop neuron core"), f"A program left the devices running; {_RELOAD}."),
    (re.compile(r"NEFF version mismatch"), f"The model was compiled for another version of the runtime; {_AGAIN}."),
    (
        re.compile(r"libnccom\.so[^\n]{0,300}(?:cannot open|cannot use collective)|cannot use collective operations"),
        "The package aws-neuronx-collectives is missing, which several NeuronCores need; install it in the version of the SDK.",
    ),
)
# What neuronx-cc, NxD and Python's subprocess say of a compiler that the system has killed.
_KILLED = re.compile(
    r"\[F137\]|neuronx-cc was forcibly killed|Compile command returned: -9\b|died with <Signals\.SIGKILL|"
    r"(?:returned non-zero exit status|[Ee]xit (?:code|status):?|[Rr]eturn ?code:?|failed with) (?:-9|137)\b"
)
COMPILER_KILLED = (
    "The system killed the compiler, as it does when the memory of the machine is used up. End other programs, compile on an "
    "instance of the type that the configuration names (a trn1.32xlarge has 512 GiB), or add swap; fewer or shorter buckets need "
    "less"
)


def runtime_status(text: str) -> Status | None:
    """The code of the runtime that a text names, None for none. Of several, the one that stands first in STATUSES."""
    found = {_BY_NAME[name] for name in _NAME.findall(text) if name in _BY_NAME}
    found |= {_BY_CODE[int(code)] for codes in _CODE.findall(text) for code in codes if code and int(code) in _BY_CODE}
    return min(found, key=STATUSES.index, default=None)


def advice(text: str) -> str | None:
    """One or two sentences on what an error of the runtime means and what to do, or None for a text that names none.

    Of several errors the last line counts, because earlier ones may have had no consequences. If that line has only a code that
    says to look at the lines before it, an error in one of the _LINES_BEFORE lines before it counts instead.
    """
    lines = text.splitlines()
    for number, line in reversed(list(enumerate(lines))):
        if (found := _advice_on_line(line)) is None:
            continue
        if runtime_status(line) in _UNSPECIFIC and not any(pattern.search(line) for pattern, _ in _MESSAGES):
            before = lines[max(0, number - _LINES_BEFORE) : number]
            return next((specific for other in reversed(before) if (specific := _advice_on_line(other)) is not None), found)
        return found
    return None


def _advice_on_line(line: str) -> str | None:
    """A specific code counts before a message without a code, and that before an unspecific code."""
    status = runtime_status(line)
    message = next((sentence for pattern, sentence in _MESSAGES if pattern.search(line)), None)
    if status is None or (message is not None and status in _UNSPECIFIC):
        return message
    return f"{status.name} ({status.code}) means that {status.meaning}; {status.advice}."


def with_advice(cause: str) -> str:
    """The cause of a failure, followed by the advice on it if there is any."""
    found = advice(cause)
    return cause if found is None else f"{cause.rstrip('.')}. {found}"


def compiler_was_killed(text: str) -> bool:
    """Whether the log of a compilation says that the system killed the compiler."""
    return _KILLED.search(text) is not None
