"""The doctor looks at machines made of files and says what is ready, what is not, and what to do about it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.__main__ import VERBS, main
from mllama_demo.checkpoint import artifacts, doctor, findings, neuron_sdks, weights_file
from mllama_demo.checkpoint.compile import compilation
from mllama_demo.checkpoint.doctor import examine, report
from mllama_demo.checkpoint.findings import Finding
from mllama_demo.checkpoint.machine import Machine, this_machine
from mllama_demo.checkpoint.memory import GIB, core_memory, core_parameters
from mllama_demo.checkpoint.neuron_sdks import SDKS
from mllama_demo.checkpoint.shape import PUBLISHED
from mllama_demo.config import Settings, load_settings
from mllama_demo.neuron_settings import CORES

ROOT = Path(__file__).resolve().parents[2]
GB = 10**9
SDK_2_28 = {
    "neuronx-distributed-inference": "0.8.16251+f3ca5575",
    "neuronx-distributed": "0.17.26814+f1c3f2c3",
    "neuronx-cc": "2.23.6484.0+3b612583",
    "torch-neuronx": "2.8.0.2.12.22436+e0b7d6b5",
    "transformers": "4.57.3",
    "torch": "2.8.0",
    "gradio": "6.31.0",
}
LAPTOP_PACKAGES = {"torch": "2.13.0", "transformers": "5.23.0", "gradio": "6.31.0"}


@dataclass
class Described:
    """A machine in a few words; build() writes it as files."""

    vendor: str | None = "Amazon EC2"
    product: str | None = "trn1.32xlarge"
    devices: int = 16
    driver: str | None = "2.26.10.0"
    driver_on_disk: str | None = "2.26.10.0"
    memory_gb: float = 500
    disk_gb: float = 1000
    gpu: bool = False
    limit: str | None = "max"
    environ: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: SDK_2_28)

    def build(self, root: Path) -> Machine:
        if root.exists():
            shutil.rmtree(root)
        kilobytes = int(self.memory_gb * GB / 1024)
        files = {
            "sys/devices/virtual/dmi/id/sys_vendor": self.vendor,
            "sys/devices/virtual/dmi/id/product_name": self.product,
            "sys/module/neuron/version": self.driver,
            "sys/fs/cgroup/memory.max": self.limit,
            "proc/meminfo": f"MemTotal: {2 * kilobytes} kB\nMemFree: {kilobytes // 2} kB\nMemAvailable: {kilobytes} kB",
            **{f"dev/neuron{number}": "" for number in range(self.devices)},
            "dev/null": "",
            "dev/nvidia0": "" if self.gpu else None,
            f"usr/src/aws-neuronx-{self.driver_on_disk}/dkms.conf": "" if self.driver_on_disk else None,
        }
        for name, content in files.items():
            if content is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(content + "\n" if content else "")
        return Machine(root, self.environ, self.versions, lambda folder: int(self.disk_gb * GB))


TRN1 = Described()
INF2 = Described(product="inf2.48xlarge", devices=12, memory_gb=380)
LAPTOP = Described("LENOVO", "21AH00BMGE", 0, None, None, 12, 100, versions=LAPTOP_PACKAGES, limit=None)


def write_checkpoint(folder: Path, embedded: Path, size: str) -> Path:
    """A checkpoint of a published size, with everything but the numbers: its weights are one long hole."""
    folder.mkdir()
    shutil.copy(embedded / "tokenizer.json", folder)
    shape = PUBLISHED[size]
    text = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "cross_attention_layers": shape.cross_layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_positions,
        "eos_token_id": 128009,
    }
    vision = {"hidden_size": 1280, "num_hidden_layers": 32, "num_global_layers": 8, "attention_heads": 16}
    vision |= {"image_size": 560, "patch_size": 14, "max_num_tiles": 4}
    config = {"model_type": "mllama", "text_config": text, "vision_config": vision, "image_token_index": 128256}
    (folder / "config.json").write_text(json.dumps(config))
    images = {"size": {"height": 560, "width": 560}, "max_image_tiles": 4}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    names = ["model.embed_tokens", "model.norm", "lm_head"]
    for layer in range(shape.layers):
        names.append(f"model.layers.{layer}.{'cross' if layer in shape.cross_layers else 'self'}_attn.q_proj")
    names = [f"language_model.{name}" for name in names] + ["vision_model.patch_embedding", "multi_modal_projector"]
    for stack, layers in (("transformer", 32), ("global_transformer", 8)):
        names += [f"vision_model.{stack}.layers.{layer}.self_attn.q_proj" for layer in range(layers)]
    entries = [weights_file.Entry(f"{name}.weight", "BF16", (1,)) for name in names]
    entries.append(weights_file.Entry("all.the.rest", "BF16", (core_parameters(shape, 1) - len(entries),)))
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(weights_file.header(entries))
        stream.truncate(weights_file.size(entries))
    return folder


@pytest.fixture
def checkpoint_90b(tmp_path, embedded) -> Path:
    return write_checkpoint(tmp_path / "Llama-3.2-90B-Vision-Instruct", embedded, "90B")


@pytest.fixture
def look(tmp_path, checkpoint_90b):
    """look(machine, option=…): the findings of a 90B configuration on it, by what was looked at."""

    def look(described: Described, **options: Any) -> dict[str, Finding]:
        instance = {"instance_type": described.product} if described.product in CORES else {}
        cores = {"tensor_parallel_size": 16} if described.product == "inf2.48xlarge" else {}
        settings = Settings(**{"backend": "neuron", "model_path": checkpoint_90b, **instance, **cores, **options})
        return by_name(examine(described.build(tmp_path / "machine"), settings))

    return look


def compile_as(settings: Settings, environ: dict[str, str] | None = None) -> Path:
    """What `compile` leaves behind, with the device's part made up."""
    wanted = compilation(settings, environ or {})
    folder = wanted.place.folder
    folder.mkdir(parents=True)
    for name in (artifacts.MODEL_FILE, artifacts.NEURON_CONFIG):
        (folder / name).write_text("{}")
    artifacts.write_manifest(folder, wanted.made_of, 1.0)
    return folder


def by_name(found: list[Finding]) -> dict[str, Finding]:
    names = {finding.check: finding for finding in found}
    assert len(names) == len(found)
    return names


def statuses(found: dict[str, Finding]) -> set[str]:
    return {finding.status for finding in found.values()}


# --- whole machines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("described", [TRN1, INF2], ids=["trn1.32xlarge", "inf2.48xlarge"])
def test_a_machine_as_aws_sells_it_with_everything_in_place_is_ready(look, checkpoint_90b, described):
    cores = 32 if described is TRN1 else 16
    neuron = {"instance_type": described.product, "tensor_parallel_size": cores}
    compile_as(Settings(backend="neuron", model_path=checkpoint_90b, **neuron))
    found = look(described)
    assert statuses(found) == {"ok"}
    assert found["instance"].text == f"{described.product}, as configured"
    assert found["neuron sdk"].text == "2.28.1, a set that AWS released together"
    assert report(list(found.values())).endswith("\n\nReady.")


def test_the_devices_of_each_instance_have_the_cores_that_are_counted(look):
    assert look(TRN1)["neuron devices"].text == "16; 32 of 32 NeuronCores are used"
    assert look(INF2)["neuron devices"].text == "12; 16 of 24 NeuronCores are used"


def test_a_laptop_says_that_neuron_is_absent_and_what_runs_instead(tmp_path):
    found = by_name(examine(LAPTOP.build(tmp_path / "machine"), Settings()))
    assert statuses(found) == {"ok"}
    assert found["neuron devices"].text == "Neuron is absent here, and not needed: the model runs with PyTorch on the CPU"
    assert found["instance"].text == "no EC2 instance (21AH00BMGE)"
    assert not {"driver", "neuron sdk", "artifacts", "device memory"} & found.keys()


@pytest.mark.parametrize(("device", "place"), [("auto", "a GPU"), ("cpu", "the CPU")])
def test_with_a_gpu_the_model_runs_there_unless_the_cpu_is_asked_for(look, device, place):
    found = look(replace(LAPTOP, gpu=True), backend="torch", device=device)
    assert found["neuron devices"].text.endswith(f"with PyTorch on {place}")


def test_a_laptop_with_a_configuration_for_neuron_is_not_ready(look):
    found = look(LAPTOP)
    assert found["neuron devices"].status == "fail"
    assert "Neuron is absent here" in found["neuron devices"].text
    assert "leave --config out" in found["neuron devices"].remedy
    assert found["neuron sdk"].status == "fail"
    assert "driver" not in found  # one sentence about Neuron is enough


def test_a_neuron_machine_that_would_answer_from_its_cpu_is_a_warning(look, embedded):
    found = look(TRN1, backend="torch", model_path=embedded)
    assert found["neuron devices"].status == "warn"
    assert "16, but not used by this configuration" in found["neuron devices"].text
    assert "--config configs/trn1-90b.yaml" in found["neuron devices"].remedy


def test_what_a_remedy_names_exists():
    assert (ROOT / "configs/trn1-90b.yaml").is_file()
    assert (ROOT / "docs/neuron.md").is_file()
    assert (ROOT / "requirements-neuron.txt").is_file()


def test_every_command_and_configuration_of_the_guide_exists():
    guide = (ROOT / "docs/neuron.md").read_text()
    verbs = {"convert", "plan", "doctor", "compile", "serve", "offline", "vllm-command"}
    assert set(re.findall(r"python -m mllama_demo ([\w-]+)", guide)) == verbs <= set(VERBS)
    named = set(re.findall(r"configs/[\w-]+\.yaml", guide))
    assert named == {f"configs/{file.name}" for file in (ROOT / "configs").glob("*.yaml")}


def test_the_memory_in_the_guide_is_what_plan_computes():
    guide = (ROOT / "docs/neuron.md").read_text()
    for row in re.findall(r"^\| `(configs/(?:trn1|inf2)\S+)` \| .*\| ([\d.]+) \|$", guide, re.MULTILINE):
        options = load_settings(["--config", str(ROOT / row[0])], {}).neuron
        total = core_memory(PUBLISHED["11B" if "11b" in row[0] else "90B"], options).total
        assert row[1] == f"{total / GIB:.1f}", row


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
def test_a_configuration_for_another_instance_is_found_out(look, product, options, status, text):
    options = {"instance_type": "trn1.32xlarge", "tensor_parallel_size": 32, **options}
    finding = look(replace(TRN1, product=product), **options)["instance"]
    assert finding.status == status
    assert text in finding.text
    assert finding.remedy


@pytest.mark.parametrize(("vendor", "product"), [(None, None), ("Amazon EC2", "not a type"), ("Dell Inc.", "trn1.32xlarge")])
def test_an_instance_that_hides_its_name_is_unknown_and_no_failure(look, vendor, product):
    finding = look(replace(TRN1, vendor=vendor, product=product))["instance"]
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
def test_missing_devices_are_counted(look, devices, options, status, text):
    finding = look(replace(TRN1, devices=devices), **options)["neuron devices"]
    assert (finding.status, finding.remedy != "") == (status, True)
    assert text in finding.text


def test_a_driver_that_is_installed_but_not_loaded_is_told_apart_from_none(look):
    loaded = look(TRN1)["driver"]
    unloaded = look(replace(TRN1, driver=None, devices=0))["driver"]
    missing = look(replace(TRN1, driver=None, driver_on_disk=None, devices=0))["driver"]
    hidden = look(replace(TRN1, driver=None, driver_on_disk=None))["driver"]
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
def test_the_driver_must_suit_the_release_of_the_sdk(look, version, status, text):
    finding = look(replace(TRN1, driver=version))["driver"]
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
def test_a_package_of_another_release_is_a_warning_that_names_it(look, package, version):
    finding = look(replace(TRN1, versions={**SDK_2_28, package: version}))["neuron sdk"]
    assert finding.status == "warn"
    assert f"{package} {version.partition('+')[0]} instead of" in finding.text


def test_a_release_that_nobody_knows_is_a_warning_and_no_failure(look):
    finding = look(replace(TRN1, versions={**SDK_2_28, "neuronx-distributed-inference": "0.99.1"}))["neuron sdk"]
    assert finding.status == "warn"
    assert "0.99.1 is of no release that this demo knows" in finding.text


def test_a_release_that_left_trn1_and_inf2_behind_says_so(look, tmp_path):
    versions = dict(zip(neuron_sdks.PACKAGES, ("0.9.17334", "0.18.27753", "2.24.8799.0", "2.9.0.2.13.26312"), strict=False))
    finding = look(replace(TRN1, versions={**versions, "gradio": "6"}))["neuron sdk"]
    assert (finding.status, finding.text) == ("warn", "2.29.1, whose NxD Inference AWS supports on Trn2 and newer only")


def test_the_first_release_is_for_90b_alone(look, tmp_path, embedded):
    versions = {"neuronx-distributed-inference": "0.1.1", "neuronx-cc": "2.16.372.0", "gradio": "6"}
    first = replace(TRN1, versions=versions, driver="2.19.64.0")
    assert look(first)["neuron sdk"].status == "ok"
    smaller = write_checkpoint(tmp_path / "11B", embedded, "11B")
    assert "90B but not 11B" in look(first, model_path=smaller)["neuron sdk"].text


def test_packages_that_are_missing_are_named(look, embedded):
    nothing = look(replace(TRN1, versions={}))
    assert nothing["packages"].text == "gradio is not installed in this environment"
    assert "neuronx-distributed-inference is not installed" in nothing["neuron sdk"].text
    laptop = look(replace(LAPTOP, versions={"torch": "2.13.0"}), backend="torch")
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


def test_an_interrupted_conversion_is_seen(tmp_path):
    (tmp_path / "model.converting").mkdir()
    found = by_name(examine(LAPTOP.build(tmp_path / "machine"), Settings(model_path=tmp_path / "model")))
    assert "give the same convert command again" in found["checkpoint"].remedy


@pytest.mark.parametrize(("gigabytes", "status"), [(177, "fail"), (178, "warn"), (354, "warn"), (355, "ok")])
def test_host_memory_is_held_against_the_weights(look, gigabytes, status):
    assert look(replace(TRN1, memory_gb=gigabytes))["host memory"].status == status


def test_the_limit_of_a_container_counts(look):
    finding = look(replace(TRN1, limit=str(100 * GB)))["host memory"]
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
def test_a_configuration_too_large_for_the_device_is_seen_as_plan_sees_it(look, options, status):
    options = {"sequence_parallel_enabled": options.get("seq_len", 0) > 2048, **options}
    assert look(TRN1, **options)["device memory"].status == status


# --- what is compiled ----------------------------------------------------------------------------------------------------


def test_the_disk_must_have_room_for_the_weights_of_every_core(look):
    assert look(replace(TRN1, disk_gb=205))["disk"].status == "ok"
    finding = look(replace(TRN1, disk_gb=190))["disk"]
    assert finding.status == "fail"
    assert "190.0 GB free in" in finding.text
    assert "name a folder on another disk" in finding.remedy


def test_a_laptop_with_a_full_disk_is_only_warned(look):
    assert look(replace(LAPTOP, disk_gb=0.5), backend="torch")["disk"].status == "warn"


def test_the_disk_is_that_of_the_nearest_folder_that_exists(look, tmp_path):
    there = tmp_path / "big"
    there.mkdir()
    assert f"in {there}," in look(TRN1, compiled_artifacts=there / "a" / "b")["disk"].text


def test_a_folder_that_may_not_be_looked_into_is_a_finding_and_no_traceback(look, monkeypatch):
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(findings, "check_checkpoint", refuse)
    found = look(TRN1)
    assert (found["checkpoint"].status, found["checkpoint"].text) == ("fail", "/secret cannot be read (Permission denied)")


def test_without_artifacts_the_way_to_make_them_is_shown(look, checkpoint_90b):
    finding = look(TRN1)["artifacts"]
    assert (finding.status, finding.text) == ("warn", f"nothing is compiled in {checkpoint_90b / 'neuron-compiled-artifacts'}")
    assert "`python -m mllama_demo compile`" in finding.remedy


def test_artifacts_of_exactly_this_need_no_disk(look, checkpoint_90b):
    folder = compile_as(Settings(backend="neuron", model_path=checkpoint_90b))
    found = look(replace(TRN1, disk_gb=1))
    assert (found["artifacts"].status, found["artifacts"].text) == ("ok", f"{folder} was compiled from exactly this")
    assert "disk" not in found


def test_artifacts_of_another_configuration_are_a_warning_that_says_what_differs(look, checkpoint_90b):
    compile_as(Settings(backend="neuron", model_path=checkpoint_90b, batch_size=2))
    finding = look(TRN1)["artifacts"]
    assert finding.status == "warn"
    assert "neuron.batch_size is 2 there and 4 here" in finding.text


def test_another_model_in_the_place_that_the_variable_names_is_a_failure(look, checkpoint_90b, tmp_path):
    environ = {"NEURON_COMPILED_ARTIFACTS": str(tmp_path / "named")}
    compile_as(Settings(backend="neuron", model_path=checkpoint_90b, batch_size=2), environ)
    finding = look(replace(TRN1, environ=environ))["artifacts"]
    assert finding.status == "fail"
    assert "is another one: " in finding.text


# --- environment variables -----------------------------------------------------------------------------------------------


def test_no_variable_needs_to_be_set(look):
    found = look(TRN1)
    assert found["environment"].status == "ok"
    assert look(replace(TRN1, environ={"NEURON_RT_NUM_CORES": ""}))["environment"].status == "ok"


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
        ("BASE_COMPILE_WORK_DIR", "/scratch", "ok"),
        ("NEURON_COMPILED_ARTIFACTS", "/artifacts", "ok"),
    ],
)
def test_a_variable_that_is_set_is_judged(look, name, value, status):
    found = look(replace(TRN1, environ={name: value}))
    assert found[name].status == status
    assert bool(found[name].remedy) == (status != "ok")
    assert value in found[name].text
    assert "environment" not in found


def test_a_folder_named_by_the_variable_is_where_artifacts_are_looked_for(look, tmp_path):
    named = Described(environ={"NEURON_COMPILED_ARTIFACTS": str(tmp_path / "named")})
    assert str(tmp_path / "named") in look(named)["artifacts"].text
    assert look(named, compiled_artifacts=tmp_path / "other")["NEURON_COMPILED_ARTIFACTS"].status == "warn"


def test_on_a_laptop_variables_of_neuron_mean_nothing(look):
    found = look(replace(LAPTOP, environ={"NEURON_RT_NUM_CORES": "1"}), backend="torch")
    assert not {"environment", "NEURON_RT_NUM_CORES"} & found.keys()


# --- the verb ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def on(tmp_path, monkeypatch):
    """on(machine): what the verb takes for the machine it runs on."""
    return lambda described: monkeypatch.setattr(doctor, "this_machine", lambda packages: described.build(tmp_path / "machine"))


def test_on_a_laptop_without_a_configuration_the_verb_ends_with_0(on, capsys):
    on(LAPTOP)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok    neuron devices  Neuron is absent here, and not needed" in out
    assert out.endswith("\n\nReady.\n")


def test_a_failure_ends_with_2_and_says_how_many_there_are(on, capsys):
    on(LAPTOP)
    assert main(["doctor", "--config", str(ROOT / "configs/trn1-90b.yaml")]) == 2
    printed = capsys.readouterr()
    assert "\nNot ready: 3 things must be put right.\n" in printed.out
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 110


def test_warnings_alone_end_with_0(on, capsys):
    on(replace(TRN1, disk_gb=0.1))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("Ready, as far as can be seen; 2 warnings.\n")


def test_programs_get_json(on, capsys):
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


def test_this_machine_is_seen_with_the_packages_that_are_installed():
    machine = this_machine(("pytest", "no-such-package"))
    assert set(machine.versions) == {"pytest"}
    assert machine.memory is None or machine.memory > 0
    assert machine.disk_free(ROOT) > 0
