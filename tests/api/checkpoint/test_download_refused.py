"""The command `download` that cannot do its work: what it says, and what it never tells to whom."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from huggingface_hub import constants

from mllama_demo.checkpoint.download.destination import PARTIAL, RECORD
from mllama_demo.cli import main
from tests.api.checkpoint.conftest import forget_sessions
from tests.support.hub_server import NAME, TOKEN, WEIGHTS, cached, snapshot

# --- refusals ----------------------------------------------------------------------------------------------------------------


def test_a_gated_repository_without_a_token(hub, refused):
    hub.gated = True
    assert refused() == (
        f"{NAME} is gated and no token was found; accept its licence on {hub.url}/{NAME}, then set HF_TOKEN to a token from "
        "https://huggingface.co/settings/tokens, or log in with `hf auth login`."
    )
    assert WEIGHTS not in hub.fetched()


def test_a_gated_repository_whose_licence_was_not_accepted(hub, refused, monkeypatch):
    hub.gated, hub.approved = True, False
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert refused() == (
        f"The account of your token has no access to {NAME}; accept its licence on {hub.url}/{NAME}, wait until access is "
        "granted, and run the command again."
    )


def test_an_unknown_repository(hub, refused, monkeypatch):
    start = f"There is no repository meta-llama/Nothing on {hub.url}; check the name, or, if it is private, "
    assert refused(name="meta-llama/Nothing").startswith(start + "set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert refused(name="meta-llama/Nothing") == start + "give a token that may read it."


def test_an_unknown_revision(hub, refused):
    assert refused("--revision", "v9") == (
        f"{NAME} has no revision 'v9'; give a branch, tag or commit of {hub.url}/{NAME}, or leave --revision out."
    )


def test_a_token_that_the_hub_does_not_know(hub, refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongButSecret")
    sentence = refused()
    assert sentence.startswith("The hub refuses your token; set HF_TOKEN to a token from")
    assert "hf_wrongButSecret" not in sentence


def test_a_token_that_was_copied_with_an_ellipsis(hub, refused, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_…")
    assert refused().startswith("Your token has characters that no token has; set HF_TOKEN to a token from")
    assert hub.fetched() == []


def test_a_name_that_is_no_repository_id(hub, refused):
    assert refused(name="a b/c/d") == (
        "'a b/c/d' is no repository id; it is written like meta-llama/Llama-3.2-11B-Vision-Instruct."
    )
    assert hub.seen == []


def test_a_hub_that_is_out_of_order(hub, refused):
    hub.status = 500
    assert refused() == "The hub answers with status 500; run the command again later."
    hub.status = 429
    assert refused().startswith("The hub refuses more requests for now; wait some minutes")


def test_no_network(hub, refused, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert refused() == (
        "http://127.0.0.1:1 cannot be reached; check the network, the proxy and HF_ENDPOINT, and run the command again."
    )


def test_a_network_that_fails_between_the_list_and_the_weights(hub, refused, tmp_path):
    hub.cdn_url = "http://127.0.0.1:1"
    assert "cannot be reached" in refused()
    assert not snapshot(tmp_path).exists()


def test_offline_mode_forbids_the_download(hub, refused, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_sessions()
    assert refused() == "HF_HUB_OFFLINE is set, which forbids every download; unset it and run the command again."
    assert hub.seen == []


def test_the_weights_of_another_architecture_are_not_fetched(hub, refused):
    hub.files["config.json"] = json.dumps({"model_type": "llama"}).encode()
    assert refused() == (
        f"{NAME} is a model of type 'llama'; this demo needs 'mllama', as meta-llama/Llama-3.2-11B-Vision-Instruct is. Its "
        "weights were not fetched."
    )
    assert hub.fetched() == ["config.json"]


def test_a_repository_without_safetensors(hub, refused):
    del hub.files[WEIGHTS]
    assert refused().startswith(f"{NAME} has no config.json with *.safetensors beside it")


def test_a_checkpoint_that_is_not_complete_is_named_by_the_check(hub, refused):
    del hub.files["tokenizer.json"]
    assert "has no tokenizer.json" in refused()


# --- the disk ------------------------------------------------------------------------------------------------------------------


def test_a_disk_without_space_for_what_is_missing(hub, tmp_path, refused, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 4 * 10**6))
    folder = cached(tmp_path)
    assert refused() == (
        f"The download needs 10.4 MB on the disk of {folder}, where 4.0 MB are free; make room, or name a folder on another disk "
        "with --to."
    )
    assert hub.fetched() == []
    (folder / "blobs").mkdir()
    part = hub.files[WEIGHTS][: 8 << 20]
    (folder / "blobs" / (hashlib.sha256(hub.files[WEIGHTS]).hexdigest() + PARTIAL)).write_bytes(part)
    assert main(["download", NAME]) == 0  # 2 MB are missing


def test_a_disk_that_fills_up(hub, tmp_path, refused, monkeypatch):
    class FullDisk(io.FileIO):
        def write(self, data) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    real = Path.open

    def open_file(self, mode="r", *more, **options):
        full = self.name.startswith(WEIGHTS) and mode == "a+b"
        return FullDisk(self, "a+b") if full else real(self, mode, *more, **options)

    monkeypatch.setattr(Path, "open", open_file)
    assert refused("--to", "model") == "The disk of model is full; make room, run the command again, and it resumes."


# --- the token -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["HF_TOKEN", "stored"])
def test_the_token_goes_to_the_hub_alone_and_into_no_output(source, hub, tmp_path, monkeypatch, capfd):
    hub.gated = True
    if source == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        (tmp_path / "token").write_text(TOKEN + "\n")
    assert main(["download", NAME, "--to", "model"]) == 0
    for request in hub.seen:
        if request.server == "cdn":
            assert "authorization" not in request.headers
        elif "/resolve/" in request.path or "/models/" in request.path:
            assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert {request.server for request in hub.seen} == {"hub", "cdn"}
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err
    assert TOKEN not in (tmp_path / "model" / RECORD).read_text()


def test_a_password_in_netrc_does_not_replace_the_token(hub, tmp_path, monkeypatch):
    hub.gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert main(["download", NAME, "--to", "model"]) == 0
