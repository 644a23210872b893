# pyright: reportArgumentType=false
"""Each finding of the doctor: instance, devices, driver, SDK, checkpoint, memory, disk, artifacts."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint import doctor_loading, neuron_sdks, torch_plan
from mllama_demo.checkpoint.compilation import shared_checkpoint
from mllama_demo.checkpoint.doctor import examine
from mllama_demo.checkpoint.machine import measure_disk, this_machine
from mllama_demo.checkpoint.neuron_sdks import SDKS
from mllama_demo.config.settings import Settings
from tests.support.described_machine import GB, LAPTOP, SDK_2_28, TRN1, by_name, compile_as

# --- the machine ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("product", "options", "status", "text"),
    [
        ("inf2.48xlarge", {}, "fail", "other chips than the trn1.32xlarge"),
        ("trn2.48xlarge", {}, "fail", "other chips"),
        ("trn1.2xlarge", {}, "fail", "has 2 NeuronCores, and tensor_parallel_size is 32"),
        ("trn1n.32xlarge", {}, "warn", "but the configuration is for trn1.32xlarge"),
        ("trn1.2xlarge", {"tensor_parallel_size": 2}, "warn", "but the configuration is for trn1.32xlarge"),
    ],
)
def test_a_configuration_for_another_instance_is_reported(diagnose, product, options, status, text):
    options = {"instance_type": "trn1.32xlarge", "tensor_parallel_size": 32, **options}
    finding = diagnose(replace(TRN1, product=product), **options)["instance"]
    assert finding.status == status
    assert text in finding.text
    assert finding.remedy


@pytest.mark.slow
@pytest.mark.parametrize(("vendor", "product"), [(None, None), ("Amazon EC2", "not a type"), ("Dell Inc.", "trn1.32xlarge")])
def test_an_instance_that_hides_its_name_is_unknown_and_no_failure(diagnose, vendor, product):
    finding = diagnose(replace(TRN1, vendor=vendor, product=product))["instance"]
    assert finding.status == "warn"
    assert finding.text.startswith("no EC2 instance by its name")


@pytest.mark.parametrize(
    ("devices", "options", "status", "text"),
    [
        (15, {}, "fail", "15, with 30 NeuronCores, but tensor_parallel_size is 32"),
        (4, {"tensor_parallel_size": 8}, "warn", "4 of 16, which is enough for 8"),
        (0, {}, "fail", "there is no /dev/neuron0"),
    ],
)
def test_missing_devices_are_counted(diagnose, devices, options, status, text):
    finding = diagnose(replace(TRN1, devices=devices), **options)["neuron devices"]
    assert (finding.status, finding.remedy != "") == (status, True)
    assert text in finding.text


@pytest.mark.slow
def test_a_driver_that_is_not_loaded_is_reported_differently_from_a_missing_one(diagnose):
    loaded = diagnose(TRN1)["driver"]
    unloaded = diagnose(replace(TRN1, driver=None, devices=0))["driver"]
    missing = diagnose(replace(TRN1, driver=None, driver_on_disk=None, devices=0))["driver"]
    hidden = diagnose(replace(TRN1, driver=None, driver_on_disk=None))["driver"]
    assert [finding.status for finding in (loaded, unloaded, missing, hidden)] == ["ok", "fail", "fail", "warn"]
    assert unloaded.text == "2.26.10.0 is installed but not loaded"
    assert unloaded.remedy == "sudo modprobe neuron"
    assert "install aws-neuronx-dkms" in missing.remedy


@pytest.mark.parametrize(
    ("version", "status", "text"),
    [
        ("2.26.10.0", "ok", "loaded"),
        ("2.9.4.0", "warn", "older than 2.26.10.0 of SDK 2.28.1"),
        ("2.28.0.0", "ok", "loaded"),
        ("2.29.0.0", "warn", "needs the Neuron runtime 2.33 or later"),
    ],
)
def test_the_driver_must_suit_the_release_of_the_sdk(diagnose, version, status, text):
    finding = diagnose(replace(TRN1, driver=version))["driver"]
    assert finding.status == status
    assert text in finding.text


# --- the software --------------------------------------------------------------------------------------------------------


def test_every_known_release_recognises_itself_and_no_other():
    assert len({sdk.name for sdk in SDKS}) == len(SDKS)
    for sdk in SDKS:
        versions = dict(zip(neuron_sdks.PACKAGES, (sdk.nxdi, sdk.nxd, sdk.compiler, "2.5." + sdk.torch_neuronx), strict=False))
        assert neuron_sdks.closest(versions) is sdk
        assert sdk.differences(versions) == []


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("neuronx-cc", "2.22.12471.0+b4a00d10"),
        ("neuronx-distributed", "0.16.25997"),
        ("torch-neuronx", "2.8.0.2.11.19912"),
        ("transformers", "5.23.0"),
        ("transformers", "4.5.7"),
    ],
)
def test_a_package_of_another_release_is_a_warning_that_names_it(diagnose, package, version):
    finding = diagnose(replace(TRN1, versions={**SDK_2_28, package: version}))["neuron sdk"]
    assert finding.status == "warn"
    assert f"{package} {version.partition('+')[0]} instead of" in finding.text


def test_an_unknown_release_is_a_warning(diagnose):
    finding = diagnose(replace(TRN1, versions={**SDK_2_28, "neuronx-distributed-inference": "0.99.1"}))["neuron sdk"]
    assert finding.status == "warn"
    assert "0.99.1 is of no release that this demo knows" in finding.text


def sdk(name: str, **changed: str) -> dict[str, str]:
    """The versions of the packages of one release."""
    one = next(sdk for sdk in SDKS if sdk.name == name)
    versions = dict(zip(neuron_sdks.PACKAGES, (one.nxdi, one.nxd, one.compiler, "2.9.0." + one.torch_neuronx), strict=False))
    return {**versions, "gradio": "6", **changed}


@pytest.mark.parametrize(
    ("product", "family"), [("trn1.32xlarge", "trn1"), ("trn1n.32xlarge", "trn1"), ("inf2.48xlarge", "inf2")]
)
@pytest.mark.parametrize("name", ["2.29.1", "2.30.0", "2.31.1"])
def test_a_release_without_trn1_and_inf2_is_a_warning(diagnose, product, family, name):
    finding = diagnose(replace(TRN1, product=product, versions=sdk(name)))["neuron sdk"]
    assert (finding.status, finding.text) == ("warn", f"{name}, whose NxD Inference AWS supports on trn2 and trn3 only")
    assert finding.remedy == f"on {family} use SDK 2.24 to 2.28"


@pytest.mark.parametrize("name", ["2.21.1", "2.22.0", "2.23.0"])
def test_a_release_that_reads_sampling_params_by_slot_is_a_failure_with_the_reason(diagnose, name):
    finding = diagnose(replace(TRN1, versions=sdk(name)))["neuron sdk"]
    assert finding.status == "fail"
    assert finding.text.endswith("sampling_params are indexed by seq_ids, so that reading a prompt into slot 1 raises IndexError")
    assert finding.remedy == "use SDK 2.24 (NxD Inference 0.4) or later"


@pytest.mark.parametrize(
    ("name", "note"), [("2.27.1", ""), ("2.28.1", "; AWS's documentation of this model ends with 2.27.1, and")]
)
def test_a_release_without_documentation_of_this_model_is_no_problem_but_said(diagnose, name, note):
    finding = diagnose(replace(TRN1, versions=sdk(name)))["neuron sdk"]
    assert finding.status == "ok"
    assert finding.text.startswith(f"{name}, a set that AWS released together{note}")


def test_packages_that_are_missing_are_named(diagnose, embedded):
    nothing = diagnose(replace(TRN1, versions={}))
    assert nothing["packages"].text == "gradio is not installed in this environment"
    assert "neuronx-distributed-inference is not installed" in nothing["neuron sdk"].text
    laptop = diagnose(replace(LAPTOP, versions={"torch": "2.13.0"}), backend="torch")
    assert laptop["packages"].status == "fail"
    assert laptop["packages"].text.startswith("transformers and gradio not installed")


# --- the model -----------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_a_failure_with_the_sentence_of_its_check(tmp_path, embedded):
    folder = Path(shutil.copytree(embedded, tmp_path / "checkpoint"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    found = by_name(examine(LAPTOP.build(tmp_path / "machine"), Settings(model_path=folder)))
    assert found["checkpoint"].status == "fail"
    assert f"{weights} is cut off" in found["checkpoint"].text
    assert found["host memory"].status == "ok", "its sizes are known"


def test_an_interrupted_conversion_is_reported(tmp_path):
    (tmp_path / "model.converting").mkdir()
    found = by_name(examine(LAPTOP.build(tmp_path / "machine"), Settings(model_path=tmp_path / "model")))
    assert "give the same convert command again" in found["checkpoint"].remedy


@pytest.mark.parametrize(("gigabytes", "status"), [(177, "fail"), (178, "warn"), (354, "warn"), (355, "ok")])
def test_host_memory_is_compared_with_the_weights(diagnose, gigabytes, status):
    assert diagnose(replace(TRN1, memory_gb=gigabytes))["host memory"].status == status


def test_the_limit_of_a_container_counts(diagnose):
    finding = diagnose(replace(TRN1, limit=str(100 * GB)))["host memory"]
    assert (finding.status, finding.text) == ("fail", "100.0 GB free, less than the 177.2 GB of the weights")


@pytest.mark.parametrize(
    ("options", "gigabytes", "status", "remedy"),
    [
        ({}, 300, "fail", "bfloat16 would fit"),
        ({}, 368, "warn", "reduce prefix_cache_mb, vision_cache_size or batch_size"),
        ({}, 380, "ok", ""),
        ({"dtype": "bfloat16"}, 200, "ok", ""),
        ({"dtype": "bfloat16"}, 150, "fail", "quantization int8 would fit"),
        ({"quantization": "int4"}, 100, "ok", ""),
        ({"quantization": "int4"}, 20, "fail", "end other programs, or take a larger machine or a smaller model"),
    ],
)
def test_the_memory_of_the_torch_backend_is_that_of_plan(diagnose, monkeypatch, options, gigabytes, status, remedy):
    monkeypatch.setattr(torch_plan, "has_bfloat16_units", lambda: False)  # whatever machine this is
    finding = diagnose(replace(LAPTOP, memory_gb=gigabytes), backend="torch", **options)["host memory"]
    assert (finding.status, finding.remedy) == (status, remedy), finding.text


@pytest.mark.parametrize(
    ("dtype", "gpu", "check", "kind"),
    [
        ("auto", None, "host memory", "float32"),
        ("auto", "nvidia0", "gpu memory", "bfloat16"),
        ("float32", "nvidia0", "gpu memory", "float32"),
    ],
)
def test_the_number_format_is_that_of_the_device(tmp_path, embedded, monkeypatch, dtype, gpu, check, kind):
    monkeypatch.setattr(doctor_loading, "free_memory", lambda device: 24 * GB)
    settings = Settings(model_path=embedded, dtype=dtype)
    found = by_name(examine(replace(LAPTOP, gpu=gpu).build(tmp_path / "machine"), settings))
    assert found[check].status == "ok"
    assert f"in {kind}, and" in found[check].text


def test_memory_and_disk_are_judged_before_the_checkpoint_is_there(diagnose, tmp_path):
    """By the size that the name of its folder tells."""
    missing = tmp_path / "Llama-3.2-90B-Vision-Instruct-hf"
    found = diagnose(replace(TRN1, memory_gb=100, disk_gb=300), model_path=missing)
    assert found["checkpoint"].status == "fail"
    assert found["host memory"].text == "100.0 GB free, less than the 177.2 GB of the weights"
    assert found["device memory"].status == "ok"
    assert found["disk"].status == "fail"
    assert found["disk"].text.endswith("are wanted for the checkpoint and what is compiled from it")
    assert diagnose(replace(TRN1, disk_gb=400), model_path=missing)["disk"].status == "ok"
    laptop = diagnose(replace(LAPTOP, memory_gb=20, disk_gb=100), backend="torch", model_path=missing)
    assert (laptop["host memory"].status, laptop["disk"].status) == ("fail", "fail")
    unknown = diagnose(TRN1, model_path=tmp_path / "my-model")
    assert not {"host memory", "device memory", "disk"} & unknown.keys()


# --- the devices and the disk ---------------------------------------------------------------------------------------------


def test_a_process_that_has_devices_open_is_named(diagnose, tmp_path):
    def machine(devices: dict[int, list[str]]) -> dict[str, Any]:
        described = replace(TRN1)
        settings = Settings(backend="neuron", model_path=tmp_path / "none")
        built = described.build(tmp_path / "machine")
        for process, opened in devices.items():
            folder = tmp_path / "machine/proc" / str(process)
            (folder / "fd").mkdir(parents=True)
            (folder / "comm").write_text("vllm\n")
            for number, name in enumerate(opened):
                (folder / "fd" / str(number)).symlink_to(name)
        return by_name(examine(built, settings))

    found = machine({4711: ["/dev/null", "/dev/neuron0", "/dev/neuron12", "/dev/neuron0"], 12: ["/dev/neuronx", "/dev/pts/0"]})
    assert found["process 4711"].status == "fail"
    assert found["process 4711"].text == "process 4711 (vllm) has 2 Neuron devices open"
    assert "process 12" not in found
    assert not [name for name in machine({os.getpid(): ["/dev/neuron0"]}) if name.startswith("process")], "this is the doctor"
    assert this_machine().neuron_processes() == [], "in the real /proc"


@pytest.mark.parametrize(("rate", "status", "minutes"), [(125, "warn", "26 min"), (1000, "ok", "3 min"), (None, None, "")])
def test_the_speed_of_the_disk_is_told_as_the_time_of_a_start(tmp_path, checkpoint_90b, rate, status, minutes):
    machine = replace(TRN1.build(tmp_path / "machine"), disk_rate=lambda file: rate and rate * 10**6)
    settings = Settings(backend="neuron", model_path=checkpoint_90b)
    found = by_name(examine(machine, settings)).get("disk speed")
    assert (found and found.status) == status
    if found:
        assert found.text == f"{rate:,} MB/s; a start reads 192.6 GB, in {minutes}"


def test_the_speed_of_a_real_disk_is_measured(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(2**22) * 16)
    rate = measure_disk(file)
    assert rate is not None
    assert rate > 10**5


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, "ok"),
        ({"tensor_parallel_size": 8}, "fail"),
        ({"seq_len": 16384, "batch_size": 2, "tensor_parallel_size": 16}, "warn"),
    ],
)
def test_device_memory_has_the_same_verdict_as_plan(diagnose, options, status):
    options = {"sequence_parallel_enabled": options.get("seq_len", 0) > 2048, **options}
    assert diagnose(TRN1, **options)["device memory"].status == status


# --- what is compiled ----------------------------------------------------------------------------------------------------


def test_the_disk_needs_space_for_the_weights_of_every_core(diagnose):
    assert diagnose(replace(TRN1, disk_gb=205))["disk"].status == "ok"
    finding = diagnose(replace(TRN1, disk_gb=190))["disk"]
    assert finding.status == "fail"
    assert "190.0 GB free in" in finding.text
    assert "name a folder on another disk" in finding.remedy


def test_a_laptop_with_a_full_disk_is_only_warned(diagnose):
    assert diagnose(replace(LAPTOP, disk_gb=0.5), backend="torch")["disk"].status == "warn"


def test_the_disk_is_that_of_the_nearest_folder_that_exists(diagnose, tmp_path):
    there = tmp_path / "big"
    there.mkdir()
    assert f"in {there}," in diagnose(TRN1, compiled_artifacts=there / "a" / "b")["disk"].text


def test_a_folder_without_permission_is_a_finding_and_no_traceback(diagnose, monkeypatch):
    def refuse(path: Path, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(shared_checkpoint, "check_checkpoint", refuse)
    found = diagnose(TRN1)
    assert (found["checkpoint"].status, found["checkpoint"].text) == ("fail", "/secret cannot be read (Permission denied)")


def test_a_checkpoint_that_does_not_name_the_end_of_a_turn_is_a_warning(diagnose, checkpoint_90b):
    assert "end of turn" not in diagnose(TRN1)
    (checkpoint_90b / "generation_config.json").write_text('{"eos_token_id": 1}')
    finding = diagnose(TRN1)["end of turn"]
    end = Tokenizer(checkpoint_90b).special_id("<|eot_id|>")
    assert (finding.status, finding.text) == (
        "warn",
        f"eos_token_id in generation_config.json or config.json lacks {end}, <|eot_id|>, which ends every answer of a chat",
    )


def test_a_tokenizer_that_cannot_be_used_is_a_finding(diagnose, checkpoint_90b):
    (checkpoint_90b / "tokenizer.json").write_text("{}")
    finding = diagnose(TRN1)["tokenizer"]
    assert finding.status == "fail"
    assert "tokenizer.json cannot be read" in finding.text


def test_missing_artifacts_come_with_the_command_that_makes_them(diagnose, checkpoint_90b):
    finding = diagnose(TRN1)["artifacts"]
    assert (finding.status, finding.text) == ("warn", f"nothing is compiled in {checkpoint_90b / 'neuron-compiled-artifacts'}")
    assert "`python -m mllama_demo compile`" in finding.remedy


def test_a_compiled_model_needs_no_disk_space(diagnose, checkpoint_90b):
    folder = compile_as(Settings(backend="neuron", model_path=checkpoint_90b))
    found = diagnose(replace(TRN1, disk_gb=1))
    assert (found["artifacts"].status, found["artifacts"].text) == ("ok", f"{folder} was compiled from exactly this")
    assert "disk" not in found


def test_artifacts_of_another_configuration_are_a_warning_that_says_what_differs(diagnose, checkpoint_90b):
    compile_as(Settings(backend="neuron", model_path=checkpoint_90b, batch_size=2))
    finding = diagnose(TRN1)["artifacts"]
    assert finding.status == "warn"
    assert "neuron.batch_size is 2 there and 4 here" in finding.text


def test_another_model_in_the_folder_that_the_variable_names_is_a_failure(diagnose, checkpoint_90b, tmp_path):
    environ = {"NEURON_COMPILED_ARTIFACTS": str(tmp_path / "named")}
    compile_as(Settings(backend="neuron", model_path=checkpoint_90b, batch_size=2), environ)
    finding = diagnose(replace(TRN1, environ=environ))["artifacts"]
    assert finding.status == "fail"
    assert "is another one: " in finding.text
