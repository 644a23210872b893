"""Reads the files in deploy/."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from mllama_demo.config.settings import Settings
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"


def check_variables(names: Iterable[str]) -> None:
    """Every variable of the program is an option, or names the file with the options."""
    options = {f"MLLAMA_DEMO_{name.upper()}" for name in (*Settings.model_fields, "config")}
    assert {name for name in names if name.startswith("MLLAMA_DEMO_")} <= options


def unit_values(file: Path) -> dict[str, list[str]]:
    """The values of a unit of systemd, by key."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found
