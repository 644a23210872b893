"""What makes two compiled models different, and what does not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.checkpoint.compilation import fingerprint as module
from mllama_demo.checkpoint.compilation.fingerprint import compilation_inputs, differences, fingerprint
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.config.neuron import NeuronOptions, OnDeviceSampling
from mllama_demo.config.settings import Settings
from mllama_demo.engine.neuron.config import neuron_values


@dataclass
class Case:
    folder: Path
    options: NeuronOptions

    def made_of(self) -> dict[str, Any]:
        found = compilation_inputs(check_checkpoint(self.folder), neuron_values(self.options), self.options.instance_type)
        return json.loads(json.dumps(found))  # as it is read back from a file


@pytest.fixture
def case(tmp_path: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    for name in module.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Case(Path(shutil.copytree(embedded, tmp_path / "model")), Settings(model_path=embedded).neuron)


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None], indent: int = 2) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content, indent=indent))


def change_weights(folder: Path, start: float, end: float) -> None:
    """Every number in this part of the weights, from 0 to 1, another one; the file as long as before."""
    file = folder / "model.safetensors"
    raw = bytearray(file.read_bytes())
    data = 8 + int.from_bytes(raw[:8], "little")
    part = slice(data + int(start * (len(raw) - data)), data + int(end * (len(raw) - data)))
    raw[part] = bytes(value ^ 1 for value in raw[part])
    file.write_bytes(raw)


SAMPLING = OnDeviceSampling(global_topk=32)
CHANGES: dict[str, tuple[Callable[[Case, pytest.MonkeyPatch], None], str]] = {
    "a value of the model": (
        lambda case, _: edit_config(case.folder, lambda c: c["text_config"].update(rope_theta=77.0)),
        "model.text_config.rope_theta is",
    ),
    "other weights": (lambda case, _: change_weights(case.folder, 0, 1), "1 weight files have other contents"),
    "one layer tuned": (lambda case, _: change_weights(case.folder, 0.4, 0.45), "1 weight files have other contents"),
    "the last tensor": (lambda case, _: change_weights(case.folder, 0.9999, 1), "1 weight files have other contents"),
    "an option": (
        lambda case, _: vars(case).update(options=replace(case.options, batch_size=2)),
        "neuron.batch_size is 4 there and 2 here",
    ),
    "a bucket": (
        lambda case, _: vars(case).update(options=replace(case.options, token_generation_buckets=(2048,))),
        "neuron.token_generation_buckets is [1024, 2048] there and [2048] here",
    ),
    "sampling on the host": (
        lambda case, _: vars(case).update(options=replace(case.options, on_device_sampling_config=None)),
        "neuron.on_device_sampling_config.global_topk is 64 there and missing here",
    ),
    "fewer candidates": (
        lambda case, _: vars(case).update(options=replace(case.options, on_device_sampling_config=SAMPLING)),
        "neuron.on_device_sampling_config.global_topk is 64 there and 32 here",
    ),
    "other chips": (
        lambda case, _: vars(case).update(options=replace(case.options, instance_type="inf2.48xlarge")),
        'platform is "trn1"',
    ),
    "another SDK": (
        lambda case, patch: patch.setattr(module, "_version", lambda name: "2.0" if name == "neuronx-cc" else None),
        'sdk.neuronx-cc is missing there and "2.0" here',
    ),
    "flags for the compiler": (
        lambda case, patch: patch.setenv("NEURON_CC_FLAGS", "-O2"),
        'environment.NEURON_CC_FLAGS is missing there and "-O2" here',
    ),
    "another correction of the model": (
        lambda case, patch: patch.setattr(module, "CORRECTIONS", module.CORRECTIONS + 1),
        "corrections is",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_relevant_change_changes_the_fingerprint_and_is_named(name, case, monkeypatch):
    before = case.made_of()
    change, words = CHANGES[name]
    change(case, monkeypatch)
    after = case.made_of()
    assert fingerprint(after) != fingerprint(before)
    assert any(words in line for line in differences(before, after)), differences(before, after)


SAME: dict[str, Callable[[Case], None]] = {
    "nothing": lambda case: None,
    "another folder": lambda case: vars(case).update(
        folder=Path(shutil.copytree(case.folder, case.folder.with_name("elsewhere")))
    ),
    "a later date": lambda case: os.utime(case.folder / "model.safetensors", (1, 1)),
    "other spaces": lambda case: edit_config(case.folder, lambda content: None, indent=7),
    "another size of the same chips": lambda case: vars(case).update(
        options=replace(case.options, instance_type="trn1n.32xlarge")
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_an_irrelevant_change_keeps_the_fingerprint(name, case):
    before = case.made_of()
    SAME[name](case)
    after = case.made_of()
    assert fingerprint(after) == fingerprint(before)
    assert differences(before, after) == []


def test_the_fingerprint_is_the_same_when_it_is_read_back(case):
    found = compilation_inputs(check_checkpoint(case.folder), neuron_values(case.options), case.options.instance_type)
    assert fingerprint(found) == fingerprint(case.made_of())


def test_only_samples_of_large_weights_are_read(tmp_path, monkeypatch):
    """A file of 4 GB, most of it a hole: all of it would take seconds."""
    file = tmp_path / "large.safetensors"
    with file.open("wb") as stream:
        stream.write((2).to_bytes(8, "little") + b"{}")
        stream.truncate(4 * 10**9)
    read = []

    class Counting:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.stream.close()

        def __getattr__(self, name):
            return getattr(self.stream, name)

        def read(self, *size):
            read.append(data := self.stream.read(*size))
            return data

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *mode: Counting(opened(self, *mode)))
    assert module._sample(file)["bytes"] == 4 * 10**9
    assert sum(map(len, read)) < 2**20
