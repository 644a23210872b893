# pyright: reportArgumentType=false
"""Each finding of the doctor: instance, devices, driver, SDK, checkpoint, memory, disk, artifacts."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.checkpoint import findings, neuron_sdks
from mllama_demo.checkpoint.doctor import examine
from mllama_demo.checkpoint.neuron_sdks import SDKS
from mllama_demo.config.settings import Settings
from tests.support.described_machine import GB, LAPTOP, SDK_2_28, TRN1, by_name, compile_as, write_checkpoint

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
        ("2.26.5.0", "ok", "loaded"),
        ("2.9.4.0", "warn", "older than 2.26.5.0 of SDK 2.28.1"),
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


def test_a_release_without_trn1_and_inf2_is_a_warning(diagnose, tmp_path):
    versions = dict(zip(neuron_sdks.PACKAGES, ("0.9.17334", "0.18.27753", "2.24.8799.0", "2.9.0.2.13.26312"), strict=False))
    finding = diagnose(replace(TRN1, versions={**versions, "gradio": "6"}))["neuron sdk"]
    assert (finding.status, finding.text) == ("warn", "2.29.1, whose NxD Inference AWS supports on Trn2 and newer only")


def test_the_first_release_supports_90b_only(diagnose, tmp_path, embedded):
    versions = {"neuronx-distributed-inference": "0.1.1", "neuronx-cc": "2.16.372.0", "gradio": "6"}
    first = replace(TRN1, versions=versions, driver="2.19.64.0")
    assert diagnose(first)["neuron sdk"].status == "ok"
    smaller = write_checkpoint(tmp_path / "11B", embedded, "11B")
    assert "90B but not 11B" in diagnose(first, model_path=smaller)["neuron sdk"].text


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
    assert "host memory" not in found


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
    ("dtype", "gpu", "size"), [("auto", False, "20 MB"), ("auto", True, "10 MB"), ("float32", True, "20 MB")]
)
def test_on_a_laptop_the_number_format_decides(tmp_path, embedded, dtype, gpu, size):
    settings = Settings(model_path=embedded, dtype=dtype)
    found = by_name(examine(replace(LAPTOP, gpu=gpu).build(tmp_path / "machine"), settings))
    assert found["host memory"].text.endswith(f"for weights of {size}")


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
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(findings, "check_checkpoint", refuse)
    found = diagnose(TRN1)
    assert (found["checkpoint"].status, found["checkpoint"].text) == ("fail", "/secret cannot be read (Permission denied)")


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
