"""A folder that holds a model in another layout is named for what it is, with the way on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.cli import main
from mllama_demo.config.loader import load_settings
from mllama_demo.errors import CheckpointError
from tests.support.program import free_port


def adapter(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "meta-llama/Llama-3.2-11B-Vision"}))


def broken_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[")


def gguf(folder: Path) -> None:
    (folder / "Llama-3.2-11B-Vision-Q4_K_M.gguf").write_bytes(b"GGUF")


def meta(folder: Path) -> None:
    (folder / "params.json").write_text("{}")
    (folder / "consolidated.00.pth").write_bytes(b"")


def folder_above(folder: Path) -> None:
    (folder / "checkpoint-200").mkdir()
    (folder / "checkpoint-200" / "config.json").write_text("{}")


def cache(folder: Path) -> None:
    (folder / "models--meta-llama--Llama-3.2-11B-Vision" / "snapshots").mkdir(parents=True)
    (folder / "models--org--other").mkdir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            adapter,
            "is an adapter (PEFT), which changes another model and holds no model; merge it into its base model, meta-llama/",
        ),
        (broken_adapter, "merge it into its base model, with PEFT's merge_and_unload"),
        (gguf, "holds a GGUF file (Llama-3.2-11B-Vision-Q4_K_M.gguf), which llama-server, Ollama and LM Studio read"),
        (meta, "is a checkpoint in Meta's layout; `python -m mllama_demo convert --input-dir"),
        (folder_above, "checkpoint-200 has one; set model_path to that folder."),
        (
            cache,
            "is a cache of the Hugging Face hub, with meta-llama/Llama-3.2-11B-Vision and 1 more; set model_path to the name",
        ),
    ],
)
def test_the_layout_is_named_with_the_way_on(tmp_path, make: Callable[[Path], None], said):
    make(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(load_settings(["--model-path", str(tmp_path)]).model_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert said in str(caught.value)


def test_a_gguf_file_itself_is_named(tmp_path):
    gguf(tmp_path)
    file = next(tmp_path.iterdir())
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(file)
    assert str(caught.value).startswith(f"{file} is a GGUF file, which llama-server, Ollama and LM Studio read")


def test_a_folder_of_the_hubs_cache_without_a_snapshot_leads_to_the_download(tmp_path):
    folder = tmp_path / "models--meta-llama--Llama-3.2-11B-Vision"
    (folder / "snapshots").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"`python -m mllama_demo download meta-llama/Llama-3.2-11B-Vision` gets it"):
        check_checkpoint(load_settings(["--model-path", str(folder)]).model_path)


@pytest.mark.parametrize("name", ["", "snapshots"])
def test_a_folder_of_the_hubs_cache_means_its_snapshot_from_inside_too(tmp_path, monkeypatch, embedded, name):
    folder = tmp_path / "models--org--small"
    snapshot = Path(shutil.copytree(embedded, folder / "snapshots" / "1234"))
    monkeypatch.chdir(folder / name)
    assert load_settings(["--model-path", "."]).model_path.resolve() == snapshot


def test_doctor_and_serve_end_with_the_sentence_and_exit_code_2(tmp_path, capsys):
    gguf(tmp_path)
    assert main(["doctor", "--model-path", str(tmp_path)]) == 2
    assert "GGUF" in capsys.readouterr().out
    assert main(["serve", "--port", str(free_port()), "--model-path", str(tmp_path)]) == 2
    assert "holds a GGUF file" in capsys.readouterr().err
