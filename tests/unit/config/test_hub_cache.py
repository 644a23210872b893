"""Finding a checkpoint in the cache of the hub: which folder a name means, and that everything reads through its links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mllama_demo.checkpoint.compilation.fingerprint import compilation_inputs
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.cli import main
from mllama_demo.config.hub_cache import cache_folder, find_checkpoint
from mllama_demo.config.loader import load_settings
from mllama_demo.errors import CheckpointError
from tests.support.paths import ROOT

NAME = "meta-llama/Llama-3.2-11B-Vision-Instruct"
FOLDER = "models--meta-llama--Llama-3.2-11B-Vision-Instruct"
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and an empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def store(cache: Path, commit: str, source: Path, main: bool = False) -> Path:
    """A snapshot of the files of a folder, with links into blobs/ as the hub's cache has them."""
    folder = cache / FOLDER / "snapshots" / commit
    blobs = cache / FOLDER / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir(exist_ok=True)
    for number, file in enumerate(sorted(source.iterdir())):
        blob = blobs / f"{number:040x}"
        if not blob.exists():
            blob.write_bytes(file.read_bytes())
        (folder / file.name).symlink_to(f"../../blobs/{blob.name}")
    if main:
        (cache / FOLDER / "refs").mkdir(exist_ok=True)
        (cache / FOLDER / "refs" / "main").write_text(commit)
    return folder


# --- the place of the cache --------------------------------------------------------------------------------------------------

VARIABLES = [
    {},
    {"HF_HOME": "/models/hf"},
    {"HF_HOME": "~/hf"},
    {"XDG_CACHE_HOME": "/var/cache"},
    {"HF_HUB_CACHE": "$HOME/hub", "HF_HOME": "/models/hf"},
    {"HUGGINGFACE_HUB_CACHE": "/old/hub"},
]


@pytest.mark.parametrize("variables", VARIABLES, ids=lambda variables: "+".join(variables) or "none")
def test_the_cache_is_where_huggingface_hub_has_it(variables, tmp_path):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **variables}
    root = Path(__file__).parents[3]
    code = (
        "import huggingface_hub.constants as c, mllama_demo.config.hub_cache as h; print(c.HF_HUB_CACHE); print(h.cache_folder())"
    )
    printed = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    theirs, ours = printed.stdout.splitlines()
    assert Path(ours) == Path(theirs)


def test_the_cache_follows_the_given_environment():
    assert cache_folder({"HF_HUB_CACHE": "/a"}) == Path("/a")


# --- which folder a name means ------------------------------------------------------------------------------------------------


def test_a_repository_id_means_the_snapshot_of_main(cache, embedded):
    store(cache, FIRST, embedded)
    snapshot = store(cache, SECOND, embedded, main=True)
    assert find_checkpoint(Path(NAME)) == snapshot
    assert load_settings(["--model-path", NAME]).model_path == snapshot


def test_a_repository_id_means_the_only_snapshot(cache, embedded):
    snapshot = store(cache, FIRST, embedded)
    assert find_checkpoint(Path(NAME)) == snapshot


def test_a_folder_of_the_cache_means_its_snapshot(cache, embedded):
    snapshot = store(cache, FIRST, embedded, main=True)
    assert find_checkpoint(cache / FOLDER) == snapshot
    assert find_checkpoint(snapshot) == snapshot


def test_several_snapshots_without_main_are_named(cache, embedded):
    store(cache, FIRST, embedded)
    store(cache, SECOND, embedded)
    with pytest.raises(CheckpointError) as caught:
        load_settings(["--model-path", NAME])
    assert str(caught.value) == (
        f"{cache / FOLDER} has 2 snapshots ({FIRST}, {SECOND}), none of them of main; set model_path to one."
    )


def test_a_download_wins_over_the_small_files_of_a_compiled_model(cache, embedded):
    small = store(cache, "small-files", embedded)
    assert find_checkpoint(Path(NAME)) == small
    snapshot = store(cache, FIRST, embedded)
    assert find_checkpoint(Path(NAME)) == snapshot


@pytest.mark.parametrize("kind", ["id", "snapshot"])
def test_a_repository_tells_the_size_of_its_model_by_its_name(cache, kind, capsys):
    """Its snapshots have commits for names."""
    name = NAME if kind == "id" else str(cache / FOLDER / "snapshots" / FIRST)
    assert main(["plan", "--config", str(ROOT / "configs" / "trn1-11b.yaml"), "--model-path", name]) == 0
    assert "the published 11B model" in capsys.readouterr().out


def test_a_local_folder_of_that_name_wins(cache, embedded):
    store(cache, FIRST, embedded, main=True)
    Path(NAME).mkdir(parents=True)
    assert find_checkpoint(Path(NAME)) == Path(NAME)


def test_what_is_not_in_the_cache_is_left_alone_and_the_check_names_the_download(cache, capsys):
    assert find_checkpoint(Path(NAME)) == Path(NAME)
    with pytest.raises(CheckpointError) as caught:
        check_checkpoint(load_settings(["--model-path", NAME]).model_path)
    assert str(caught.value) == (
        f"{NAME} is neither a folder nor in the cache of the Hugging Face hub; `python -m mllama_demo download {NAME}` gets it."
    )


def test_plan_needs_no_download(cache, capsys):
    assert main(["plan", "--model-path", NAME, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"]


# --- reading through the links ----------------------------------------------------------------------------------------------


def test_a_snapshot_is_checked_and_compiled_as_the_folder_is(cache, embedded):
    snapshot = store(cache, FIRST, embedded, main=True)
    found, plain = check_checkpoint(snapshot), check_checkpoint(embedded)
    assert found.name == "Llama-3.2-11B-Vision-Instruct"
    assert found.path == snapshot.resolve()
    assert (found.bytes, found.parameters, found.weight_files) == (plain.bytes, plain.parameters, plain.weight_files)
    values = {"batch_size": 1}
    assert compilation_inputs(found, values, "trn1.32xlarge") == compilation_inputs(plain, values, "trn1.32xlarge")


def test_the_doctor_reads_a_snapshot(cache, embedded, capsys):
    store(cache, FIRST, embedded, main=True)
    main(["doctor", "--model-path", NAME, "--json"])
    findings = {finding["check"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["checkpoint"]["status"] == "ok"
    assert findings["checkpoint"]["text"].startswith("Llama-3.2-11B-Vision-Instruct: ")
