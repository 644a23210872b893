"""The paths of the repository: every system can check them out, and none lies where no file of the project belongs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter

import pytest

from tests.support.paths import ROOT

TOP_LEVEL = {
    ".ci",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "app.py",
    "benchmarks",
    "configs",
    "deploy",
    "docs",
    "examples",
    "mkdocs.yml",
    "mllama_demo",
    "pyproject.toml",
    "requirements-dev.txt",
    "requirements-neuron.txt",
    "requirements-sdk.txt",
    "requirements.txt",
    "scripts",
    "tests",
    "training",
}
# What Windows refuses in a name: some characters, a space or a dot at its end, and the names of devices with any suffix.
REFUSED = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)', re.IGNORECASE)


def problems(paths: list[str]) -> list[str]:
    """The paths that cannot be checked out everywhere, or lie in no folder of the project."""
    same = Counter(path.lower() for path in paths)
    return [
        path
        for path in paths
        if any(REFUSED.search(name) for name in path.split("/")) or path.split("/")[0] not in TOP_LEVEL or same[path.lower()] > 1
    ]


def test_every_tracked_path_belongs_to_the_project_and_can_be_checked_out_on_windows():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("there is no git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    paths = listed.rstrip("\0").split("\0")
    assert "mllama_demo/cli.py" in paths
    assert problems(paths) == []


@pytest.mark.parametrize(
    "path",
    [
        "s3:/bucket/model.pt",
        "docs/s3:/a.md",
        'docs/"a".md',
        "docs/a?.md",
        "docs/a\\b.md",
        "docs/a\tb.md",
        "docs/a .",
        "docs /a.md",
        "docs/aux.md",
        "docs/Com1",
        "artifacts/a.json",
        "app.py.orig",
    ],
)
def test_a_path_of_another_kind_is_found(path):
    assert problems(["docs/auxiliary.md", "docs/.hidden", path]) == [path]


def test_paths_that_differ_by_case_alone_are_found():
    assert problems(["docs/a.md", "docs/A.md", "docs/b.md"]) == ["docs/a.md", "docs/A.md"]
