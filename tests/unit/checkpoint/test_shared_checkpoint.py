"""A machine without the weights of a checkpoint, which starts a compiled model from S3. The S3 is moto's server, over HTTP."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from mllama_demo.backends import make_backend
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint.compilation import lease
from mllama_demo.checkpoint.compilation.shared_checkpoint import _write
from mllama_demo.checkpoint.doctor import DoctorContext
from mllama_demo.checkpoint.doctor_artifacts import artifacts
from mllama_demo.checkpoint.doctor_checks import checkpoint as checkpoint_check
from mllama_demo.checkpoint.machine import Machine
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.checkpoint.weights_identity import FILE
from mllama_demo.config.settings import Settings
from mllama_demo.engine.neuron.runner import NeuronRunner
from mllama_demo.errors import CheckpointError
from tests.support.neuron_fakes import have_devices
from tests.support.scripted_runner import ScriptedRunner
from tests.support.shared_models import OPTIONS, URL, compile_on, keys, made
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
RECORD = "llama/checkpoints/model.json"


@pytest.fixture
def empty(tmp_path):
    """empty(name): where the checkpoint of another machine would be, which has the same folder name and nothing else."""
    return lambda name: tmp_path / name / "model"


@pytest.fixture
def compiled(s3, instance) -> Path:
    """The checkpoint of a machine that has compiled and shared it."""
    model = instance("first")
    assert compile_on(model) == 0
    return model


def without_weights(model: Path) -> Path:
    for file in model.glob("*.safetensors"):
        file.unlink()
    return model


def record(s3: Any) -> dict[str, Any]:
    return json.loads(s3.get_object(Bucket="models", Key=RECORD)["Body"].read())


def test_a_machine_with_nothing_fetches_small_files_and_the_compiled_model(compiled, empty, monkeypatch, capsys):
    second = empty("second")
    monkeypatch.setenv("FAKE_COMPILE", "fail")
    assert compile_on(second) == 0
    [folder], [fetched] = made(compiled), made(second)
    assert fetched.name == folder.name
    small = {file.name for file in second.iterdir() if file.is_file()}
    assert small == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} | small
    assert FILE in small
    assert not list(second.glob("*.safetensors"))
    for name in small - {FILE}:
        assert (second / name).read_bytes() == (compiled / name).read_bytes()
    assert compile_on(second) == 0, "the second time, all is there"


def test_a_server_without_weights_loads_the_fetched_model(compiled, empty, s3, tmp_path, monkeypatch):
    have_devices(monkeypatch, tmp_path)
    loaded: list[Path] = []

    def load(folder: Path, image_token_id: int) -> ScriptedRunner:
        loaded.append(folder)
        return ScriptedRunner(slots=4)

    monkeypatch.setattr(NeuronRunner, "load", load)
    second = empty("second")
    backend, tokenizer = make_backend(Settings(backend="neuron", model_path=second, compiled_artifacts=URL, **OPTIONS))
    backend.start()
    try:
        wait_until(lambda: loaded, "the model is loaded", 60)
    finally:
        backend.close()
    assert loaded == made(second)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.decode(tokenizer.encode("a dog")) == "a dog"


@pytest.mark.parametrize("index", [False, True])
def test_small_files_that_are_there_are_kept(compiled, instance, index):
    second = without_weights(instance("second"))
    if index:  # a download of all but the weights has it
        (second / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    before = {file.name: file.stat().st_mtime_ns for file in second.iterdir()}
    assert compile_on(second) == 0
    assert {name: (second / name).stat().st_mtime_ns for name in before} == before


def refusal(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_small_files_of_another_checkpoint_are_refused(compiled, instance, capsys):
    second = without_weights(instance("second"))
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps({**config, "fine_tuned": True}))
    capsys.readouterr()
    assert compile_on(second) == 2
    assert f"{second / 'config.json'} is not that of the checkpoint model in {URL}" in refusal(capsys)
    assert not (second / FILE).exists()
    assert made(second) == []


def test_a_configuration_that_nobody_compiled_is_refused(compiled, empty, capsys):
    second = empty("second")
    capsys.readouterr()
    assert compile_on(second, "--batch-size", "2") == 2
    assert "The weights of model are not on this machine, and neither" in refusal(capsys)
    assert made(second) == []


def test_a_machine_without_weights_waits_for_one_that_compiles(compiled, empty, s3, monkeypatch, capsys):
    monkeypatch.setattr(lease, "POLL_S", 0.02)
    monkeypatch.setattr(lease, "EXPIRY_S", 0.3)
    [folder] = made(compiled)
    s3.delete_object(Bucket="models", Key=next(key for key in keys(s3) if key.endswith("compiled-from.json")))
    s3.put_object(Bucket="models", Key=f"llama/{folder.name}/compiling.json", Body=b"{}")
    capsys.readouterr()
    assert compile_on(empty("second")) == 2
    captured = capsys.readouterr()
    assert "Another machine compiles the same model" in captured.out
    assert "are not on this machine" in captured.err


def test_a_model_that_is_shared_just_before_its_lease_is_gone_is_fetched(compiled, empty, s3, monkeypatch):
    manifest = next(key for key in keys(s3) if key.endswith("compiled-from.json"))
    body = s3.get_object(Bucket="models", Key=manifest)["Body"].read()
    s3.delete_object(Bucket="models", Key=manifest)
    held_elsewhere = lease.Lease.held_elsewhere

    def shared_meanwhile(self: lease.Lease) -> bool:
        s3.put_object(Bucket="models", Key=manifest, Body=body)
        return held_elsewhere(self)

    monkeypatch.setattr(lease.Lease, "held_elsewhere", shared_meanwhile)
    second = empty("second")
    assert compile_on(second) == 0
    assert [folder.name for folder in made(second)] == [folder.name for folder in made(compiled)]


def test_the_doctor_says_that_another_machine_compiles(compiled, empty, s3, tmp_path):
    [folder] = made(compiled)
    s3.delete_object(Bucket="models", Key=next(key for key in keys(s3) if key.endswith("compiled-from.json")))
    s3.put_object(Bucket="models", Key=f"llama/{folder.name}/compiling.json", Body=b"{}")
    settings = Settings(backend="neuron", model_path=empty("second"), compiled_artifacts=URL, **OPTIONS)
    found = {finding.check: finding for finding in artifacts(DoctorContext(Machine(tmp_path, {}, {}), settings))}
    assert found["shared artifacts"].status == "warn"
    assert "another machine compiles it" in found["shared artifacts"].text


def test_a_damaged_record_does_not_fail_the_machine_that_compiled(s3, instance, capsys):
    s3.put_object(Bucket="models", Key=RECORD, Body=b"no JSON")
    first = instance("first")
    assert compile_on(first) == 0
    out = capsys.readouterr().out
    assert f"Not everything is shared: {URL}/checkpoints/model.json does not describe a checkpoint; remove it." in out
    assert len(made(first)) == 1


def test_a_relative_path_of_two_parts_is_looked_up_in_s3(compiled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    second = Path("models/model")  # written like the id of a repository, whose first part is a folder
    second.parent.mkdir()
    assert compile_on(second) == 0
    assert [folder.name for folder in made(second)] == [folder.name for folder in made(compiled)]


def test_a_repository_that_the_cache_lacks_starts_from_s3_and_leaves_the_working_folder_alone(
    compiled, tmp_path, monkeypatch, capsys
):
    (here := tmp_path / "here").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("FAKE_COMPILE", "fail")
    for _ in range(2):
        assert compile_on(Path("meta-llama/model")) == 0
    assert "there is nothing to do" in capsys.readouterr().out
    [snapshot] = (tmp_path / "hub" / "models--meta-llama--model" / "snapshots").iterdir()
    assert [folder.name for folder in made(snapshot)] == [folder.name for folder in made(compiled)]
    assert (snapshot / FILE).is_file()
    assert list(here.iterdir()) == []
    assert huggingface_hub.scan_cache_dir(tmp_path / "hub").warnings == []


def test_a_repository_that_is_nowhere_is_refused_with_both_places(s3, instance, tmp_path, monkeypatch, capsys):
    instance("first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert compile_on(Path("meta-llama/unknown")) == 2
    error = refusal(capsys)
    assert "meta-llama/unknown is neither a folder nor in the cache of the Hugging Face hub" in error
    assert f"{URL} has no checkpoint named unknown either." in error


def test_a_snapshot_of_the_hub_is_shared_and_found_by_the_name_of_its_model(compiled, instance, s3, tmp_path):
    hub = tmp_path / "hub" / "models--org--fine"
    snapshot = hub / "snapshots" / ("1" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.move(instance("hub-machine"), snapshot)
    assert compile_on(snapshot) == 0
    assert "llama/checkpoints/fine.json" in keys(s3, "llama/checkpoints/")
    shutil.rmtree(snapshot / "neuron-compiled-artifacts")
    assert compile_on(without_weights(snapshot)) == 0, "a snapshot without weights has the same name"
    assert compile_on(tmp_path / "second" / "fine") == 0, "and so has a folder"


def test_machines_that_fill_one_folder_at_once_do_not_share_a_temporary_file(tmp_path, monkeypatch):
    replace, file = Path.replace, tmp_path / "config.json"
    other: list[bool] = []

    def later(part: Path, target: Path) -> Path:
        """Before the file of the first machine is in its place, a second one, of the same process id, writes it whole."""
        if not other:
            other.append(True)
            _write(file, b"{}")
        return replace(part, target)

    monkeypatch.setattr(Path, "replace", later)
    _write(file, b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert file.read_bytes() == b"{}"


def test_a_name_that_s3_does_not_know_is_refused(s3, instance, tmp_path, capsys):
    instance("first")
    path = tmp_path / "second" / "unknown"
    assert compile_on(path) == 2
    error = refusal(capsys)
    assert f"The checkpoint folder {path} does not exist" in error
    assert f"{URL} has no checkpoint named unknown either." in error


def test_other_weights_of_the_same_name_are_not_mixed_up(compiled, instance, empty, s3, capsys):
    """A fine-tuned model of the same name is shared as a compiled model, and needs its weights."""
    before = record(s3)
    second = instance("second")
    file = second / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-100:] = bytes(100)
    file.write_bytes(data)
    capsys.readouterr()
    assert compile_on(second) == 0
    out = capsys.readouterr().out
    assert "Sharing" in out
    assert f"{URL} has another checkpoint of the name model, so that other machines cannot load this one" in out
    assert record(s3) == before
    third = empty("third")
    assert compile_on(third) == 0
    assert [folder.name for folder in made(third)] == [folder.name for folder in made(compiled)]


def test_weights_that_are_there_come_before_the_identity(compiled, empty, instance):
    second = empty("second")
    assert compile_on(second) == 0
    assert check_checkpoint(second, weights_needed=False).identity is not None
    shutil.copyfile(compiled / "model.safetensors", second / "model.safetensors")
    info, original = check_checkpoint(second, weights_needed=False), check_checkpoint(compiled)
    assert info.identity is None
    assert (info.parameters, info.bytes, info.dtype) == (original.parameters, original.bytes, original.dtype)


def test_the_identity_describes_the_checkpoint_as_the_weights_do(compiled, empty):
    second = empty("second")
    assert compile_on(second) == 0
    info, original = check_checkpoint(second, weights_needed=False), check_checkpoint(compiled)
    names = ("parameters", "bytes", "dtype", "weight_files", "image_token_id", "eos_token_ids")
    assert [getattr(info, name) for name in names] == [getattr(original, name) for name in names]
    with pytest.raises(CheckpointError, match="has no weights"):  # other backends need them
        check_checkpoint(second)


def test_dry_run_and_doctor_leave_nothing_behind(compiled, empty, tmp_path, capsys):
    second = empty("second")
    assert compile_on(second, "--dry-run") == 0
    assert not second.exists()
    assert str(second) in capsys.readouterr().out
    settings = Settings(backend="neuron", model_path=second, compiled_artifacts=URL, **OPTIONS)
    context = DoctorContext(Machine(tmp_path, {}, {}), settings)
    [finding] = checkpoint_check(context)
    assert finding.status == "ok"
    assert "whose weights are not here; a compiled model has them; a start fetches the small files" in finding.text
    found = {finding.check: finding.text for finding in artifacts(context)}
    assert found["shared artifacts"] == f"{URL} has it, and a start fetches it"
    assert not second.exists()
    other = DoctorContext(Machine(tmp_path, {}, {}), settings.model_copy(update={"batch_size": 2}))
    finding = next(finding for finding in artifacts(other) if finding.check == "shared artifacts")
    assert (finding.status, finding.text) == ("fail", f"{URL} lacks it, and the weights to compile it from are not here")


@pytest.mark.parametrize(
    "body",
    [b"no JSON", b"[]", b"{}", b'{"files": {"../evil": "0"}, "weights": {}}', b'{"files": {}, "weights": {"files": 5}}'],
)
def test_a_record_that_describes_no_checkpoint_is_refused(s3, empty, instance, body, capsys):
    instance("first")
    s3.put_object(Bucket="models", Key=RECORD, Body=body)
    second = empty("second")
    assert compile_on(second) == 2
    assert f"{URL}/checkpoints/model.json does not" in refusal(capsys)
    assert not second.exists()


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_small_file_that_is_damaged_in_s3_is_refused(compiled, empty, s3, damage, capsys):
    key = f"llama/checkpoints/{record(s3)['files']['tokenizer.json']}"
    if damage == "missing":
        s3.delete_object(Bucket="models", Key=key)
    else:
        s3.put_object(Bucket="models", Key=key, Body=b"{}")
    capsys.readouterr()
    second = empty("second")
    assert compile_on(second) == 2
    assert "tokenizer.json of" in refusal(capsys)
    assert not (second / FILE).exists()


def test_a_folder_that_cannot_be_written_to_is_one_sentence(compiled, tmp_path, capsys):
    (tmp_path / "file").touch()
    capsys.readouterr()
    assert compile_on(tmp_path / "file" / "model") == 2
    assert "cannot be written" in refusal(capsys)
