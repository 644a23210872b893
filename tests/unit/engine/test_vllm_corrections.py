"""The corrections of vLLM's Neuron fork reach a process of vLLM by the printed command alone.

The modules of the fork and of NxDI are stand-ins with the same imports, because neither is installed here. The real sources are
tested in tests/contract/engine/test_vllm_fork_corrections.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.engine.vllm.command import PLUGIN
from tests.support.paths import ROOT

NXDI = "neuronx_distributed_inference/models/mllama"
FILES = {
    f"{NXDI}/aspect_ratio_utils.py": """
def get_all_supported_aspect_ratios(n):
    return [(h, w) for h in range(1, n + 1) for w in range(1, n + 1) if h * w <= n]

def convert_aspect_ratios_to_ids(ratios, n):
    return "uncorrected"
""",
    f"{NXDI}/modeling_mllama_vision.py": """
from neuronx_distributed_inference.models.mllama.aspect_ratio_utils import convert_aspect_ratios_to_ids

def ids(ratios):
    return convert_aspect_ratios_to_ids(ratios, 4)
""",
    f"{NXDI}/image_transform.py": """
def custom_image_preprocessing(config, batch_images):
    return [image.size for row in batch_images for image in row]
""",
}
RUNNER = {
    "0.7": f"""
from {NXDI.replace("/", ".")}.image_transform import custom_image_preprocessing
""",
    "0.9": f"""
from {NXDI.replace("/", ".")}.aspect_ratio_utils import get_all_supported_aspect_ratios
""",
}
PROCESSOR = {
    "0.7": "",
    "0.9": """
class MllamaMultiModalProcessor:
    def _call_hf_processor(self, prompt, mm_data, mm_kwargs):
        return [image.size for image in mm_data["images"]] if mm_data else "no image"
""",
}
# What a process of a server does, as vllm/plugins/__init__.py of the fork: each entry point is loaded and called.
SERVER = """
from importlib.metadata import entry_points
for _ in range(2):
    for plugin in entry_points(group="vllm.general_plugins"):
        plugin.load()()
"""
# What backend vllm does before it imports vLLM.
OWN_PROCESS = """
from mllama_demo.config.settings import Settings
from mllama_demo.engine.vllm.engine import prepare_environment
prepare_environment(Settings())
"""
PROCESS = """
import json, sys
from types import SimpleNamespace
assert not [name for name in sys.modules if name.startswith("neuronx")], "the SDK is not imported for the plugin"
import torch
from PIL import Image
from neuronx_distributed_inference.models.mllama import modeling_mllama_vision as vision
from vllm.worker import neuronx_distributed_model_runner as runner
from vllm.model_executor.models import mllama
config = SimpleNamespace(vision_config=SimpleNamespace(image_size=560, max_num_tiles=4))
images = [Image.new("RGB", (40, 30)), Image.new("RGBA", (3000, 300)), Image.new("L", (1120, 1120))]
found = {"ids": vision.ids(torch.tensor([[[2, 2]], [[4, 1]]], dtype=torch.int32)).tolist()}
if hasattr(runner, "custom_image_preprocessing"):
    found["sizes"] = runner.custom_image_preprocessing(config, [images])
else:
    found["ratios"] = runner.get_all_supported_aspect_ratios(4)
if hasattr(mllama, "MllamaMultiModalProcessor"):
    made = mllama.MllamaMultiModalProcessor()
    made.info = SimpleNamespace(get_hf_config=lambda: config)
    found["sizes"] = made._call_hf_processor("", {"images": images}, {})
    assert made._call_hf_processor("", {}, {}) == "no image"
print(json.dumps(found))
"""


def run(folder: Path, version: str, start: str, *paths: Path) -> dict[str, Any]:
    """Runs a process that does what `start` says and then prepares images, with the paths and the stand-ins importable."""
    files = FILES | {
        "vllm/worker/neuronx_distributed_model_runner.py": RUNNER[version],
        "vllm/model_executor/models/mllama.py": PROCESSOR[version],
    }
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environ["PYTHONPATH"] = os.pathsep.join(map(str, (*paths, folder)))
    done = subprocess.run(
        [sys.executable, "-c", start + PROCESS], cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.7", "0.9"])
@pytest.mark.parametrize(("start", "path"), [(SERVER, PLUGIN), (OWN_PROCESS, ROOT)], ids=["a server", "the demo's own process"])
def test_a_process_with_vllm_has_the_corrections(start: str, path: Path, version: str, tmp_path: Path) -> None:
    found = run(tmp_path, version, start, path)
    assert found["ids"] == [[6], [8]]
    assert found["sizes"] == [[1120, 1120], [2240, 560], [1120, 1120]]
    if version == "0.9":  # an id is the place in the list
        assert found["ratios"][6] == [2, 2]
        assert found["ratios"][8] == [4, 1]
        assert len(found["ratios"]) == 9


def test_the_plugin_is_part_of_the_package() -> None:
    assert PLUGIN.is_relative_to(ROOT / "mllama_demo")
    assert (PLUGIN / "mllama_demo_vllm_plugin-1.0.dist-info" / "METADATA").is_file()
