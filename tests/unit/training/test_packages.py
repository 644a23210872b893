"""The packages that pictures are made of come in one call of npm, once."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from training.packages import EMOJI, FONTS, PHOTOS, PackageError, fetch, fetch_all


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run. They leave the archives that npm and pip leave."""
    ran: list[list[str]] = []

    def run(command: list[str], cwd: Path, **_: object) -> SimpleNamespace:
        ran.append(command)
        for word in command:
            if word.startswith("@"):
                (cwd / f"{word[1:].replace('/', '-').replace('@', '-')}.tgz").touch()
            elif "==" in word:
                (cwd / f"{word.replace('-', '_').replace('==', '-')}-cp311-abi3-any.whl").touch()
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", run)
    return ran


def test_one_npm_and_one_pip_fetch_all_that_is_missing(tmp_path, commands):
    everything = (*EMOJI, *FONTS, *PHOTOS)
    twemoji = fetch(EMOJI[0], tmp_path)
    assert twemoji.name == "iconify-json-twemoji-1.2.5.tgz"
    fetch_all(everything, tmp_path)
    fetch_all(everything, tmp_path)
    first, npm, pip = commands
    assert first == ["npm", "pack", "--silent", "@iconify-json/twemoji@1.2.5"]
    assert len(npm) == 3 + len(EMOJI) + len(FONTS) - 1
    assert pip[-2:] == ["scikit-image==0.26.0", "scikit-learn==1.9.1"]
    assert len({fetch(package, tmp_path) for package in everything}) == len(everything)
    assert len(commands) == 3


def test_a_command_that_fails_names_what_it_was_to_fetch(tmp_path, monkeypatch, commands):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stderr="E404\n"))
    with pytest.raises(PackageError, match=r"^@expo-google-fonts/lato@0.4.1 could not be fetched: E404$"):
        fetch(FONTS[2], tmp_path)


def test_without_npm_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(PackageError, match=r"install Node\.js"):
        fetch(EMOJI[0], tmp_path)
