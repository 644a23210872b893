"""The change of the code that the tutorial asks for works."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def test_the_added_line_is_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ *\(?Preset\(.*$", tutorial, re.MULTILINE)
    source = (ROOT / "mllama_demo" / "sampling.py").read_text(encoding="utf-8")
    changed = tmp_path / "changed_sampling.py"
    changed.write_text(re.sub(r"(\nPRESETS(?:.*\n)*?)\)\n", rf"\1{line}\n)\n", source, count=1), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(changed.stem, changed)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, changed.stem, module)
    spec.loader.exec_module(module)
    assert [preset.name for preset in module.PRESETS][-1] == "Steady"
