"""The guide in the documentation, the guide in the program and the configurations name the same commands."""

from __future__ import annotations

import re

import pytest

from mllama_demo.web.guide.routes import PROGRAMS, Program
from tests.support.paths import ROOT


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_guides_and_the_configuration_name_the_same_commands(program: Program) -> None:
    documented = (ROOT / "docs" / "laptop-model.md").read_text(encoding="utf-8")
    config = re.search(r"configs/[\w.-]+", program.commands[-1])
    assert config is not None
    in_config = (ROOT / config[0]).read_text(encoding="utf-8")
    assert f"## {program.name}\n" in documented
    for command in program.commands:
        assert command in documented
        assert f"#   {command}" in in_config
