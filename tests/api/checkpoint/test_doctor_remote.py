"""The doctor of a configuration whose engine is elsewhere: this program's own API, other servers, and vLLM's fork."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.checkpoint.doctor import examine
from mllama_demo.checkpoint.findings import Finding
from mllama_demo.cli import main
from mllama_demo.config.settings import Settings
from tests.support.described_machine import LAPTOP, LAPTOP_PACKAGES, TRN1, Described, by_name, write_checkpoint
from tests.support.local_servers import LMStudioServer, OllamaServer
from tests.support.openai_clients import KEY
from tests.support.program import Program, free_port

PACKAGES = {**LAPTOP_PACKAGES, "openai": "3.57.0"}
MACHINE = replace(LAPTOP, versions=PACKAGES)


@pytest.fixture
def diagnose(tmp_path):
    """diagnose(url, option=…): the findings of a configuration for the server at url."""

    def diagnose(url: str, machine: Described = MACHINE, **options: Any) -> dict[str, Finding]:
        settings = Settings(backend="openai", remote_url=url, **options)
        return by_name(examine(machine.build(tmp_path / "machine"), settings))

    return diagnose


def test_a_server_that_runs_this_program_is_described(server: Program, diagnose):
    found = diagnose(server.url)
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["remote server"].text == f"{server.url}/v1 answers; it is mllama_demo"
    assert found["model"].text == "embedded"
    assert found["context"].text == "2,048 tokens"
    assert found["at the same time"].text == "4 requests, the others wait here"
    assert found["ignored"].text == "nothing that the page has a control for"
    assert found["neuron devices"].text == "Neuron is absent here, and not needed: the model runs on the server at remote_url"
    assert found["packages"].text == "openai 3.57.0"
    assert not {"checkpoint", "host memory", "tokenizer", "artifacts"} & found.keys()


def test_the_key_is_needed_and_never_shown(api: Program, diagnose):
    assert diagnose(api.url, remote_api_key=KEY)["remote server"].status == "ok"
    refused = diagnose(api.url, remote_api_key="not-the-right-key")["remote server"]
    assert refused.status == "fail"
    assert "key" in refused.text
    assert "remote_api_key" in refused.remedy
    assert "not-the-right-key" not in refused.text + refused.remedy


def test_a_server_that_is_not_there_is_a_failure_with_its_address(diagnose):
    url = f"http://127.0.0.1:{free_port()}/v1"
    found = diagnose(url)["remote server"]
    assert found.status == "fail"
    assert url in found.text
    assert found.remedy.startswith("start it")


def test_a_name_that_the_server_does_not_list_is_a_warning(server: Program, diagnose):
    found = diagnose(server.url, remote_model="llama-4")["model"]
    assert (found.status, found.text) == ("warn", "llama-4")
    assert "lists embedded, and not llama-4" in found.remedy


def test_a_model_that_reads_no_images_and_values_without_effect_are_named(diagnose):
    server = OllamaServer("llama3:latest", vision=False, context_length=None)
    try:
        found = diagnose(server.url)
    finally:
        server.stop()
    assert found["remote server"].text.endswith("it is Ollama")
    assert (found["model"].status, found["model"].text) == ("warn", "llama3:latest, which reads no images")
    assert found["context"].status == "warn"
    assert found["at the same time"].text == "1 request, the others wait here"
    assert found["ignored"].text.startswith("no images; without effect: top_k (Ollama's OpenAI endpoint has no top_k")


def test_a_server_that_lacks_the_model_says_how_to_get_it(diagnose):
    server = LMStudioServer()
    try:
        found = diagnose(server.url, remote_kind="lm_studio")["remote server"]
    finally:
        server.stop()
    assert found.status == "fail"
    assert "download it in LM Studio" in found.text


def test_without_the_package_openai_nothing_is_asked(diagnose):
    found = diagnose("http://127.0.0.1:9/v1", replace(LAPTOP, versions=LAPTOP_PACKAGES))
    assert found["packages"].text == "openai not installed in this environment"
    assert found["remote server"].remedy == "pip install openai"


def test_the_command_asks_the_server_and_ends_with_its_exit_code(server: Program, capsys):
    assert main(["doctor", "--backend", "openai", "--remote-url", server.url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ready"], told["backend"]) == (True, "openai")
    assert main(["doctor", "--backend", "openai", "--remote-url", f"http://127.0.0.1:{free_port()}"]) == 2
    assert "Not ready: 1 thing must be put right." in capsys.readouterr().out


# --- vLLM ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def install_fork(tmp_path, monkeypatch):
    """install_fork(file, …): a package vllm with these files."""

    def install_fork(*files: str) -> None:
        monkeypatch.syspath_prepend(tmp_path / "site")
        for name in ("__init__.py", *files):
            (tmp_path / "site/vllm" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "site/vllm" / name).touch()

    return install_fork


def vllm_findings(tmp_path: Path, embedded: Path, machine: Described = TRN1, **options: Any) -> dict[str, Finding]:
    model = tmp_path / "Llama-3.2-90B-Vision-Instruct"
    if not model.exists():
        write_checkpoint(model, embedded, "90B")
    settings = Settings(backend="vllm", model_path=model, **options)
    return by_name(examine(machine.build(tmp_path / "machine"), settings))


@pytest.mark.parametrize(
    ("files", "status", "text"),
    [
        (None, "fail", "vLLM, which is not installed here"),
        ([], "fail", "cannot run Llama 3.2 Vision on Neuron"),
        (["worker/neuronx_distributed_model_runner.py"], "ok", "AWS's fork, based on vLLM 0.9"),
        (
            ["worker/neuronx_distributed_model_runner.py", "multimodal/neuron_multimodal_image_utils.py"],
            "ok",
            "AWS's fork, based on vLLM 0.6 or 0.7",
        ),
    ],
)
def test_the_fork_of_vllm_is_recognised(tmp_path, embedded, monkeypatch, install_fork, files, status, text):
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    if files is not None:
        install_fork(*files)
    finding = vllm_findings(tmp_path, embedded)["vllm"]
    assert finding.status == status
    assert text in finding.text


def test_devices_memory_and_disk_are_those_of_neuron_for_vllm(tmp_path, embedded, install_fork):
    install_fork("worker/neuronx_distributed_model_runner.py")
    found = vllm_findings(tmp_path, embedded, replace(TRN1, devices=8, disk_gb=50, memory_gb=100))
    assert found["neuron devices"].text == "8, with 16 NeuronCores, but tensor_parallel_size is 32"
    assert (found["host memory"].status, found["disk"].status, found["device memory"].status) == ("fail", "fail", "ok")
    assert found["artifacts"].status == "warn"
    assert "PyTorch" not in " ".join(finding.text for finding in found.values())
    folder = Path(found["artifacts"].text.removeprefix("nothing is compiled in "))
    folder.mkdir(parents=True)
    (folder / "model.pt").touch()
    again = vllm_findings(tmp_path, embedded)["artifacts"]
    assert (again.status, again.text) == (
        "ok",
        f"{folder} has something compiled, which vLLM loads without comparing it with this",
    )


def test_a_configuration_that_vllm_cannot_run_is_a_failure(tmp_path, embedded, install_fork):
    install_fork("worker/neuronx_distributed_model_runner.py")
    assert (
        "samples this model on the device only" in vllm_findings(tmp_path, embedded, on_device_sampling_config=None)["vllm"].text
    )
    shared = vllm_findings(tmp_path, embedded, compiled_artifacts="s3://bucket/folder")["artifacts"]
    assert (shared.status, shared.text) == (
        "fail",
        "compiled_artifacts is s3://bucket/folder, which vLLM cannot read; name a folder of this machine.",
    )
