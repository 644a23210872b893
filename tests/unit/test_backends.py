# pyright: reportAttributeAccessIssue=false
"""Backend neuron as the factory makes it: what it promises, what it refuses at once, and that it compiles before it loads."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.backends import make_backend, make_served_backend
from mllama_demo.backends.ray import _without_secrets, deploy
from mllama_demo.chat.conversation import Conversation, Message
from mllama_demo.chat.prompt import build_prompt
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.checkpoint.compilation import compile as compile_module
from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.cli import main
from mllama_demo.config.neuron import OnDeviceSampling
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.neuron.runner import NeuronRunner
from mllama_demo.engine.process.backend import ProcessBackend
from mllama_demo.errors import ConfigError, PromptTooLong, cause_of
from tests.support.neuron_fakes import be_an_instance, have_devices, install_sdk
from tests.support.scripted_runner import ScriptedRunner

pytestmark = pytest.mark.timeout(180)
PATIENCE_S = 90


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the SDK and a device."""
    install_sdk(monkeypatch)
    be_an_instance(monkeypatch, tmp_path, "trn1.32xlarge")
    have_devices(monkeypatch, tmp_path)
    monkeypatch.setattr(compile_job, "TICK_S", 0.05)
    monkeypatch.setattr(compile_module, "GRAPH_DISK_BYTES", 2**20)
    return tmp_path


def settings(folder: Path, **options: Any) -> Settings:
    defaults = {"backend": "neuron", "tensor_parallel_size": 1, "seq_len": 256, "context_encoding_buckets": [64, 128]}
    defaults |= {"token_generation_buckets": [256], "compiled_artifacts": folder / "artifacts"}
    return Settings(**defaults | options)


class Loaded(ScriptedRunner):
    """asked: what was prefilled."""

    def __init__(self) -> None:
        super().__init__(slots=4)
        self.asked: list[GenerationRequest] = []

    def begin(self, slot: int, request: GenerationRequest) -> int:
        self.asked.append(request)
        return super().begin(slot, request)


# --- what it promises ----------------------------------------------------------------------------------------------------


def test_sampling_on_the_device_tells_no_probabilities_and_chooses_among_few(machine):
    backend, _ = make_backend(settings(machine, on_device_sampling_config=OnDeviceSampling(global_topk=32)))
    info = backend.info
    assert info.capabilities == {"images", "continue"}
    assert info.max_top_k == 32
    assert (info.name, info.device, info.slots, info.context_length) == ("neuron", "trn1.32xlarge, 1 NeuronCores", 4, 256)
    assert (info.full_canvas, info.max_prompt) == (True, 128)


def test_sampling_on_the_host_tells_probabilities_and_repeats_by_a_seed(machine):
    backend, _ = make_backend(settings(machine, on_device_sampling_config=None))
    assert backend.info.capabilities == {"images", "seed", "probabilities", "continue"}
    assert backend.info.max_top_k is None


def test_the_torch_backend_is_as_it_was(embedded):
    info = make_backend(Settings(seq_len=256))[0].info
    assert info.capabilities == {"images", "seed", "probabilities", "continue", "fork"}
    assert (info.name, info.max_top_k, info.max_prompt, info.full_canvas) == ("torch", None, None, False)


def test_a_prompt_is_cut_to_what_the_model_was_compiled_to_read(tokenizer):
    turns = tuple(Message("assistant" if turn % 2 else "user", "Tell me more about the picture. " * 3) for turn in range(9))
    free = build_prompt(Conversation(turns), tokenizer, context_length=4096, max_tokens=8)
    most = len(free.token_ids) // 2
    cut = build_prompt(Conversation(turns), tokenizer, context_length=4096, max_tokens=8, max_prompt=most)
    assert free.dropped == 0 < cut.dropped
    assert len(cut.token_ids) <= most
    with pytest.raises(PromptTooLong, match="the model reads 10 at most"):
        build_prompt(Conversation(turns), tokenizer, context_length=4096, max_tokens=8, max_prompt=10)


def test_a_remote_server_needs_no_checkpoint_and_brings_an_estimate(tmp_path):
    chosen = Settings(backend="openai", model_path=tmp_path / "nowhere", remote_model="llama", seq_len=512)
    backend, estimate = make_backend(chosen)
    assert isinstance(estimate, TokenEstimate)
    assert (backend.info.name, backend.info.model, backend.info.context_length) == ("openai", "llama", 512)
    assert backend.status().state == "loading"
    backend.close()


# --- what it refuses at once ---------------------------------------------------------------------------------------------


def test_without_the_sdk_it_says_what_to_install(tmp_path):
    with pytest.raises(ConfigError, match="neuronx-distributed-inference"):
        make_backend(settings(tmp_path))


def test_without_a_device_it_does_not_compile_for_an_hour(machine):
    shutil.rmtree(machine / "dev")
    with pytest.raises(ConfigError, match="no Neuron device"):
        make_backend(settings(machine))


def test_more_cores_than_the_machine_shows_are_refused_with_the_number_that_works(machine):
    shutil.rmtree(machine / "dev")
    (machine / "dev").mkdir()
    for number in range(4):
        (machine / f"dev/neuron{number}").touch()
    with pytest.raises(ConfigError, match=r"is 16, but this machine shows 8 NeuronCores .*set tensor_parallel_size to 8 or less"):
        make_backend(settings(machine, tensor_parallel_size=16))


def test_more_cores_than_the_instance_has_are_refused_with_what_to_set(machine, monkeypatch):
    be_an_instance(monkeypatch, machine, "trn1.2xlarge")
    with pytest.raises(ConfigError, match=r"set instance_type to trn1\.2xlarge and tensor_parallel_size to 2 or less"):
        make_backend(settings(machine, tensor_parallel_size=16))


@pytest.mark.parametrize("version", ["0.1.1", "0.2.0", "0.3.5591+f7ee2b31"])
def test_a_release_that_reads_sampling_params_by_slot_is_refused(machine, monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(ConfigError, match=r"raises IndexError; use SDK 2\.24 \(NxD Inference 0\.4\) or later"):
        make_backend(settings(machine))


def test_on_other_chips_it_does_not_start(machine, monkeypatch):
    be_an_instance(monkeypatch, machine, "inf2.48xlarge")
    with pytest.raises(ConfigError, match=r"set instance_type to inf2\.48xlarge"):
        make_backend(settings(machine))


# --- compiling, then loading ---------------------------------------------------------------------------------------------


def brought_up(chosen: Settings, monkeypatch: pytest.MonkeyPatch) -> tuple[str | None, list[str], list[Path], Loaded]:
    """Why it went down (None: it is ready), what it told meanwhile, what was loaded, and the runner."""
    ended, reason, told, loads, runner = threading.Event(), [], [], [], Loaded()

    def load(artifacts: Path, image_token_id: int) -> Loaded:
        loads.append(artifacts)
        return runner

    monkeypatch.setattr(NeuronRunner, "load", load)

    def down(why: str) -> None:
        reason.append(cause_of(why))
        ended.set()

    backend, _ = make_backend(chosen, on_ready=ended.set, on_down=down)
    tell = backend._progress
    monkeypatch.setattr(backend, "_progress", lambda detail: (told.append(detail), tell(detail)))
    backend.start()
    try:
        assert ended.wait(PATIENCE_S)
    finally:
        backend.close()
    return (reason[0] if reason else None), told, loads, runner


def test_it_compiles_tells_how_far_it_is_loads_and_warms_up(machine, monkeypatch):
    why, told, loads, runner = brought_up(settings(machine), monkeypatch)
    assert why is None
    assert told[0] == "looking for the compiled model"
    assert any(detail.startswith("compiling it first, 0%, starting the Neuron SDK, 00:0") for detail in told)
    assert told[-2:] == ["loading the compiled model", "warming up"]
    assert loads == [folder for folder in (machine / "artifacts").iterdir() if folder.is_dir()]
    assert (loads[0] / "model.pt").is_file()
    assert [request.image is not None for request in runner.asked] == [True]
    assert [call.method for call in runner.calls] == ["begin", "read_piece", "decode", "release"]

    monkeypatch.setenv("FAKE_COMPILE", "fail")
    why, told, again, _ = brought_up(settings(machine), monkeypatch)
    assert (why, again) == (None, loads), "compiled once is enough"
    assert not any("compiling" in detail for detail in told)


def test_a_compilation_that_fails_is_why_it_is_down(machine, monkeypatch):
    monkeypatch.setenv("FAKE_COMPILE", "fail")
    why, _, loads, _ = brought_up(settings(machine), monkeypatch)
    assert why is not None
    assert "neuronx-cc failed with 70" in why
    assert loads == []


def test_the_neuron_runner_is_held_to_the_settings(machine, monkeypatch):
    """A compiled folder that is named must be of these settings."""
    monkeypatch.setenv("NEURON_COMPILED_ARTIFACTS", str(machine / "mine"))
    assert brought_up(settings(machine), monkeypatch)[0] is None
    why, _, loads, _ = brought_up(settings(machine, batch_size=2), monkeypatch)
    assert why is not None
    assert "neuron.batch_size is 4 there and 2 here" in why
    assert loads == []


# --- the process of the model --------------------------------------------------------------------------------------------


def test_the_output_of_a_process_on_a_neuron_device_is_searched_for_errors_of_the_runtime(machine, embedded) -> None:
    served, _ = make_served_backend(settings(machine, model_path=embedded))
    assert isinstance(served, ProcessBackend)
    assert served._explain is not None
    assert "stop the instance" in (served._explain("Failure: NRT_EXEC_HW_ERR_NC_UE in nrt_execute()") or "")
    elsewhere, _ = make_served_backend(Settings(model_path=embedded))
    assert isinstance(elsewhere, ProcessBackend)
    assert elsewhere._explain is None


def test_a_replica_on_a_cluster_gets_no_secret_of_the_web_process():
    secrets = {
        "api_keys": ["key-of-a-program-1234"],
        "admin_key": "key-of-the-operator",
        "remote_api_key": "key-of-a-server",
        "database_url": "postgresql://demo:password-of-the-database@db/demo",
        "limits_storage": "redis://:password-of-redis@127.0.0.1:6379",
    }
    settings = Settings.model_validate(secrets)
    sent = pickle.dumps(_without_secrets(settings))
    for word in (b"key-of", b"password-of"):
        assert word in pickle.dumps(settings)
        assert word not in sent


def test_without_the_package_ray_both_halves_name_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for start in (
        lambda: deploy(Settings(), wait_for_machines=False),
        lambda: make_served_backend(Settings(backend="ray")),
    ):
        with pytest.raises(
            ConfigError, match=r"needs the package ray, which is not installed; install it with: pip install 'ray"
        ):
            start()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed; pip install 'ray[serve]'")
def test_a_checkpoint_without_its_tokenizer_is_named_before_a_cluster_is_asked(tmp_path: Path, capsys: Any) -> None:
    options = ["--backend", "torch", "--model-path", str(tmp_path), "--ray-address", "127.0.0.1:1"]  # where nobody answers
    assert main(["ray-deploy", *options]) == 2
    assert f"The tokenizer {tmp_path / 'tokenizer.json'} cannot be read: No such file or directory." in capsys.readouterr().err
