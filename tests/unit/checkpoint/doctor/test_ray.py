"""The doctor for backend ray: whether the cluster's head answers and the tokenizer is here. No weights are needed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mllama_demo.checkpoint.doctor import examine
from mllama_demo.checkpoint.machine import Machine, this_machine
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT, Settings


@pytest.fixture
def machine() -> Machine:
    return this_machine(("gradio",))


def found(machine: Machine, **options: object) -> dict[str, tuple[str, str]]:
    return {one.check: (one.status, one.text) for one in examine(machine, Settings.model_validate({"backend": "ray", **options}))}


def test_a_cluster_that_answers_and_a_tokenizer_without_weights_are_enough(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((EMBEDDED_CHECKPOINT / "tokenizer.json").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        findings = found(machine, ray_address=address, model_path=tmp_path)
    assert findings["ray cluster"] == ("ok", f"{address} answers")
    assert findings["tokenizer"][0] == "ok"
    assert "in replicas on a Ray cluster" in findings["neuron devices"][1]
    assert "checkpoint" not in findings


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:9", "No Ray cluster answers at 127.0.0.1:9"), ("nowhere", "must be host:port"), ("host:", "must be host:port")],
)
def test_a_cluster_that_does_not_answer_fails(machine: Machine, address: str, words: str) -> None:
    status, text = found(machine, ray_address=address)["ray cluster"]
    assert status == "fail"
    assert words in text


def test_a_missing_package_is_named_with_its_remedy(machine: Machine) -> None:
    (packages,) = [one for one in examine(machine, Settings(backend="ray")) if one.check == "packages"]
    assert (packages.status, packages.text, packages.remedy) == (
        "fail",
        "ray not installed in this environment",
        "pip install 'ray[serve]'",
    )


def test_a_folder_without_a_tokenizer_fails(machine: Machine, tmp_path: Path) -> None:
    assert found(machine, model_path=tmp_path)["tokenizer"][0] == "fail"
