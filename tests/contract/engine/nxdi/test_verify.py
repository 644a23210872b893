"""The command verify on NxDI's real code: it passes where the engine is right, and fails where it is broken on purpose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mllama_demo.cli import main
from mllama_demo.engine.neuron import sdk
from mllama_demo.engine.neuron.runner import NeuronRunner

OPTIONS = ["--backend", "neuron", "--dtype", "float32", "--tensor-parallel-size", "1", "--batch-size", "4", "--seq-len", "192"]
OPTIONS += ["--context-encoding-buckets", "64,128", "--token-generation-buckets", "96,192"]
HOST = ["--on-device-sampling-config", "none"]


@pytest.fixture(scope="module")
def reference(embedded: Path, nxdi: None, tmp_path_factory) -> Path:
    """The recorded reference of these options, which need no Neuron device."""
    file = tmp_path_factory.mktemp("reference") / "reference.json"
    assert main(["verify", "--model-path", str(embedded), *OPTIONS, "--record", str(file)]) == 0
    return file


@pytest.fixture
def verify(on_cpu, embedded, reference, tmp_path, monkeypatch):
    """verify(option, …): the exit code and the report."""
    # By name, because importing it needs the torchvision that set_up makes importable. Times of this machine say nothing here.
    monkeypatch.setattr("mllama_demo.verify.command.measure_times", lambda *arguments: [])

    def verify(*options: str) -> tuple[int, dict[str, Any]]:
        output = tmp_path / "report"
        place = ["--model-path", str(embedded), "--compiled-artifacts", str(tmp_path / "artifacts"), "--output", str(output)]
        code = main(["verify", *place, *OPTIONS, "--reference", str(reference), *options])
        return code, json.loads((output / "report.json").read_text())

    return verify


def states(report: dict[str, Any]) -> dict[str, str]:
    return {fault["name"]: fault["state"] for fault in report["faults"]}


def differing(report: dict[str, Any]) -> set[str]:
    return {comparison["group"] for comparison in report["comparisons"] if not comparison["agrees"]}


def test_the_engine_with_logits_agrees_in_everything(verify):
    code, report = verify(*HOST)
    assert (code, differing(report)) == (0, set())
    groups = [comparison["group"] for comparison in report["comparisons"]]
    assert {group: groups.count(group) for group in dict.fromkeys(groups)} == {
        "text": 2,
        "aspect ratio": 8,
        "bucket": 4,
        "mixed batch": 4,
        "reused slot": 3,
        "sampling": 5,
    }
    assert max(comparison["difference"] for comparison in report["comparisons"]) < 1e-3
    assert list(states(report).values()) == ["not met", "met", "not told", "not met"]
    assert report["memory"]["fullest"] is None


def test_the_engine_that_samples_on_its_device_agrees(verify):
    code, report = verify()
    assert (code, differing(report)) == (0, set())
    assert next(iter(states(report).values())) in ("not met", "not told")


def test_the_engine_compared_with_itself_agrees_to_the_bit(verify):
    code, report = verify(*HOST, "--reference", "none", "--tolerance", "0")
    assert (code, differing(report)) == (0, set())
    assert {comparison["difference"] for comparison in report["comparisons"]} == {0.0}


def test_fused_qkv_gives_the_same(verify):
    code, report = verify(*HOST, "--fused-qkv", "true")
    assert (code, differing(report)) == (0, set())
    assert report["configuration"]["fused_qkv"] is True


def test_rounding_to_bfloat16_is_no_difference(verify):
    code, report = verify(*HOST, "--dtype", "bfloat16")
    assert (code, differing(report)) == (0, set())
    assert max(comparison["difference"] for comparison in report["comparisons"]) > 0.01, (
        "it must round, or this test shows nothing"
    )


# --- broken on purpose ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [HOST, []], ids=["host", "device"])
def test_frozen_ids_of_aspect_ratios_are_found_and_named(verify, monkeypatch, sampling):
    def frozen(aspect_ratios: torch.Tensor, max_tiles: int) -> torch.Tensor:
        return torch.ones(aspect_ratios.shape[:-1], dtype=torch.int32)

    monkeypatch.setattr(sdk, "aspect_ratio_ids", frozen)
    code, report = verify(*sampling)
    assert code == 1
    assert "aspect ratio" in differing(report)
    assert states(report)["ids of aspect ratios are constants of the compiled graph"] == "met"


def test_rows_of_a_batch_that_are_mixed_up_are_found_and_named(verify, monkeypatch):
    step = NeuronRunner._step

    def swapped(self: NeuronRunner, live: dict[int, Any]) -> Any:
        output = step(self, live)
        if len(live) > 1:
            output.logits = output.logits.roll(1, 0)
        return output

    monkeypatch.setattr(NeuronRunner, "_step", swapped)
    code, report = verify(*HOST)
    assert code == 1
    assert {"mixed batch", "reused slot"} <= differing(report)
    assert "aspect ratio" not in differing(report)


def test_idle_rows_that_overwrite_the_cache_are_found(verify, monkeypatch):
    """What happens where a free slot's position is given to a live one that sits out a step."""
    decode = NeuronRunner.decode

    def careless(self: NeuronRunner, slots: Any) -> Any:
        idle = {slot: state.length for slot, state in self._live.items() if slot not in slots}
        for slot in idle:
            self._live[slot].length = 0
        try:
            return decode(self, slots)
        finally:
            for slot, length in idle.items():
                self._live[slot].length = length

    monkeypatch.setattr(NeuronRunner, "decode", careless)
    code, report = verify(*HOST)
    assert code == 1
    assert "reused slot" in differing(report)


def test_sampling_values_of_another_row_are_found(verify, monkeypatch):
    step = NeuronRunner._step

    def swapped(self: NeuronRunner, live: dict[int, Any]) -> Any:
        values = [state.device_sampling for state in live.values()]
        for state, value in zip(live.values(), values[1:] + values[:1], strict=True):
            state.device_sampling = value
        return step(self, live)

    monkeypatch.setattr(NeuronRunner, "_step", swapped)
    code, report = verify()
    assert code == 1
    assert differing(report) == {"sampling"}


def test_a_release_that_cannot_read_into_the_second_slot_is_named(verify, monkeypatch):
    read = NeuronRunner._read_prompt

    def broken(self: NeuronRunner, slot: int, *arguments: Any) -> Any:
        if slot:
            raise IndexError("index 1 is out of bounds for dimension 0 with size 1")
        return read(self, slot, *arguments)

    monkeypatch.setattr(NeuronRunner, "_read_prompt", broken)
    code, report = verify(*HOST)
    assert code == 1
    assert states(report)["a prompt cannot be read into another slot than the first (SDK 2.22 and 2.23)"] == "met"


def test_an_engine_that_cannot_be_loaded_is_a_report_without_paths_and_exit_code_2(verify, monkeypatch, embedded, capsys):
    def broken(cls: Any, artifacts: Path, image_token_id: int) -> NeuronRunner:
        raise KeyError(f"text_model.layers.3 in {artifacts}/weights/tp0_sharded_checkpoint.safetensors")

    monkeypatch.setattr(NeuronRunner, "load", classmethod(broken))
    code, report = verify(*HOST)
    assert code == 2
    assert "KeyError" in report["problem"]
    assert str(embedded.parent) not in json.dumps(report)
    assert "artifacts/" not in json.dumps(report)
