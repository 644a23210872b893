"""The command `download` against a hub on loopback: what it fetches, and how it resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from mllama_demo.checkpoint.download import transfer
from mllama_demo.checkpoint.download.destination import PARTIAL, RECORD
from mllama_demo.cli import main
from mllama_demo.runtime.process import exclusive_lock
from tests.support.hub_server import COMMIT, NAME, NEEDED, OTHER_COMMIT, WEIGHTS, cached, hub_server, snapshot
from tests.support.paths import ROOT
from tests.support.program import clean_environment
from tests.support.waiting import PATIENCE_S, wait_until

# --- what is fetched -----------------------------------------------------------------------------------------------------


def test_only_the_needed_files_come_into_the_cache_that_other_programs_read(hub, embedded, tmp_path, capsys):
    assert main(["download", NAME]) == 0
    assert set(hub.fetched()) == NEEDED
    folder = snapshot(tmp_path)
    assert {path.name for path in folder.iterdir()} == NEEDED | {RECORD}
    for name in NEEDED:
        assert (folder / name).is_symlink()
        assert (folder / name).read_bytes() == (embedded / name).read_bytes()
    found = huggingface_hub.snapshot_download(NAME, cache_dir=tmp_path / "hub", local_files_only=True)
    assert Path(found) == folder
    scanned = huggingface_hub.scan_cache_dir(tmp_path / "hub")
    assert not scanned.warnings
    assert [repo.repo_id for repo in scanned.repos] == [NAME]

    printed = capsys.readouterr().out
    assert f"{NAME}, revision main, is commit {COMMIT}." in printed
    assert "every tensor in its place" in printed
    assert printed.splitlines()[-1] == f"Serve it: python app.py --model-path {NAME}"
    record = json.loads((folder / RECORD).read_bytes())
    assert (record["repository"], record["revision"], record["commit"]) == (NAME, "main", COMMIT)
    assert set(record["files"]) == NEEDED


def test_huggingface_hub_itself_agrees_with_the_digests_of_the_cache(hub, tmp_path, monkeypatch):
    """Its own download of the same commit finds every blob under the name that it expects, and fetches nothing."""
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, huggingface_hub.file_download):  # the latter before 1.0
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    assert main(["download", NAME]) == 0
    shutil.rmtree(snapshot(tmp_path))
    hub.seen.clear()
    for name in NEEDED:
        huggingface_hub.hf_hub_download(NAME, name, revision=COMMIT, cache_dir=tmp_path / "hub")
    assert {request.method for request in hub.seen if "/resolve/" in request.path} == {"HEAD"}
    assert hub.fetched() == []
    assert {path.name for path in snapshot(tmp_path).iterdir()} == NEEDED


def test_the_downloaded_checkpoint_answers_by_the_name_of_its_repository(hub, tmp_path, capsys):
    assert main(["download", NAME]) == 0
    hub.seen.clear()
    (tmp_path / "batch.jsonl").write_text(json.dumps({"prompt": "What is 2 + 2?", "max_tokens": 8, "temperature": 0}) + "\n")
    options = ["--model-path", NAME, "--device", "cpu", "--threads", "1", "--data-dir", str(tmp_path / "data")]
    assert main(["offline", "batch.jsonl", "--output", "answers.jsonl", *options]) == 0
    answer = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])
    assert answer["answer"]
    assert hub.seen == []


def test_a_second_download_into_the_cache_fetches_nothing(hub, capsys):
    assert main(["download", NAME]) == 0
    hub.seen.clear()
    assert main(["download", NAME]) == 0
    assert hub.fetched() == []
    assert "Every file is there already." in capsys.readouterr().out


def test_another_revision_shares_the_blobs_and_is_served_by_its_folder(hub, tmp_path, capsys):
    hub.revisions["fine-tuned"] = OTHER_COMMIT
    assert main(["download", NAME]) == 0
    hub.seen.clear()
    assert main(["download", NAME, "--revision", "fine-tuned"]) == 0
    assert hub.fetched() == []
    folder = snapshot(tmp_path, OTHER_COMMIT)
    assert capsys.readouterr().out.splitlines()[-1] == f"Serve it: python app.py --model-path {folder}"
    assert (cached(tmp_path) / "refs" / "fine-tuned").read_text() == OTHER_COMMIT


def test_of_two_revisions_without_main_the_downloaded_one_is_served_by_its_folder(hub, tmp_path, capsys):
    hub.revisions["fine-tuned"] = OTHER_COMMIT
    for commit in (COMMIT, OTHER_COMMIT):
        assert main(["download", NAME, "--revision", commit]) == 0
    assert not (cached(tmp_path) / "refs" / "main").exists()
    folder = snapshot(tmp_path, OTHER_COMMIT)
    assert capsys.readouterr().out.splitlines()[-1] == f"Serve it: python app.py --model-path {folder}"


# --- into a folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_gets_the_files_and_a_second_download_does_nothing(hub, embedded, tmp_path, capsys):
    assert main(["download", NAME, "--to", "model"]) == 0
    folder = tmp_path / "model"
    assert {path.name for path in folder.iterdir()} == NEEDED | {RECORD}
    assert (folder / WEIGHTS).read_bytes() == (embedded / WEIGHTS).read_bytes()
    assert json.loads((folder / RECORD).read_bytes())["commit"] == COMMIT
    assert capsys.readouterr().out.splitlines()[-1] == "Serve it: python app.py --model-path model"
    assert not (tmp_path / "hub").exists()

    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != RECORD}
    hub.seen.clear()
    assert main(["download", NAME, "--to", "model"]) == 0
    assert hub.fetched() == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name != RECORD} == written


def test_equal_files_that_another_program_fetched_are_kept(hub, embedded, tmp_path):
    shutil.copytree(embedded, tmp_path / "model")
    assert main(["download", NAME, "--to", "model"]) == 0
    assert hub.fetched() == []


def test_a_new_revision_replaces_the_files_that_differ(hub, tmp_path):
    assert main(["download", NAME, "--to", "model"]) == 0
    hub.revisions["main"] = OTHER_COMMIT
    hub.files["generation_config.json"] += b"\n"
    hub.seen.clear()
    assert main(["download", NAME, "--to", "model"]) == 0
    assert hub.fetched() == ["generation_config.json"]
    assert json.loads((tmp_path / "model" / RECORD).read_bytes())["commit"] == OTHER_COMMIT


def test_a_file_of_the_user_is_never_overwritten(hub, tmp_path, refused):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("mine")
    assert refused("--to", "model") == (
        f"model/config.json is there already and is not that of {NAME}; name another folder with --to."
    )
    assert (tmp_path / "model" / "config.json").read_text() == "mine"


def test_a_folder_of_another_repository_is_refused(hub, tmp_path, refused):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / RECORD).write_text(json.dumps({"repository": "meta-llama/Other"}))
    assert refused("--to", "model") == "model holds meta-llama/Other already; name another folder with --to."


def test_a_folder_that_cannot_be_made_is_refused(hub, tmp_path, refused):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("--to", "file/model")


def test_one_download_at_a_time_writes_to_a_folder(hub, tmp_path, refused):
    (tmp_path / "model").mkdir()
    with exclusive_lock(tmp_path / "model", "The test"):
        assert refused("--to", "model") == "Another download is writing to model; wait until it has ended."


# --- interruptions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [(), ("--to", "model")], ids=["cache", "folder"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_download_resumes_in_the_middle_of_a_file(how, to, embedded, tmp_path):
    half = 5 << 20
    command = [sys.executable, "-m", "mllama_demo", "download", NAME, *to]
    with hub_server(NAME, embedded) as hub:
        hub.pause_after = half
        environment = {**clean_environment(tmp_path), "HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, preexec_fn=default, **pipes)
        try:
            root = tmp_path / "model" if to else tmp_path / ".cache/huggingface/hub/models--meta-llama--Tiny-Vision/blobs"
            wait_until(
                lambda: any(transfer.partial_bytes(part) >= half for part in root.glob("*" + PARTIAL)),
                "half of the weights has come",
            )
            process.send_signal(how)
            _, error = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        assert process.returncode == 130, error
        assert error == "mllama-demo: The download was interrupted; the same command resumes it.\n"

        hub.pause_after = None
        hub.resume.set()
        again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
        assert again.returncode == 0, again.stderr
        assert "5.4 MB are there already." in again.stdout
        assert hub.ranges(WEIGHTS) == [None, f"bytes={half}-"]
        made = tmp_path / "model" / WEIGHTS if to else root / hashlib.sha256(hub.files[WEIGHTS]).hexdigest()
        assert made.read_bytes() == hub.files[WEIGHTS]
        assert not list(root.glob("*" + PARTIAL))


def test_a_connection_that_breaks_off_is_continued(hub, tmp_path):
    hub.break_after, hub.resets = 3 << 20, 2
    assert main(["download", NAME]) == 0
    assert hub.ranges(WEIGHTS) == [None, f"bytes={3 << 20}-", f"bytes={6 << 20}-"]
    assert (snapshot(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_connection_that_always_breaks_off_ends_with_a_sentence_and_keeps_the_part(hub, tmp_path, refused):
    hub.break_after = 0
    blobs = cached(tmp_path) / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / (hashlib.sha256(hub.files[WEIGHTS]).hexdigest() + PARTIAL)
    partial.write_bytes(hub.files[WEIGHTS][: 1 << 20])
    assert refused() == (
        f"The connection breaks off at 1,048,576 of the 10,238,938 bytes of {WEIGHTS}; run the command again, and it resumes "
        "there."
    )
    assert hub.ranges(WEIGHTS) == [f"bytes={1 << 20}-"] * transfer.ATTEMPTS
    assert partial.stat().st_size == 1 << 20
    assert not snapshot(tmp_path).exists()


def test_a_server_that_ignores_ranges_sends_the_whole_file_again(hub, tmp_path):
    hub.break_after, hub.resets, hub.ignore_range = 3 << 20, 1, True
    assert main(["download", NAME]) == 0
    assert (snapshot(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_a_part_that_was_damaged_on_the_disk_is_fetched_again(hub, tmp_path):
    blobs = cached(tmp_path) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / (hashlib.sha256(hub.files[WEIGHTS]).hexdigest() + PARTIAL)).write_bytes(bytes(1 << 20))
    assert main(["download", NAME]) == 0
    assert hub.ranges(WEIGHTS) == [f"bytes={1 << 20}-", None]
    assert (snapshot(tmp_path) / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_weights_with_another_checksum_are_refused(hub, tmp_path, refused):
    hub.damage = True
    assert refused() == f"{WEIGHTS} arrives damaged: its checksum is not that of the hub; run the command again."
    assert len(hub.ranges(WEIGHTS)) == 1
    assert not snapshot(tmp_path).exists()
