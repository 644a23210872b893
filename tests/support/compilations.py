"""What the tests of `compile` share: a configuration, the command, and what it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama_demo.checkpoint.compilation.compile import Compilation, plan_compilation
from mllama_demo.cli import main
from mllama_demo.config.settings import Settings

CONFIG = """\
model_path: {model}
compiled_artifacts: {root}
tensor_parallel_size: 1
seq_len: 256
context_encoding_buckets: [64, 128]
token_generation_buckets: [256]
"""


def wanted(config: Path) -> Compilation:
    folder = config.parent
    settings = Settings(
        backend="neuron",
        model_path=folder / "model",
        compiled_artifacts=folder / "artifacts",
        tensor_parallel_size=1,
        seq_len=256,
        context_encoding_buckets=[64, 128],
        token_generation_buckets=[256],
    )
    return plan_compilation(settings)


def compile_it(config: Path, *options: str) -> int:
    return main(["compile", "--config", str(config), *options])


def made(config: Path) -> list[Path]:
    root = config.parent / "artifacts"
    return sorted(root.iterdir()) if root.exists() else []


def refused(capsys: pytest.CaptureFixture[str], config: Path, *options: str) -> str:
    """The one sentence on stderr of a compilation that must end with exit code 2."""
    capsys.readouterr()
    assert compile_it(config, *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
