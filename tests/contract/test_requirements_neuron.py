"""requirements-neuron.txt, and the project with its extra neuron, in an environment of the Neuron SDK, as pip resolves them: they
add, and move nothing of the SDK."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.timeout(900)
FILE = ROOT / "requirements-neuron.txt"
# What such an environment holds, as far as the demo's packages could touch it: name, version, and what it asks for. SDK 2.24
# has transformers 4.51 and SDK 2.28 has 4.57.
COMMON = [
    ("torch", "2.7.0", []),
    ("torchvision", "0.22.0", []),
    ("torch-xla", "2.7.0", []),
    ("libneuronxla", "2.2.1", []),
    ("neuronx-cc", "2.19.8089.0", ["numpy<2"]),
    ("torch-neuronx", "2.7.0.2.8.6734", ["torch==2.7.*"]),
    ("neuronx-distributed", "0.13.14393", ["torch-neuronx"]),
    ("numpy", "1.26.4", []),
    ("safetensors", "0.5.3", []),
    ("pillow", "11.3.0", []),
    ("PyYAML", "6.0.2", []),
    ("requests", "2.32.4", []),
    ("typing-extensions", "4.12.2", []),
]
SDKS = {
    "2.24": [
        *COMMON,
        ("transformers", "4.51.3", ["huggingface-hub>=0.30.0,<1.0", "tokenizers>=0.21,<0.22", "numpy>=1.17"]),
        ("tokenizers", "0.21.4", ["huggingface-hub>=0.16.4,<1.0"]),
        ("huggingface-hub", "0.34.4", []),
        ("neuronx-distributed-inference", "0.4.7422", ["transformers==4.51.*"]),
    ],
    "2.28": [
        *COMMON,
        ("transformers", "4.57.6", ["huggingface-hub>=0.34.0,<1.0", "tokenizers>=0.22.0,<=0.23.0", "numpy>=1.17"]),
        ("tokenizers", "0.22.2", ["huggingface-hub>=0.16.4,<2.0"]),
        ("huggingface-hub", "0.36.2", []),
        ("neuronx-distributed-inference", "0.8.16251", ["transformers==4.57.*"]),
    ],
}


def environment(folder: Path, packages: list[tuple[str, str, list[str]]]) -> str:
    """A virtual environment whose packages consist of what they say about themselves; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(folder), "platbase": str(folder)}))
    for name, version, needs in packages:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "INSTALLER").write_text("pip\n")
        (info / "RECORD").write_text(f"{info.name}/METADATA,,\n")
    return str(folder / "bin" / "python")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("what", [["-r", str(FILE)], [f"{ROOT}[neuron]"]], ids=["file", "project"])
@pytest.mark.parametrize("sdk", SDKS)
def test_nothing_of_the_sdk_is_moved(sdk, what, tmp_path):
    python, report = environment(tmp_path / "venv", SDKS[sdk]), tmp_path / "report.json"
    options = ["--dry-run", "--report", str(report), "--only-binary", ":all:", *what]
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "-q"]
    done = subprocess.run([*pip, *options], capture_output=True, text=True, timeout=800)
    if "from versions: none" in done.stderr or "No module named pip" in done.stderr:
        pytest.skip("pip reaches no package index here")
    assert done.returncode == 0, done.stderr
    new = {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"] for item in json.loads(report.read_text())["install"]
    }
    assert {"gradio", "fastapi", "sqlalchemy", "uvicorn", "prometheus-client"} <= set(new)
    there = {name.lower() for name, _, _ in SDKS[sdk]} - {"typing-extensions"}
    assert not there & set(new), "packages of the SDK would be moved"
    assert not [name for name in new if name.startswith(("torch", "neuron", "nvidia", "transformers"))]


def test_what_both_files_name_is_pinned_alike_but_for_gradio():
    def pins(file: Path) -> set[str]:
        lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
        return {line for line in lines if "==" in line}

    laptop = pins(ROOT / "requirements.txt")
    assert {line for line in pins(FILE) if not line.startswith("gradio")} <= laptop
    assert any(line.startswith("gradio==6.") for line in laptop)
