"""The releases of the AWS Neuron SDK that have the code of Llama 3.2 Vision, as neuron_sdks.yaml lists them with its sources.

AWS released the packages of each release together.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mllama_demo.config.neuron import family_of
from mllama_demo.errors import ConfigError

FILE = Path(__file__).with_suffix(".yaml")
NXDI = "neuronx-distributed-inference"
PACKAGES = (NXDI, "neuronx-distributed", "neuronx-cc", "torch-neuronx", "transformers")
# "Driver 2.29 requires Runtime Library 2.33 or later" (release notes of the runtime, SDK 2.31, "Known Issues").
DRIVER_THAT_NEEDS_NEWER_RUNTIME = ((2, 29), (2, 31, 0))


@dataclass(frozen=True)
class Release:
    """A release without its patches.

    Attributes:
        sdk, nxdi, nxd: the versions of the SDK, NxDI and NxD, such as "2.28", "0.8" and "0.17".
        instances: the families of instances that AWS supports NxDI on, such as "trn1".
        pytorch: the version in the environment for NxDI of AWS's multi-framework AMI, by the system of the AMI.
        aws: what AWS says about this model.
        refused: why the demo does not run with it; None when it does.
        refused_on: why it does not run with it on some families of instances, by family.
        note: what `doctor` adds when nothing is wrong.
        tests: date, transformers, passed, failed and skipped of `make test-neuron` on a CPU; None when it was not run.
        untested: why it was not run.
        code: what is known of its code for this model.
        commits: of the published sources of NxDI ("nxdi") and NxD ("nxd"), in AWS's repositories.
    """

    sdk: str
    nxdi: str
    nxd: str
    instances: tuple[str, ...]
    pytorch: Mapping[str, str]
    aws: str
    refused: str | None
    note: str | None
    tests: dict[str, Any] | None
    untested: str | None
    code: str | None = None
    commits: dict[str, str] | None = None
    refused_on: Mapping[str, str] = field(default_factory=dict)

    def refusal(self, family: str | None = None) -> str | None:
        """Why the demo does not run with it, on a family of instances if one is given."""
        return self.refused or self.refused_on.get(family or "")


@dataclass(frozen=True)
class Sdk:
    """A patch of a release.

    Attributes:
        torch_neuronx: the version after that of PyTorch, of which a release supports several.
        transformers: the release series that NxDI requires; None where AWS did not publish it.
        driver: the version of the package aws-neuronx-dkms.
    """

    release: Release
    name: str
    nxdi: str
    nxd: str
    compiler: str
    torch_neuronx: str
    transformers: str | None
    driver: str

    @property
    def key(self) -> tuple[int, ...]:
        """For comparing releases."""
        return tuple(map(int, self.name.split(".")))

    def differences(self, versions: Mapping[str, str]) -> list[str]:
        """The installed packages that have another version than in this release, in words."""
        wanted = dict(zip(PACKAGES, (self.nxdi, self.nxd, self.compiler, self.torch_neuronx, self.transformers), strict=True))
        found = []
        for package, expected in wanted.items():
            installed = versions.get(package, "").partition("+")[0]
            if not installed or expected is None:
                continue
            if package == "torch-neuronx":
                same, expected = installed.endswith("." + expected), "…" + expected
            else:
                same = installed == expected or (package == "transformers" and installed.startswith(expected + "."))
            if not same:
                found.append(f"{package} {installed} instead of {expected}")
        return found


def _read() -> tuple[tuple[Release, ...], tuple[Sdk, ...], tuple[tuple[str, str], ...]]:
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    releases, patches = [], []
    for entry in content["releases"]:
        of_release = entry.pop("patches")
        release = Release(**{**entry, "instances": tuple(entry["instances"])})
        releases.append(release)
        patches += [Sdk(release, patch.pop("sdk"), **patch) for patch in of_release]
    return tuple(releases), tuple(patches), tuple((later["sdk"], later["aws"]) for later in content["later"])


RELEASES, SDKS, LATER = _read()  # LATER: releases to come, with what AWS announced


def closest(versions: Mapping[str, str]) -> Sdk | None:
    """The patch with the installed version of NxDI; of several, the one with the fewest differences."""
    nxdi = versions.get(NXDI, "").partition("+")[0]
    same = [sdk for sdk in SDKS if sdk.nxdi == nxdi]
    return min(same, key=lambda sdk: len(sdk.differences(versions)), default=None)


def release_of(nxdi: str | None) -> Release | None:
    """The last release with a version of NxDI, whatever its patch."""
    series = ".".join((nxdi or "").split(".")[:2])
    return next((release for release in reversed(RELEASES) if release.nxdi == series), None)


def first_usable(family: str | None = None) -> Release:
    """The oldest release that the demo runs with, on a family of instances if one is given."""
    return next(release for release in RELEASES if release.refusal(family) is None)


def last_on(family: str) -> Release:
    """The newest release that AWS supports NxDI with on a family of instances, such as "trn1"."""
    return next(release for release in reversed(RELEASES) if family in release.instances)


def refusal(nxdi: str | None, family: str | None = None) -> tuple[str, str] | None:
    """Why the demo does not run with an installed version of NxDI, and what to use; None when it runs."""
    release = release_of(nxdi)
    reason = release.refusal(family) if release else None
    if release is None or reason is None:
        return None
    first = first_usable(family)
    why = f"NxD Inference {nxdi}, of SDK {release.sdk}, cannot be used: {reason}"
    return why, f"use SDK {first.sdk} (NxD Inference {first.nxdi}) or later"


def check_release(instance_type: str) -> None:
    """Raises ConfigError when the demo does not run with the installed release of NxDI on an instance type."""
    try:
        installed = importlib.metadata.version(NXDI)
    except importlib.metadata.PackageNotFoundError:  # a source tree on PYTHONPATH
        return
    if found := refusal(installed, family_of(instance_type)):
        raise ConfigError(f"{found[0]}; {found[1]}.")


def table() -> list[str]:
    """The table of docs/neuron.md, as lines of Markdown."""
    lines = [
        "| SDK | NxD Inference | NxD | driver | PyTorch of AWS's AMI | AWS supports NxD Inference on | what AWS says "
        "| what was run here, on a CPU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for release in RELEASES:
        newest = [sdk for sdk in SDKS if sdk.release is release][-1]
        cells = (
            release.sdk,
            release.nxdi,
            release.nxd,
            newest.driver,
            ", ".join(f"{version} ({system})" for system, version in release.pytorch.items()),
            ", ".join(release.instances),
            release.aws,
            _tested(release),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {sdk} | – | – | – | – | – | {aws} | – |" for sdk, aws in LATER]
    return lines


def _tested(release: Release) -> str:
    if release.tests is None:
        words = [f"nothing: {release.untested}"] if release.untested else []
    else:
        counts = [f"{release.tests[name]} {name}" for name in ("passed", "failed", "skipped") if release.tests[name]]
        words = [f"{', '.join(counts)} (transformers {release.tests['transformers']}, {release.tests['date']})"]
    refused = [f"**refused**: {release.refused}"] if release.refused else []
    refused += [f"**refused on {family}**: {reason}" for family, reason in release.refused_on.items()]
    return "; ".join(part for part in (*refused, release.code, *words) if part)
