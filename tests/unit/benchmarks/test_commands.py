"""The one entry point of the benchmarks."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as entry
from benchmarks import record
from tests.support.paths import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], capture_output=True, text=True, cwd=ROOT)


def test_every_module_of_the_folder_is_a_benchmark_with_a_main_function() -> None:
    parts = {
        "__init__",
        "__main__",
        "device_profile",
        "machine_speed",
        "raw_stream",
        "record",
        "recording_device",
    }  # of several benchmarks
    modules = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - parts
    assert {module for module, _ in entry.BENCHMARKS.values()} == modules
    for module in modules:
        tree = ast.parse((ROOT / "benchmarks" / f"{module}.py").read_text())
        assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, module


def test_the_list_and_an_unknown_name() -> None:
    listed = run()
    assert listed.returncode == 0
    assert all(f"  {name} " in listed.stdout for name in entry.BENCHMARKS)
    unknown = run("speed")
    assert unknown.returncode == 2
    assert "'speed' is no benchmark" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_options_are_those_of_the_benchmark() -> None:
    shown = run("serve", "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: python -m benchmarks serve")
    assert "--temperature" in shown.stdout


def test_a_record_says_what_was_measured_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks serve", "--rounds", "1"])
    record.write(tmp_path / "figures.json", {"step": [1.5, 2]})
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["figures"] == {"step": [1.5, 2]}
    assert written["command"] == ["python -m benchmarks serve", "--rounds", "1"]
    assert written["machine"]["cores"] >= 1
    assert {"cpu", "memory", "system"} <= set(written["machine"])
    assert {"python", "torch", "transformers", "gradio"} <= set(written["versions"])
    assert written["date"].endswith("+00:00")
    record.write(None, {})
