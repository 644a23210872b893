"""A hub on loopback, and the command `download` that is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from mllama_demo.checkpoint.download import transfer
from mllama_demo.cli import main
from tests.support.hub_server import NAME, Hub, hub_server


@pytest.fixture
def hub(embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, as huggingface_hub and the program in this process see it. No token, and an empty cache in tmp_path."""
    with hub_server(NAME, embedded) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(transfer, "PAUSE_S", 0.01)
        monkeypatch.chdir(tmp_path)
        yield server
        forget_sessions()


def forget_sessions() -> None:
    """Before 1.0, huggingface_hub decides when it makes a session whether it is offline."""
    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `download`, which must end with one sentence and exit code 2. Returns the sentence."""

    def run(*options: str, name: str = NAME) -> str:
        assert main(["download", name, *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("mllama-demo: ")
        return error.removeprefix("mllama-demo: ").strip()

    return run
