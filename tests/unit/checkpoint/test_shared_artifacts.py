"""Compiled models in S3: one machine compiles, others fetch. The S3 is moto's server, over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.backends import make_backend
from mllama_demo.checkpoint.compilation.artifacts import MANIFEST
from mllama_demo.checkpoint.compilation.shared_artifacts import SharedArtifacts
from mllama_demo.checkpoint.doctor_artifacts import artifacts
from mllama_demo.checkpoint.findings import DoctorContext
from mllama_demo.checkpoint.machine import Machine
from mllama_demo.config.settings import Settings
from mllama_demo.engine.neuron.runner import NeuronRunner
from mllama_demo.errors import ConfigError
from tests.support.neuron_fakes import have_devices
from tests.support.scripted_runner import ScriptedRunner
from tests.support.shared_models import OPTIONS, URL, compile_on, keys, made, upload_of
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_the_second_machine_fetches_what_the_first_has_compiled(s3, instance, monkeypatch, capsys):
    first, second = instance("first"), instance("second")
    assert compile_on(first) == 0
    [folder] = made(first)
    assert f"Sharing the compiled model in {URL}/{folder.name}" in capsys.readouterr().out
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    upload = upload_of(s3, folder.name)
    beside = {f"llama/{folder.name}/{MANIFEST}", f"llama/{folder.name}/compiling.json"}
    assert set(keys(s3)) == beside | {f"llama/{folder.name}/{upload}/{name}" for name in files - {MANIFEST}}
    assert {"weights/tp0_sharded_checkpoint.safetensors", "weights/tp1_sharded_checkpoint.safetensors"} <= files
    monkeypatch.setenv("FAKE_COMPILE", "fail")  # nothing can be compiled from now on
    assert compile_on(second) == 0
    out = capsys.readouterr().out
    assert f"Fetching the compiled model from {URL}/{folder.name}" in out
    assert "Compiling" not in out
    [fetched] = made(second)
    assert {file: (fetched / file).read_bytes() for file in files} == {file: (folder / file).read_bytes() for file in files}
    before = keys(s3)
    assert compile_on(second) == 0
    assert keys(s3) == before


def test_what_is_compiled_already_is_shared_by_the_command(s3, instance):
    model = instance("first")
    assert compile_on(model, url=str(model / "neuron-compiled-artifacts")) == 0
    assert keys(s3) == []
    assert compile_on(model) == 0
    assert any(key.endswith(MANIFEST) for key in keys(s3))


def test_another_configuration_and_an_upload_that_was_not_finished_are_not_fetched(s3, instance, capsys):
    first, second = instance("first"), instance("second")
    assert compile_on(first) == 0
    assert compile_on(second, "--batch-size", "2") == 0
    assert "Fetching" not in capsys.readouterr().out
    [folder] = made(first)
    s3.delete_object(Bucket="models", Key=f"llama/{folder.name}/{MANIFEST}")
    assert compile_on(instance("third")) == 0
    out = capsys.readouterr().out
    assert "Fetching" not in out
    assert "Sharing" in out


def test_a_shared_model_that_is_damaged_is_refused_and_leaves_nothing(s3, instance, capsys):
    first, second = instance("first"), instance("second")
    assert compile_on(first) == 0
    [folder] = made(first)
    s3.put_object(Bucket="models", Key=f"llama/{folder.name}/{upload_of(s3, folder.name)}/model.pt", Body=b"something else")
    capsys.readouterr()
    assert compile_on(second) == 2
    error = capsys.readouterr().err
    assert f"{URL}/{folder.name} is damaged (model.pt is not the file that was written)" in error
    assert made(second) == []
    assert f"remove {URL}/{folder.name}/{MANIFEST}, and the next start compiles it anew and shares it" in error
    s3.delete_object(Bucket="models", Key=f"llama/{folder.name}/{MANIFEST}")  # as it says
    assert compile_on(second) == 0
    assert "Fetching" not in capsys.readouterr().out
    assert compile_on(instance("third")) == 0
    assert "Fetching" in capsys.readouterr().out


def artifact(folder: Path, **files: str) -> Path:
    """A folder with files and their manifest."""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    content = {"made_of": {}, "files": {name: {"bytes": len(text)} for name, text in files.items()}}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")
    return folder


def fetched(folder: Path) -> dict[str, str]:
    folder.mkdir()
    SharedArtifacts(URL).fetch("abc", folder, lambda done, total: None)
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_two_machines_that_upload_the_same_model_at_once_do_not_mix_their_files(s3, tmp_path):
    slow = artifact(tmp_path / "slow", graph="of the slow one", log="the slow one")
    fast = artifact(tmp_path / "fast", graph="of the fast one", log="the fast one")
    told: list[bool] = []

    def in_between(done: int, total: int) -> None:
        """After the first bytes of the slow machine, the fast one uploads everything."""
        if not told:
            told.append(True)
            told.append(SharedArtifacts(URL).store("abc", fast, lambda done, total: None))

    assert SharedArtifacts(URL).store("abc", slow, in_between) is False
    assert told == [True, True]
    assert fetched(tmp_path / "third") == {file.name: file.read_text() for file in fast.iterdir()}
    assert len(keys(s3)) == 3, "the files of the slow one are removed"


@pytest.mark.parametrize("kind", ["a store", "a boto3"])
def test_without_conditional_writes_an_artifact_is_shared_all_the_same(s3, tmp_path, kind):
    shared = SharedArtifacts(URL)
    botocore_http: Any = pytest.importorskip("botocore.awsrequest")
    botocore_errors: Any = pytest.importorskip("botocore.exceptions")
    body = b"<Error><Code>NotImplemented</Code><Message>If-None-Match</Message></Error>"

    class Raw:
        def stream(self, *arguments: Any, **options: Any) -> Iterator[bytes]:
            yield body

    def refuse(request: Any, **rest: Any) -> Any:
        if "If-None-Match" in request.headers:
            return botocore_http.AWSResponse(request.url, 501, {"Content-Type": "application/xml"}, Raw())
        return None

    def not_known(params: Any, **rest: Any) -> None:
        if "IfNoneMatch" in params:
            raise botocore_errors.ParamValidationError(report="Unknown parameter in input: IfNoneMatch")

    name, handler = (
        ("before-send.s3.PutObject", refuse) if kind == "a store" else ("before-parameter-build.s3.PutObject", not_known)
    )
    shared._client.meta.events.register(name, handler)
    source = artifact(tmp_path / "source", graph="graph")
    assert shared.store("abc", source, lambda done, total: None) is True
    assert fetched(tmp_path / "target")["graph"] == "graph"


def test_an_upload_that_fails_leaves_no_files(s3, tmp_path):
    source = artifact(tmp_path / "source", a="a", b="b")
    (source / "b").unlink()
    with pytest.raises(OSError, match="No such file"):
        SharedArtifacts(URL).store("abc", source, lambda done, total: None)
    assert keys(s3) == []


def test_a_server_shares_what_it_has_compiled_after_it_is_ready(s3, instance, tmp_path, monkeypatch):
    have_devices(monkeypatch, tmp_path)
    model = instance("first")
    settings = Settings(backend="neuron", model_path=model, compiled_artifacts=URL, **OPTIONS)
    stored: list[list[str]] = []

    def load(folder: Path, image_token_id: int) -> ScriptedRunner:
        stored.append(keys(s3))
        return ScriptedRunner(slots=4)

    monkeypatch.setattr(NeuronRunner, "load", load)
    backend, _ = make_backend(settings, on_ready=lambda: stored.append(keys(s3)))
    backend.start()
    try:
        wait_until(lambda: any(key.endswith(MANIFEST) for key in keys(s3)), "the model is shared", 60)
    finally:
        backend.close()
    [folder] = made(model)
    assert stored == 2 * [[f"llama/{folder.name}/compiling.json"]], "nothing is uploaded before the model is ready"
    lease = SharedArtifacts(URL)
    wait_until(lambda: b"released" in (lease.read(f"{folder.name}/compiling.json") or (b"",))[0], "the lease is given back", 60)


@pytest.mark.parametrize("upload", [None, "../evil", 5])
def test_a_manifest_that_names_no_upload_is_refused(s3, tmp_path, upload):
    content = {"made_of": {}, "files": {}, "upload": upload}
    s3.put_object(Bucket="models", Key=f"llama/abc/{MANIFEST}", Body=json.dumps(content).encode())
    with pytest.raises(ConfigError, match="does not name the folder of its files"):
        SharedArtifacts(URL).fetch("abc", tmp_path, lambda done, total: None)


@pytest.mark.parametrize("name", ["../../evil", "/evil"])
def test_a_manifest_that_names_a_file_outside_of_the_artifact_is_refused(s3, tmp_path, name):
    content = {"made_of": {}, "files": {name: {"bytes": 4}}, "upload": 32 * "0"}
    s3.put_object(Bucket="models", Key=f"llama/abc/{MANIFEST}", Body=json.dumps(content).encode())
    s3.put_object(Bucket="models", Key=f"llama/abc/{name}", Body=b"evil")
    with pytest.raises(ConfigError, match="outside of the artifact"):
        SharedArtifacts(URL).fetch("abc", tmp_path, lambda done, total: None)
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_counted_to_the_end(s3, tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    sizes = {"a": 3_000_000, "b": 10, "c": 0}
    for name, size in sizes.items():
        (source / name).write_bytes(b"x" * size)
    files = {name: {"bytes": size} for name, size in sizes.items()}
    (source / MANIFEST).write_text(json.dumps({"made_of": {}, "files": files}))
    for transfer, folder in ((SharedArtifacts(URL).store, source), (SharedArtifacts("s3://models/llama/").fetch, target)):
        told: list[tuple[int, int]] = []
        transfer("abc", folder, lambda done, total, told=told: told.append((done, total)))
        assert told[-1] == (3_000_010, 3_000_010)
        assert told == sorted(told)
    assert (target / "a").read_bytes() == (source / "a").read_bytes()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x cannot be used: there is no bucket no-such-bucket."),
        ("s3://UPPER/x", "a path or s3://BUCKET/FOLDER"),
        ("s3://", "a path or s3://BUCKET/FOLDER"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence(s3, instance, capsys, url, words):
    model = instance("first")
    assert compile_on(model, url=url) == 2
    error = capsys.readouterr().err
    assert made(model) == []
    assert words in error.splitlines()[-1]
    assert "Traceback" not in error


def test_an_s3_that_does_not_answer_is_one_sentence_before_anything_is_compiled(s3, instance, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    model = instance("first")
    assert compile_on(model) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{URL} cannot be used: Could not connect" in error
    assert made(model) == []


def test_the_doctor_says_whether_s3_has_the_model(s3, instance, tmp_path):
    model = instance("first")

    def found() -> dict[str, tuple[str, str]]:
        settings = Settings(backend="neuron", model_path=model, compiled_artifacts=URL, **OPTIONS)
        context = DoctorContext(Machine(tmp_path, {}, {}), settings)
        return {finding.check: (finding.status, finding.text) for finding in artifacts(context)}

    assert found()["shared artifacts"] == ("ok", f"{URL} lacks it, and gets what is compiled here")
    assert compile_on(model) == 0
    assert found().keys() == {"artifacts"}
    shutil.rmtree(model / "neuron-compiled-artifacts")
    assert found()["shared artifacts"] == ("ok", f"{URL} has it, and a start fetches it")
