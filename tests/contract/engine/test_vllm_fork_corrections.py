"""The corrections of the images against the sources of vLLM's Neuron fork. VLLM_FORK_GIT names the git directory of a clone.

    git clone --bare https://github.com/aws-neuron/upstreaming-to-vllm fork.git
    VLLM_FORK_GIT=fork.git python -m pytest tests/contract/engine/test_vllm_fork_corrections.py

Functions of the fork run as they are, without the modules around them, which need the Neuron SDK.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from mllama_demo.engine.vllm import corrections
from mllama_demo.engine.vllm.command import PLUGIN

FORK = os.environ.get("VLLM_FORK_GIT", "")
pytestmark = pytest.mark.skipif(not FORK, reason="VLLM_FORK_GIT does not name the git directory of the fork")

# The commits: the branch v0.6.x-neuron, the tag 2.24.0 (v0.7.2), and the branch main, based on 0.9.
V06, V07, V09 = "c097c1891", "490ab20f1", "dd417b311"
RUNNER, MLLAMA = "vllm/worker/neuronx_distributed_model_runner.py", "vllm/model_executor/models/mllama.py"
RATIOS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
CONFIG = SimpleNamespace(vision_config=SimpleNamespace(image_size=560, max_num_tiles=4))


def source(commit: str, path: str) -> str:
    shown = subprocess.run(["git", f"--git-dir={FORK}", "show", f"{commit}:{path}"], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def function(commit: str, path: str, name: str) -> str:
    """The source of a method, without indentation."""
    text = source(commit, path)
    [found] = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef) and node.name == name]
    return ast.unparse(found)


def module(commit: str, path: str, name: str, **names: Any) -> ModuleType:
    """A module with one function of the fork, and the names that the function uses."""
    made = ModuleType(path)
    vars(made).update(names)
    exec("from __future__ import annotations\n" + function(commit, path, name), vars(made))  # code of the fork, for a test
    return made


def runner_of_09() -> ModuleType:
    return module(
        V09, RUNNER, "process_multi_modal_data_neuron", torch=torch, get_all_supported_aspect_ratios=lambda tiles: list(RATIOS)
    )


def aspect_ratios(made: ModuleType, identifier: int) -> list[int]:
    data = {"aspect_ratio_ids": torch.tensor([identifier]), "num_tiles": torch.tensor([4]), "pixel_values": torch.ones(1)}
    return made.process_multi_modal_data_neuron(SimpleNamespace(model=SimpleNamespace(config=CONFIG)), data)[
        "aspect_ratios"
    ].tolist()


def test_the_version_based_on_09_takes_an_id_for_the_next_one_and_the_correction_does_not() -> None:
    faulty, corrected = runner_of_09(), runner_of_09()
    corrections._correct_runner(corrected)
    assert aspect_ratios(faulty, RATIOS.index((2, 2)) + 1) == [[3, 1]], "when this fails, the fault is mended"
    with pytest.raises(IndexError):
        aspect_ratios(faulty, RATIOS.index((4, 1)) + 1)
    for index, (rows, columns) in enumerate(RATIOS):
        assert aspect_ratios(corrected, index + 1) == [[rows, columns]]  # transformers counts the ids from 1


@pytest.mark.parametrize(
    ("commit", "name"), [(V06, "get_multi_modal_data_neuron"), (V07, "process_multi_modal_data_neuron")], ids=["0.6", "0.7"]
)
def test_the_versions_with_their_own_preprocessing_get_full_canvases(commit: str, name: str) -> None:
    seen: list[tuple[int, int]] = []

    def preprocess(config: Any, batch: list[list[Image.Image]]) -> Any:
        seen.extend(image.size for row in batch for image in row)
        return torch.zeros(1, 1, 4, 3, 2, 2), torch.ones(1, 1, 2, dtype=torch.int64), torch.tensor([[4]])

    image = Image.new("RGB", (40, 30))
    made = module(
        commit,
        RUNNER,
        name,
        torch=torch,
        custom_image_preprocessing=preprocess,
        PILImage=Image.Image,
        decompress_image_from_tensor=lambda tensor: image,  # torchvision's ToPILImage
    )
    corrections._correct_runner(made)
    given = torch.ones(3, 30, 40) if commit == V06 else {"image": image}
    getattr(made, name)(SimpleNamespace(model=SimpleNamespace(config=CONFIG)), given)
    assert seen == [(1120, 1120)]


def test_the_processor_of_the_version_based_on_09_counts_and_reads_full_canvases() -> None:
    text = function(V09, MLLAMA, "_call_hf_processor")
    made = ModuleType("mllama")
    seen: list[tuple[int, int]] = []

    class Base:
        info = SimpleNamespace(
            get_tokenizer=lambda: SimpleNamespace(decode=lambda ids: ""),
            get_hf_processor=lambda: SimpleNamespace(bos_token="<bos>"),
            get_hf_config=lambda: CONFIG,
            get_num_tiles_per_image=lambda height, width: height * width // 560**2,
        )

        def _call_hf_processor(self, prompt: str, mm_data: Any, mm_kwargs: Any) -> dict[str, Any]:
            seen.extend(image.size for image in mm_data["images"])
            names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
            return {name: torch.zeros(1, 1) for name in names} | {"input_ids": torch.zeros(1, 3)}

    vars(made).update(Base=Base, torch=torch)
    body = "\n".join("    " + line for line in text.splitlines())
    exec(f"from __future__ import annotations\nclass MllamaMultiModalProcessor(Base):\n{body}", vars(made))  # as above
    corrections._correct_processor(made)
    result = made.MllamaMultiModalProcessor()._call_hf_processor("", {"images": [Image.new("RGB", (40, 30))]}, {})
    assert seen == [(1120, 1120)]
    assert result["num_tiles"].tolist() == [4]


@pytest.mark.parametrize("commit", [V06, V07, V09], ids=["0.6", "0.7", "0.9"])
def test_the_forks_own_loader_finds_and_calls_the_plugin(commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    called: list[int] = []
    monkeypatch.setattr(corrections, "install", lambda: called.append(1))
    envs = SimpleNamespace(VLLM_PLUGINS=None)
    platform = SimpleNamespace(is_xpu=lambda: False, is_hpu=lambda: False)
    for name, stand_in in {
        "vllm": ModuleType("vllm"),
        "vllm.envs": envs,
        "vllm.platforms": SimpleNamespace(current_platform=platform),
    }.items():
        monkeypatch.setitem(sys.modules, name, stand_in)
    sys.modules["vllm"].envs = envs  # type: ignore[attr-defined]
    made = ModuleType("plugins")
    exec(source(commit, "vllm/plugins/__init__.py"), vars(made))  # as above
    made.load_general_plugins()
    assert called == [1]


@pytest.mark.parametrize("commit", [V06, V07, V09], ids=["0.6", "0.7", "0.9"])
def test_the_fork_loads_plugins_in_the_process_of_the_engine(commit: str) -> None:
    places = ("vllm/engine/llm_engine.py", "vllm/engine/multiprocessing/engine.py", "vllm/worker/worker_base.py")
    assert any("load_general_plugins()" in source(commit, path) for path in places)
