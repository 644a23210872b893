"""The verb `compile`, with everything real but NxDI itself: what it makes, what it trusts, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mllama_demo.checkpoint.compilation import artifacts
from mllama_demo.checkpoint.compilation import compile as module
from mllama_demo.checkpoint.compilation import fingerprint as fingerprint_module
from mllama_demo.checkpoint.compilation import worker as compile_worker
from mllama_demo.checkpoint.machine import check_instance
from mllama_demo.checkpoint.memory import GIB, CoreMemory
from mllama_demo.config.neuron import NO_SDK
from mllama_demo.engine.neuron.compiler_log import CompileProgress
from mllama_demo.errors import ConfigError
from tests.support.compilations import compile_it, made, refused, wanted
from tests.support.neuron_fakes import be_an_instance

pytestmark = pytest.mark.timeout(120)
# --- what is made --------------------------------------------------------------------------------------------------------


def test_an_artifact_has_nxdis_files_the_tokenizer_the_processor_and_its_inputs(config, capsys):
    assert compile_it(config) == 0
    (folder,) = made(config)
    assert folder == wanted(config).location.folder
    assert {"model.pt", "neuron_config.json", "weights", "compile.log", "compiled-from.json"} <= {
        f.name for f in folder.iterdir()
    }
    assert sorted(file.name for file in (folder / "weights").iterdir()) == ["tp0_sharded_checkpoint.safetensors"]
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (config.parent / "model" / name).read_bytes()
    assert json.loads((folder / "compiled-from.json").read_text())["made_of"] == wanted(config).inputs
    assert json.loads((folder / "neuron_config.json").read_text())["neuron_config"]["context_encoding_buckets"] == [64, 128]
    assert "Compiler status PASS" in (folder / "compile.log").read_text()
    out = capsys.readouterr().out
    assert f"into {folder}" in out
    assert out.splitlines()[-1] == f"{folder} is ready; serve with the same options loads it."


def test_each_compilation_has_its_own_work_folder_of_nxd(config, monkeypatch):
    monkeypatch.setenv("BASE_COMPILE_WORK_DIR", str(config.parent / "of somebody else"))
    assert compile_it(config) == 0
    assert not (config.parent / "of somebody else").exists()


def test_a_compiled_model_is_not_compiled_again(config, capsys, monkeypatch):
    assert compile_it(config) == 0
    monkeypatch.setenv("FAKE_COMPILE", "fail")
    assert compile_it(config) == 0
    assert "compiled from exactly this before" in capsys.readouterr().out
    assert len(made(config)) == 1


def test_progress_is_reported_with_rising_durations(config, capsys, monkeypatch):
    told = []
    monkeypatch.setattr(module, "_Terminal", lambda: lambda progress, seconds: told.append((progress.stage, seconds)))
    assert compile_it(config) == 0
    assert told[0][0] == "starting"
    assert [seconds for _, seconds in told] == sorted(seconds for _, seconds in told)


def test_a_terminal_shows_one_progress_bar_that_is_redrawn(capsys, monkeypatch):
    monkeypatch.setattr(module.sys, "stdout", SimpleNamespace(isatty=lambda: True, write=print, flush=lambda: None))
    show, lines = module._Terminal(), []
    monkeypatch.setattr("builtins.print", lambda *words, **_: lines.append("".join(words)))
    show(CompileProgress("compiling", 2, 4), 754)
    show(CompileProgress("compiling", 2, 4), 3754)
    assert lines[0] == f"\r[{13 * '#'}{17 * '.'}] 45%, compiling, 2 of 4 graphs done, 12:34\x1b[K"
    assert lines[1].endswith(", 1:02:34\x1b[K")


@pytest.mark.slow
def test_another_configuration_is_compiled_beside_and_its_differences_are_named(config, capsys):
    assert compile_it(config) == 0
    assert compile_it(config, "--batch-size", "2") == 0
    assert "neuron.batch_size is 4 there and 2 here" in capsys.readouterr().out
    assert len(made(config)) == 2


def test_without_a_folder_of_their_own_artifacts_lie_in_the_checkpoint(config):
    config.write_text("\n".join(line for line in config.read_text().splitlines() if "compiled_artifacts" not in line))
    assert compile_it(config) == 0
    assert len(list((config.parent / "model" / "neuron-compiled-artifacts").iterdir())) == 1
    assert compile_it(config) == 0, "they must not make the checkpoint another one"


# --- NEURON_COMPILED_ARTIFACTS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["not there", "empty"])
def test_the_variable_names_the_artifact_itself(config, monkeypatch, state, capsys):
    folder = config.parent / "mine"
    if state == "empty":
        folder.mkdir()
    monkeypatch.setenv("NEURON_COMPILED_ARTIFACTS", str(folder))
    assert compile_it(config) == 0
    assert (folder / "model.pt").is_file()
    assert not made(config)
    assert compile_it(config) == 0
    assert "before" in capsys.readouterr().out


def test_an_artifact_of_other_inputs_is_refused_even_when_the_variable_names_it(config, monkeypatch, capsys):
    monkeypatch.setenv("NEURON_COMPILED_ARTIFACTS", str(config.parent / "mine"))
    assert compile_it(config) == 0
    before = sorted((f, f.stat().st_mtime_ns) for f in (config.parent / "mine").rglob("*"))
    line = refused(capsys, config, "--seq-len", "512", "--token-generation-buckets", "512")
    assert "neuron.seq_len is 256 there and 512 here" in line
    assert "NEURON_COMPILED_ARTIFACTS" in line
    assert sorted((f, f.stat().st_mtime_ns) for f in (config.parent / "mine").rglob("*")) == before


def test_an_artifact_without_a_manifest_is_refused(config, monkeypatch, capsys):
    """Such as vLLM's."""
    folder = config.parent / "mine"
    monkeypatch.setenv("NEURON_COMPILED_ARTIFACTS", str(folder))
    assert compile_it(config) == 0
    (folder / "compiled-from.json").unlink()
    assert "does not say what it was compiled from" in refused(capsys, config)
    (folder / "compiled-from.json").write_text('{"made_of": 1, "files": {}}')
    assert "does not say what it was compiled from" in refused(capsys, config)
    assert (folder / "model.pt").is_file()


# --- what is not trusted -------------------------------------------------------------------------------------------------


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def swap_case(file: Path) -> None:
    file.write_text(file.read_text().swapcase())


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("model.pt", Path.unlink, "model.pt is missing"),
        ("model.pt", shorten, "model.pt is not the file that was written"),
        ("neuron_config.json", swap_case, "neuron_config.json is not the file"),
        ("weights/tp0_sharded_checkpoint.safetensors", Path.unlink, "tp0_sharded_checkpoint.safetensors is missing"),
    ],
)
def test_a_damaged_artifact_is_refused(config, capsys, name, damage, words):
    assert compile_it(config) == 0
    (folder,) = made(config)
    damage(folder / name)
    line = refused(capsys, config)
    assert words in line
    assert "remove that folder" in line
    shutil.rmtree(folder)
    assert compile_it(config) == 0


@pytest.mark.slow
def test_an_artifact_in_the_folder_of_another_is_refused(config, capsys):
    assert compile_it(config) == 0
    (folder,) = made(config)
    content = json.loads((folder / "compiled-from.json").read_text())
    content["made_of"]["neuron"]["seq_len"] = 1
    (folder / "compiled-from.json").write_text(json.dumps(content))
    assert "neuron.seq_len is 1 there and 256 here" in refused(capsys, config)


# --- failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "words", "logged"),
    [
        ("fail", "RuntimeError: neuronx-cc failed with 70)", True),
        ("exit", "ended with exit code 3", True),
        ("killed", "The system killed the compiler, as it does when the memory of the machine is used up", True),
        ("compiler-killed", "The system killed the compiler, as it does when the memory of the machine is used up", True),
        ("full", "The disk filled up", False),
        ("no-room", "The disk filled up", False),
    ],
)
def test_a_failure_is_one_sentence_and_leaves_nothing_but_its_log(config, capsys, monkeypatch, how, words, logged):
    monkeypatch.setenv("FAKE_COMPILE", how)
    line = refused(capsys, config)
    assert words in line
    log = Path(f"{wanted(config).location.folder}.log")
    assert made(config) == ([log] if logged else [])
    if logged:
        assert str(log) in line
        assert "Starting compilation for all HLOs" in log.read_text()
        monkeypatch.delenv("FAKE_COMPILE")
        assert compile_it(config) == 0
        assert not log.exists()
    else:
        assert not (config.parent / "artifacts").exists(), "it was made for this alone"


def test_an_sdk_that_does_not_import_is_one_sentence(config, capsys, monkeypatch):
    broken = config.parent / "broken" / "neuronx_distributed_inference"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import torch_neuronx")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(broken.parent), os.environ["PYTHONPATH"]]))
    line = refused(capsys, config)
    assert "torch_neuronx" in line
    assert "cannot be imported" in line
    assert not made(config)


def test_a_disk_that_is_too_small_is_reported_before_anything_is_written(config, capsys, monkeypatch):
    usage = SimpleNamespace(free=10**6)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    line = refused(capsys, config)
    assert "0.0 GB are free" in line
    assert not (config.parent / "artifacts").exists()
    assert wanted(config).bytes > 2 * 2**20


def test_a_failure_on_a_full_disk_is_reported_as_a_full_disk(tmp_path, monkeypatch):
    free = SimpleNamespace(free=compile_worker.FULL_DISK_BYTES - 1)
    assert not compile_worker._full_disk(RuntimeError("neuronx-cc failed with 70"), tmp_path)
    monkeypatch.setattr(compile_worker.shutil, "disk_usage", lambda folder: free)
    assert compile_worker._full_disk(RuntimeError("neuronx-cc failed with 70"), tmp_path)


def test_a_disk_that_fills_up_at_the_end_leaves_nothing(config, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "tokenizer.json")

    monkeypatch.setattr(artifacts.shutil, "copyfile", full)
    assert "is full" in refused(capsys, config)
    assert not (config.parent / "artifacts").exists()


def test_a_mount_point_is_refused_before_the_compilation(config, capsys, monkeypatch):
    monkeypatch.setenv("NEURON_COMPILED_ARTIFACTS", str(config.parent / "mine"))
    monkeypatch.setattr(Path, "is_mount", lambda self: self.name == "mine")
    assert "is a mount point" in refused(capsys, config)
    assert not list(config.parent.glob("mine*"))


def test_a_folder_that_cannot_be_written_is_named(config, capsys):
    (config.parent / "file").write_text("")
    line = refused(capsys, config, "--compiled-artifacts", str(config.parent / "file" / "below"))
    assert str(config.parent / "file" / "below") in line
    assert "--compiled-artifacts" in line


@pytest.mark.parametrize(("release", "refused_"), [("0.3.5591", True), ("0.4.7422", False)])
def test_fused_weights_need_a_release_that_can_make_them(config, capsys, monkeypatch, release, refused_):
    monkeypatch.setattr(fingerprint_module, "_version", lambda package: release if package.endswith("inference") else None)
    if refused_:
        assert f"NxD Inference {release} cannot make the fused weights" in refused(capsys, config, "--fused-qkv", "true")
    else:
        assert compile_it(config, "--fused-qkv", "true") == 0
    assert compile_it(config) == 0


@pytest.mark.parametrize(("value", "code"), [("1", 0), ("2", 2), ("", 0)])
def test_a_variable_that_changes_the_logical_cores_is_refused(config, capsys, monkeypatch, value, code):
    """NxDI takes it before its configuration."""
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", value)
    assert compile_it(config) == code
    if code:
        assert "NEURON_LOGICAL_NC_CONFIG is 2, but this configuration counts" in capsys.readouterr().err


def test_a_model_that_cannot_fit_is_refused_before_the_compilation(config, capsys, monkeypatch):
    monkeypatch.setattr(module, "core_memory", lambda *_: CoreMemory(15 * GIB, 2 * GIB, 0, 0, 0, 16 * GIB))
    assert "weights and caches alone are 17.0 GiB" in refused(capsys, config)
    assert not made(config)


def test_without_the_sdk_it_says_what_is_needed(config, capsys, monkeypatch):
    monkeypatch.undo()
    assert refused(capsys, config) == f"mllama-demo: {NO_SDK}"
    assert not made(config)


@pytest.mark.parametrize("here", ["inf2.48xlarge", "trn1n.32xlarge", "m5.large"])
def test_a_configuration_for_another_family_of_chips_is_refused(config, capsys, monkeypatch, here):
    be_an_instance(monkeypatch, config.parent, here)
    if here != "inf2.48xlarge":
        assert compile_it(config) == 0
    else:
        assert "set instance_type to inf2.48xlarge" in refused(capsys, config)
        assert not made(config)


def test_a_configuration_for_more_cores_than_this_instance_has_is_refused(tmp_path, monkeypatch):
    be_an_instance(monkeypatch, tmp_path, "trn1.2xlarge")
    check_instance("trn1.32xlarge", 2)
    with pytest.raises(ConfigError, match=r"trn1\.2xlarge, has 2 NeuronCores"):
        check_instance("trn1.32xlarge", 4)


def test_compile_refuses_the_same_bad_input_as_serve(config, capsys):
    folder = config.parent / "model"
    assert "does not exist" in refused(capsys, config, "--model-path", str(folder / "no"))
    assert "--dryrun" in refused(capsys, config, "--dryrun")
    shorten(folder / "model.safetensors")
    assert "model.safetensors is cut off" in refused(capsys, config)
    assert not made(config)
