"""The releases of the AWS Neuron SDK that support Llama 3.2 Vision, with the versions of their packages.

AWS released the packages of each release together. This project ran none of them on a device.
Sources, all of AWS:
- the versions: github.com/aws-neuron/aws-neuron-sdk, src/helperscripts/n2-manifest.json (as of SDK 2.32)
- transformers: setup.py of github.com/aws-neuron/neuronx-distributed-inference at each release, where it was published
- 90B from 2.21, 11B from 2.22: the release notes of 2.22 and the tutorial "Deploying Llama3.2 Multimodal Models"
- trn1 and inf2 up to 2.28 only: the release notes of NxD Inference, 2.29.0, "Breaking Changes"
- no NxD Inference from 2.32 on: the release notes of the Neuron DLAMIs, 2.32.0
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NXDI = "neuronx-distributed-inference"
PACKAGES = (NXDI, "neuronx-distributed", "neuronx-cc", "torch-neuronx", "transformers")
LAST_ON_TRN1_INF2 = (2, 28, 1)
LAST_WITHOUT_11B = (2, 21, 1)
# "Driver 2.29 requires Runtime Library 2.33 or later" (release notes of the runtime, SDK 2.31, "Known Issues").
DRIVER_THAT_NEEDS_NEWER_RUNTIME = ((2, 29), (2, 31, 0))


@dataclass(frozen=True)
class Sdk:
    """A release.

    Attributes:
        torch_neuronx: the version after that of PyTorch, of which a release supports several.
        transformers: the release series that NxDI requires; None where AWS did not publish it.
        driver: the version of the package aws-neuronx-dkms.
    """

    release: tuple[int, int, int]
    nxdi: str
    nxd: str
    compiler: str
    torch_neuronx: str
    transformers: str | None
    driver: str

    @property
    def name(self) -> str:
        return ".".join(map(str, self.release))

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


SDKS = (
    Sdk((2, 21, 0), "0.1.0", "0.10.0", "2.16.345.0", "2.4.0", "4.45", "2.19.64.0"),
    Sdk((2, 21, 1), "0.1.1", "0.10.1", "2.16.372.0", "2.4.0", "4.45", "2.19.64.0"),
    Sdk((2, 22, 0), "0.2.0", "0.11.0", "2.17.194.0", "2.6.0", "4.48", "2.20.28.0"),
    Sdk((2, 23, 0), "0.3.5591", "0.12.12111", "2.18.121.0", "2.7.5413", "4.48", "2.21.37.0"),
    Sdk((2, 24, 0), "0.4.7422", "0.13.14393", "2.19.8089.0", "2.8.6734", "4.51", "2.22.2.0"),
    Sdk((2, 25, 0), "0.5.9230", "0.14.18461", "2.20.9961.0", "2.9.9357", "4.51", "2.23.9.0"),
    Sdk((2, 26, 0), "0.6.10598", "0.15.22404", "2.21.18209.0", "2.10.13553", "4.51", "2.24.7.0"),
    Sdk((2, 26, 1), "0.6.10598", "0.15.22404", "2.21.33363.0", "2.10.16998", "4.51", "2.24.7.0"),
    Sdk((2, 27, 0), "0.7.14366", "0.16.25997", "2.22.12471.0", "2.11.19912", "4.56", "2.25.4.0"),
    Sdk((2, 27, 1), "0.7.15063", "0.16.25997", "2.22.12471.0", "2.11.19912", "4.56", "2.25.4.0"),
    Sdk((2, 28, 1), "0.8.16251", "0.17.26814", "2.23.6484.0", "2.12.22436", "4.57", "2.26.5.0"),
    Sdk((2, 29, 0), "0.9.17334", "0.18.27753", "2.24.5133.0", "2.13.24727", "4.57", "2.27.4.0"),
    Sdk((2, 29, 1), "0.9.17334", "0.18.27753", "2.24.8799.0", "2.13.26312", "4.57", "2.27.4.0"),
    Sdk((2, 30, 0), "0.10.17970", "0.19.28093", "2.25.3371.0", "2.14.27725", None, "2.28.0.0"),
    Sdk((2, 31, 1), "0.10.18399", "0.19.28492", "2.26.6360.0", "2.15.32035", None, "2.29.0.0"),
)


def closest(versions: Mapping[str, str]) -> Sdk | None:
    """The release with the installed version of NxDI; of several, the one with the fewest differences."""
    nxdi = versions.get(NXDI, "").partition("+")[0]
    same = [sdk for sdk in SDKS if sdk.nxdi == nxdi]
    return min(same, key=lambda sdk: len(sdk.differences(versions)), default=None)
