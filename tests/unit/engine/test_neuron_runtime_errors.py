"""Errors of the Neuron runtime and its compiler become sentences that say what to do.

The texts are those of AWS's page "Neuron Runtime Troubleshooting on Inf1, Inf2 and Trn1" and of issues of vllm-project/vllm
(12443), aws-neuron/aws-neuron-samples (96), aws-neuron/aws-neuron-sdk (431, 806, 1189) and huggingface/optimum-neuron (668).
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mllama_demo.engine.neuron import runner
from mllama_demo.engine.neuron.runtime_errors import STATUSES, advice, compiler_was_killed, runtime_status, with_advice
from mllama_demo.engine.runner import RunnerDown

INFODUMP = "2025-Jun-28 22:19:15.506590  8652:8728  ERROR   NRT:nrt_infodump                            Failure: {} in nrt_load()"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('RuntimeError: nrt_load_collectives status=4 message="Allocation Failure"', "NRT_RESOURCE"),
        ('nrt_tensor_allocate status=4 message="Allocation Failure"', "NRT_RESOURCE"),
        ("RuntimeError: Could not load the model status=4 message=Allocation Failure", "NRT_RESOURCE"),
        (INFODUMP.format("NRT_RESOURCE"), "NRT_RESOURCE"),
        (INFODUMP.format("NRT_INVALID"), "NRT_INVALID"),
        ("ERROR  NMGR:dlr_infer   Inference completed with err: 1006. mode->h_nn=1001, start_nc=0", "NRT_EXEC_OOB"),
        ("ERROR  NMGR:kmgr_load_nn_post_metrics   Failed to load NN: xxxxxxx, err: 2", "NRT_INVALID"),
        ("Failure: NRT_EXEC_SW_NQ_OVERFLOW in nrt_execute()", "NRT_EXEC_SW_NQ_OVERFLOW"),
        ("the runtime exits with NRT_TIMEOUT (5) or NRT_EXEC_HW_ERR_HBM_UE (1201)", "NRT_EXEC_HW_ERR_HBM_UE"),
        ("nrt_execute status=1 after NRT_EXEC_UNIT_UNRECOVERABLE", "NRT_EXEC_UNIT_UNRECOVERABLE"),
        ("NRT_SUCCESS, NRT_LOG_LEVEL and nrt_infodump status 4", None),
        ("The size of tensor a (4) must match the size of tensor b (5), status=4", None),
        ("", None),
    ],
)
def test_the_code_that_a_text_names(text: str, name: str | None) -> None:
    status = runtime_status(text)
    assert (None if status is None else status.name) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('nrt_tensor_allocate status=4 message="Allocation Failure"', "python -m mllama_demo plan"),
        ("NRT:nrt_allocate_neuron_cores NeuronCore(s) not available - Requested:nc1-nc1 Available:0", "neuron-ls"),
        (
            "kernel: neuron:mc_alloc: device mempool [0:0] total 1073741568 occupied 960539030 needed 1272 available 768",
            "batch_size",
        ),
        ("NEURON_HW_ERR=SRAM_UNCORRECTABLE_ERROR instance-id=i-0592 nd-id=0 action=TERMINATE_INSTANCE", "stop the instance"),
        ("(FATAL-RT-UNDEFINED-STATE) [ND 0][NC 0] Uncorrectable memory error is detected, metadata: 0x16.", "stop the instance"),
        ("NEFF version mismatch supported: 1.1 received: 2.0", "compile the model again"),
        ("Failed to initialize devices, error:5", "reload the driver"),
        ("Could not open the nd1", "tensor_parallel_size"),
        ("NCCL init error: Error opening libnccom.so, cannot use collective operations!", "aws-neuronx-collectives"),
        ("Failure: NRT_EXEC_HW_ERR_REPAIRABLE_HBM_UE in nrt_execute()", "reboot the instance"),
    ],
)
def test_the_advice_on_a_text(text: str, words: str) -> None:
    found = advice(text)
    assert found is not None
    assert words in found
    assert found.endswith(".")
    assert with_advice(text).startswith(text.rstrip("."))
    assert with_advice(text).endswith(found)


def test_a_text_of_another_kind_stays_as_it_is() -> None:
    assert advice("the device said no") is None
    assert with_advice("the device said no.") == "the device said no."


STOPPED = "Failed to stop neuron core"  # a warning of a start that went well
OTHER = ["step 1", "step 2"] * 20


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([STOPPED, *OTHER, "Failure: NRT_EXEC_HW_ERR_HBM_UE in nrt_execute()"], "NRT_EXEC_HW_ERR_HBM_UE"),
        (["Failure: NRT_EXEC_HW_ERR_HBM_UE in nrt_execute()", *OTHER, STOPPED], "left the devices running"),
        (["NRT_TIMEOUT (5)", *OTHER, "NRT_RESOURCE (4)"], "NRT_RESOURCE"),
        ([f"{STOPPED}: NRT_RESOURCE"], "NRT_RESOURCE"),
        ([f"{STOPPED}: NRT_FAILURE"], "left the devices running"),
        (["Could not open the nd1", "runtime information", "Failure: NRT_UNINITIALIZED in nrt_init()"], "tensor_parallel_size"),
        (["NRT_RESOURCE (4)", "Failure: NRT_FAILURE in nrt_load()"], "NRT_RESOURCE"),
        ([STOPPED, *OTHER, "Failure: NRT_FAILURE in nrt_load()"], "NRT_FAILURE"),
    ],
)
def test_of_several_errors_the_last_one_is_explained(lines: list[str], words: str) -> None:
    found = advice("\n".join(lines))
    assert found is not None
    assert words in found


def test_every_code_has_an_advice_that_names_it() -> None:
    assert len({status.code for status in STATUSES}) == len({status.name for status in STATUSES}) == len(STATUSES)
    for status in STATUSES:
        found = advice(f"Failure: {status.name} in nrt_execute()")
        assert found is not None
        assert f"{status.name} ({status.code})" in found
        assert found.count(".") >= 1
        assert ".." not in found


@pytest.mark.parametrize(
    "log",
    [
        "[F137] neuronx-cc was forcibly killed - This most commonly occurs due to insufficient system memory.",
        "INFO:Neuron:Compile command returned: -9",
        "<class 'subprocess.CalledProcessError'>: Command '' died with <Signals.SIGKILL: 9>.",
        "subprocess.CalledProcessError: Command 'neuronx-cc' returned non-zero exit status 137.",
        "RuntimeError: neuronx-cc failed with -9",
    ],
)
def test_a_compiler_that_was_killed(log: str) -> None:
    assert compiler_was_killed(f"Compiler status PASS\n{log}\nTraceback")


@pytest.mark.parametrize(
    "log", ["RuntimeError: neuronx-cc failed with 70", "died with <Signals.SIGHUP: 1>.", "exit status 1374", ""]
)
def test_a_compiler_that_failed_by_itself(log: str) -> None:
    assert not compiler_was_killed(log)


# --- the runner ----------------------------------------------------------------------------------------------------------


def failing(error: Exception) -> runner.NeuronRunner:
    def forward(**inputs: object) -> None:
        raise error

    made = object.__new__(runner.NeuronRunner)
    made._model = SimpleNamespace(forward=forward)
    return made


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (RuntimeError("nrt_execute status=1202"), RunnerDown, "the memory inside a NeuronCore is damaged"),
        (RuntimeError("nrt_execute status=101"), RunnerDown, "must be started again"),
        (RuntimeError("nrt_execute status=1006"), RuntimeError, "outside of a tensor"),
        (RuntimeError("shapes differ"), RuntimeError, "shapes differ"),
        (ValueError("Input shape [1, 3] not found: NRT_TIMEOUT"), ValueError, "NRT_TIMEOUT"),
    ],
)
def test_an_error_of_a_step_says_what_to_do_and_whether_the_process_can_go_on(error, raised, words) -> None:
    with pytest.raises(raised) as caught:
        failing(error)._forward()
    assert type(caught.value) is raised
    assert words in str(caught.value)
    assert str(error) in str(caught.value)


def test_an_error_while_the_model_is_loaded_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    def load(path: str) -> None:
        raise RuntimeError('nrt_load_collectives status=4 message="Allocation Failure"')

    model = SimpleNamespace(load=load)
    monkeypatch.setattr(runner, "mllama_module", lambda: SimpleNamespace(NeuronMllamaForCausalLM=lambda path: model))
    monkeypatch.setenv("NEURON_SCRATCHPAD_PAGE_SIZE", "1024")
    with pytest.raises(RunnerDown, match=r"Allocation Failure\".*take fewer slots"):
        runner.NeuronRunner.load(tmp_path, 900)
