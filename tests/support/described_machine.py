"""Machines made of files, checkpoints for them, and the doctor's findings by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from mllama_demo.chat.prompt import END_OF_TURN
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint.compilation import artifacts
from mllama_demo.checkpoint.compilation.compile import plan_compilation
from mllama_demo.checkpoint.findings import Finding
from mllama_demo.checkpoint.machine import Machine
from mllama_demo.checkpoint.meta import weights_file
from mllama_demo.checkpoint.tensors import expected_tensors
from mllama_demo.config.model_shape import PUBLISHED
from mllama_demo.config.settings import Settings

GB = 10**9
SDK_2_28 = {
    "neuronx-distributed-inference": "0.8.16251+f3ca5575",
    "neuronx-distributed": "0.17.26814+f1c3f2c3",
    "neuronx-cc": "2.23.6484.0+3b612583",
    "torch-neuronx": "2.8.0.2.12.22436+e0b7d6b5",
    "transformers": "4.57.3",
    "torch": "2.8.0",
    "gradio": "6.31.0",
}
LAPTOP_PACKAGES = {"torch": "2.13.0", "transformers": "5.23.0", "gradio": "6.31.0"}


@dataclass
class Described:
    """A machine in a few words; build() writes it as files."""

    vendor: str | None = "Amazon EC2"
    product: str | None = "trn1.32xlarge"
    devices: int = 16
    driver: str | None = "2.26.10.0"
    driver_on_disk: str | None = "2.26.10.0"
    memory_gb: float = 500
    disk_gb: float = 1000
    gpu: str | None = None  # the name of a file in dev
    limit: str | None = "max"
    environ: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: SDK_2_28)

    def build(self, root: Path) -> Machine:
        if root.exists():
            shutil.rmtree(root)
        kilobytes = int(self.memory_gb * GB / 1024)
        files = {
            "sys/devices/virtual/dmi/id/sys_vendor": self.vendor,
            "sys/devices/virtual/dmi/id/product_name": self.product,
            "sys/module/neuron/version": self.driver,
            "sys/fs/cgroup/memory.max": self.limit,
            "proc/meminfo": f"MemTotal: {2 * kilobytes} kB\nMemFree: {kilobytes // 2} kB\nMemAvailable: {kilobytes} kB",
            **{f"dev/neuron{number}": "" for number in range(self.devices)},
            "dev/null": "",
            f"dev/{self.gpu}": "" if self.gpu else None,
            f"usr/src/aws-neuronx-{self.driver_on_disk}/dkms.conf": "" if self.driver_on_disk else None,
        }
        for name, content in files.items():
            if content is not None:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(content + "\n" if content else "")
        free, rate = int(self.disk_gb * GB), 2.0 * GB  # not those of the machine that runs the tests
        return Machine(root, self.environ, self.versions, lambda folder: free, lambda file: rate)


TRN1 = Described()
LAPTOP = Described("LENOVO", "21AH00BMGE", 0, None, None, 12, 100, versions=LAPTOP_PACKAGES, limit=None)


def write_checkpoint(folder: Path, embedded: Path, size: str) -> Path:
    """A checkpoint of a published size, with everything but the numbers: its weights are one long hole."""
    folder.mkdir()
    shutil.copy(embedded / "tokenizer.json", folder)
    shape = PUBLISHED[size]
    text = {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "cross_attention_layers": shape.cross_layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.max_positions,
        "eos_token_id": Tokenizer(folder).special_id(END_OF_TURN),
    }
    vision = {"hidden_size": 1280, "num_hidden_layers": 32, "num_global_layers": 8, "attention_heads": 16}
    vision |= {"image_size": 560, "patch_size": 14, "max_num_tiles": 4}
    config = {"model_type": "mllama", "text_config": text, "vision_config": vision, "image_token_index": 128256}
    (folder / "config.json").write_text(json.dumps(config))
    images = {"size": {"height": 560, "width": 560}, "max_image_tiles": 4}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    tensors = expected_tensors(folder / "config.json", config)
    entries = [weights_file.Entry(name, "BF16", shape) for name, shape in tensors.items()]
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(weights_file.header(entries))
        stream.truncate(weights_file.size(entries))
    return folder


def compile_as(settings: Settings, environ: dict[str, str] | None = None) -> Path:
    """What `compile` leaves behind, with the device's part made up."""
    wanted = plan_compilation(settings, environ or {})
    folder = wanted.location.folder
    folder.mkdir(parents=True)
    for name in (artifacts.MODEL_FILE, artifacts.NEURON_CONFIG):
        (folder / name).write_text("{}")
    artifacts.write_manifest(folder, wanted.inputs, 1.0)
    return folder


def by_name(found: list[Finding]) -> dict[str, Finding]:
    names = {finding.check: finding for finding in found}
    assert len(names) == len(found)
    return names
