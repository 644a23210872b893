"""The doctor looks at machines made of files and says what is ready, what is not, and what to do about it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from mllama_demo.checkpoint import doctor
from mllama_demo.checkpoint.doctor import examine, report
from mllama_demo.checkpoint.findings import Finding
from mllama_demo.checkpoint.machine import this_machine
from mllama_demo.checkpoint.memory import GIB, core_memory
from mllama_demo.cli import app, main
from mllama_demo.config.loader import load_settings
from mllama_demo.config.model_shape import PUBLISHED
from mllama_demo.config.settings import Settings
from tests.support.described_machine import LAPTOP, TRN1, Described, by_name, compile_as
from tests.support.paths import ROOT

INF2 = Described(product="inf2.48xlarge", devices=12, memory_gb=380)


def statuses(found: dict[str, Finding]) -> set[str]:
    return {finding.status for finding in found.values()}


# --- whole machines ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("described", [TRN1, INF2], ids=["trn1.32xlarge", "inf2.48xlarge"])
def test_a_neuron_instance_with_sdk_and_checkpoint_is_ready(diagnose, checkpoint_90b, described):
    cores = 32 if described is TRN1 else 16
    neuron = {"instance_type": described.product, "tensor_parallel_size": cores}
    compile_as(Settings(backend="neuron", model_path=checkpoint_90b, **neuron))
    found = diagnose(described)
    assert statuses(found) == {"ok"}
    assert found["instance"].text == f"{described.product}, as configured"
    assert found["neuron sdk"].text.startswith("2.28.1, a set that AWS released together")
    assert report(list(found.values())).endswith("\n\nReady.")


@pytest.mark.slow
def test_the_devices_of_each_instance_have_the_cores_that_are_counted(diagnose):
    trn2 = Described(product="trn2.48xlarge", devices=16, memory_gb=2000)
    assert diagnose(trn2)["neuron devices"].text == "16; 32 of 64 NeuronCores are used"
    assert diagnose(replace(trn2, devices=7))["neuron devices"].status == "fail"
    assert diagnose(replace(trn2, environ={"NEURON_LOGICAL_NC_CONFIG": "2"}))["NEURON_LOGICAL_NC_CONFIG"].status == "ok"
    assert diagnose(TRN1)["neuron devices"].text == "16; 32 of 32 NeuronCores are used"
    assert diagnose(INF2)["neuron devices"].text == "12; 16 of 24 NeuronCores are used"


def test_a_laptop_says_that_neuron_is_absent_and_what_runs_instead(tmp_path):
    found = by_name(examine(LAPTOP.build(tmp_path / "machine"), Settings()))
    assert statuses(found) == {"ok"}
    assert found["neuron devices"].text == "Neuron is absent here, and not needed: the model runs with PyTorch on the CPU"
    assert found["instance"].text == "no EC2 instance (21AH00BMGE)"
    assert not {"driver", "neuron sdk", "artifacts", "device memory"} & found.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("device", "place"), [("auto", "a GPU"), ("cpu", "the CPU")])
def test_with_a_gpu_the_model_runs_there_unless_the_cpu_is_asked_for(diagnose, device, place):
    found = diagnose(replace(LAPTOP, gpu="nvidia0"), backend="torch", device=device)
    assert found["neuron devices"].text.endswith(f"with PyTorch on {place}")


def test_a_laptop_with_a_configuration_for_neuron_is_not_ready(diagnose):
    found = diagnose(LAPTOP)
    assert found["neuron devices"].status == "fail"
    assert "Neuron is absent here" in found["neuron devices"].text
    assert "leave --config out" in found["neuron devices"].remedy
    assert found["neuron sdk"].status == "fail"
    assert "driver" not in found  # one sentence about Neuron is enough


def test_a_neuron_instance_with_a_configuration_for_the_cpu_is_a_warning(diagnose, embedded):
    found = diagnose(TRN1, backend="torch", model_path=embedded)
    assert found["neuron devices"].status == "warn"
    assert "16, but not used by this configuration" in found["neuron devices"].text
    assert "--config configs/trn1-90b.yaml" in found["neuron devices"].remedy


def test_what_a_remedy_names_exists():
    assert (ROOT / "configs/trn1-90b.yaml").is_file()
    assert (ROOT / "docs/neuron.md").is_file()
    assert (ROOT / "requirements-neuron.txt").is_file()


def test_every_command_and_configuration_of_the_guide_exists():
    guide = (ROOT / "docs/neuron.md").read_text()
    commands = {"download", "convert", "plan", "doctor", "compile", "serve", "offline", "vllm-command", "verify"}
    assert set(re.findall(r"python -m mllama_demo ([\w-]+)", guide)) == commands
    assert commands <= {command.name for command in app.registered_commands}
    configurations = {f"configs/{file.name}" for file in (ROOT / "configs").glob("*.yaml")}
    named = set(re.findall(r"configs/[\w-]+\.yaml", guide))
    assert {name for name in configurations if re.search("/(trn|inf)", name)} <= named <= configurations
    everywhere = "\n".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert {name for name in configurations if name not in everywhere} == set(), "each configuration is in some guide"


def test_the_memory_in_the_guide_is_what_plan_computes():
    guide = (ROOT / "docs/neuron.md").read_text()
    for row in re.findall(r"^\| `(configs/(?:trn1|trn2|inf2)\S+)` \| .*\| ([\d.]+) \|$", guide, re.MULTILINE):
        options = load_settings(["--config", str(ROOT / row[0])], {}).neuron
        total = core_memory(PUBLISHED["11B" if "11b" in row[0] else "90B"], options).total
        assert row[1] == f"{total / GIB:.1f}", row


# --- environment variables -----------------------------------------------------------------------------------------------


def test_no_variable_needs_to_be_set(diagnose):
    found = diagnose(TRN1)
    assert found["environment"].status == "ok"
    assert diagnose(replace(TRN1, environ={"NEURON_RT_NUM_CORES": ""}))["environment"].status == "ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("NEURON_RT_NUM_CORES", "32", "ok"),
        ("NEURON_RT_NUM_CORES", "16", "fail"),
        ("NEURON_RT_NUM_CORES", "all", "fail"),
        ("NEURON_RT_VISIBLE_CORES", "0-31", "ok"),
        ("NEURON_RT_VISIBLE_CORES", "0-15,16-30,31", "ok"),
        ("NEURON_RT_VISIBLE_CORES", "0-30", "fail"),
        ("NEURON_RT_VISIBLE_CORES", "0-31,x", "fail"),
        ("NEURON_SCRATCHPAD_PAGE_SIZE", "1024", "ok"),
        ("NEURON_SCRATCHPAD_PAGE_SIZE", "512", "fail"),
        ("VLLM_RPC_TIMEOUT", "180000", "ok"),
        ("VLLM_RPC_TIMEOUT", "10000", "warn"),
        ("VLLM_RPC_TIMEOUT", "3 minutes", "warn"),
        ("NEURON_CC_FLAGS", "--optlevel=1", "warn"),
        ("NEURON_LOGICAL_NC_CONFIG", "1", "ok"),
        ("NEURON_LOGICAL_NC_CONFIG", "2", "fail"),
        ("BASE_COMPILE_WORK_DIR", "/scratch", "ok"),
        ("NEURON_COMPILED_ARTIFACTS", "/artifacts", "ok"),
    ],
)
def test_a_variable_that_is_set_gets_a_verdict(diagnose, name, value, status):
    found = diagnose(replace(TRN1, environ={name: value}))
    assert found[name].status == status
    assert bool(found[name].remedy) == (status != "ok")
    assert value in found[name].text
    assert "environment" not in found


def test_a_folder_named_by_the_variable_is_where_artifacts_are_looked_for(diagnose, tmp_path):
    named = Described(environ={"NEURON_COMPILED_ARTIFACTS": str(tmp_path / "named")})
    assert str(tmp_path / "named") in diagnose(named)["artifacts"].text
    assert diagnose(named, compiled_artifacts=tmp_path / "other")["NEURON_COMPILED_ARTIFACTS"].status == "warn"


def test_variables_of_neuron_are_ignored_on_a_laptop(diagnose):
    found = diagnose(replace(LAPTOP, environ={"NEURON_RT_NUM_CORES": "1"}), backend="torch")
    assert not {"environment", "NEURON_RT_NUM_CORES"} & found.keys()


# --- the verb ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def on(tmp_path, monkeypatch):
    """on(machine): what the verb takes for the machine it runs on."""
    return lambda described: monkeypatch.setattr(doctor, "this_machine", lambda packages: described.build(tmp_path / "machine"))


def test_doctor_ends_with_0_on_a_laptop_without_a_configuration(on, capsys):
    on(LAPTOP)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok    neuron devices  Neuron is absent here, and not needed" in out
    assert out.endswith("\n\nReady.\n")


def test_doctor_ends_with_2_and_counts_the_failures(on, capsys):
    on(LAPTOP)
    assert main(["doctor", "--config", str(ROOT / "configs/trn1-90b.yaml")]) == 2
    printed = capsys.readouterr()
    assert "\nNot ready: 5 things must be put right.\n" in printed.out
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 110


def test_doctor_ends_with_0_for_warnings(on, capsys):
    on(replace(TRN1, disk_gb=0.1))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("Ready, as far as can be seen; 2 warnings.\n")


def test_doctor_prints_json(on, capsys):
    on(LAPTOP)
    assert main(["doctor", "--config", str(ROOT / "configs/inf2-90b.yaml"), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["ready"], told["backend"]) == (False, "neuron")
    assert {"check": "neuron devices", "status": "fail"}.items() <= told["findings"][1].items()
    assert all(set(finding) == {"check", "status", "text", "remedy"} for finding in told["findings"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["--config", "nowhere.yaml"], "cannot be read"), (["--bacth-size", "2"], "did you mean --batch-size?")],
)
def test_options_that_cannot_be_used_are_one_sentence(argv, words, capsys):
    assert main(["doctor", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert words in printed.err


def test_this_machine_has_the_versions_of_installed_packages():
    machine = this_machine(("pytest", "no-such-package"))
    assert set(machine.versions) == {"pytest"}
    assert machine.memory is None or machine.memory > 0
    assert machine.disk_free(ROOT) > 0
