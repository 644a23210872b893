"""The command verify on backend torch: one engine against another, and what it does where it cannot run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mllama_demo.cli import main
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.verify import command
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

OPTIONS = ["--device", "cpu", "--threads", "1", "--seq-len", "128", "--batch-size", "3"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("reference") / "reference.json"
    assert main(["verify", *OPTIONS, "--record", str(file)]) == 0
    return file


@pytest.fixture
def verify(reference, tmp_path):
    """verify(option, …): the exit code and the report."""

    def verify(*options: str) -> tuple[int, dict[str, Any]]:
        output = tmp_path / "report"
        code = main(["verify", *OPTIONS, "--reference", str(reference), "--output", str(output), *options])
        return code, json.loads((output / "report.json").read_text())

    return verify


def test_the_torch_engine_agrees_with_a_reference_that_is_computed_first(tmp_path, capsys):
    assert main(["verify", *OPTIONS, "--output", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Passed: ")
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["passed"] is True
    assert (tmp_path / "report/report.md").read_text().startswith("# Verification")
    times = {(timing["what"], timing["bucket"], timing["image"]) for timing in report["timings"]}
    assert times == {("first token", 64, False), ("first token", 128, False), ("first token", 64, True)} | {
        ("decode step", 64, False),
        ("decode step", 128, False),
    }
    assert all(timing["median"] > 0 for timing in report["timings"])
    assert report["memory"] is None


def test_other_numbers_of_slots_and_other_formats_agree(verify):
    assert verify("--batch-size", "1", "--dtype", "bfloat16")[0] == 0


def test_the_tolerance_is_that_of_the_format_in_which_the_device_computes(verify):
    """With auto, a machine without a GPU computes in float32."""
    code, report = verify("--device", "auto")
    assert code == 0
    expected = command.TOLERANCE["bfloat16" if torch.cuda.is_available() else "float32"]
    assert {comparison["tolerance"] for comparison in report["comparisons"]} == {expected}
    chosen = report["configuration"]
    assert "auto" not in (chosen["device"], chosen["dtype"])
    assert command.TOLERANCE[chosen["dtype"]] == expected


def test_a_slot_that_answers_the_question_of_another_is_found_and_named(verify, monkeypatch):
    decode = TorchRunner._decode_logits

    def swapped(self: TorchRunner, slots: Any) -> Any:
        logits = decode(self, slots)
        return logits.roll(1, 0)

    monkeypatch.setattr(TorchRunner, "_decode_logits", swapped)
    code, report = verify()
    assert code == 1
    assert {c["group"] for c in report["comparisons"] if not c["agrees"]} == {"mixed batch"}
    notes = [c["note"] for c in report["comparisons"] if not c["agrees"]]
    assert notes
    assert all("has the result of slot" in note for note in notes)


def test_weights_that_were_changed_are_another_reference(reference, embedded, tmp_path, capsys):
    folder = Path(shutil.copytree(embedded, tmp_path / "changed"))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    arguments = ["verify", *OPTIONS, "--model-path", str(folder), "--reference", str(reference)]
    assert main([*arguments, "--output", str(tmp_path / "report")]) == 2
    assert "is of a checkpoint with other weights" in capsys.readouterr().err
    assert json.loads((tmp_path / "report/report.json").read_text())["passed"] is False


def test_the_reference_of_a_neuron_configuration_is_recorded_without_the_sdk_and_without_a_device(tmp_path, capsys):
    file = tmp_path / "reference.json"
    neuron = ["--backend", "neuron", "--tensor-parallel-size", "1", "--seq-len", "128", "--context-encoding-buckets", "64"]
    assert main(["verify", *neuron, "--token-generation-buckets", "128", "--record", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file} has the reference of 13 cases")
    answers = json.loads(file.read_text())["answers"]
    assert len([name for name in answers if name.endswith("/frozen ids")]) == 8
    assert len([name for name in answers if name.endswith("/all tiles")]) == 1
    assert str(tmp_path.parent) not in file.read_text(), "it may be taken to another machine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backend", "openai"], "backend is openai, but verify compares the logits of an engine in this process"),
        (["--quantization", "int4"], "say with --tolerance what is allowed"),
        (["--seq-len", "256"], "lacks bucket, a prompt of 252 tokens; record it with the options of this configuration"),
        (["--reference", "nowhere.json"], "cannot be read (No such file or directory)"),
        (["--reference", "README.md"], "README.md is no reference; verify --record writes one"),
        (["--model-path", "nowhere"], "nowhere"),
        (
            ["--backend", "neuron", "--tensor-parallel-size", "1", "--device", "auto"],
            "needs the package neuronx-distributed-inference",
        ),
    ],
)
def test_what_cannot_run_is_one_sentence_and_exit_code_2(reference, tmp_path, capsys, options, words):
    arguments = ["verify", *OPTIONS, "--reference", str(reference), "--output", str(tmp_path / "report"), *options]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert words in printed.err


def test_a_report_that_cannot_be_written_is_one_sentence(verify, tmp_path, capsys):
    (tmp_path / "report").write_text("a file")
    with pytest.raises(NotADirectoryError):
        verify()
    assert "cannot be written to" in capsys.readouterr().err


def test_an_engine_that_ends_the_process_leaves_a_report_of_what_was_found(reference, tmp_path):
    """As the Neuron runtime does: it aborts."""
    script = (
        "import os; from mllama_demo.cli import main; from mllama_demo.verify.comparison import Comparer;"
        "Comparer.mixed = lambda self, cases: os.abort();"
        f"main(['verify', *{OPTIONS!r}, '--reference', {str(reference)!r}, '--output', {str(tmp_path / 'report')!r}])"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert ended.returncode < 0
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["problem"].startswith("The verification ended before comparing mixed batches was done")
    assert report["passed"] is False
    assert len(report["comparisons"]) > 8
    assert all(comparison["agrees"] for comparison in report["comparisons"])


def test_a_checkpoint_too_large_for_the_memory_says_how_a_reference_is_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("mllama_demo.verify.reference.free_memory", lambda device: 10**8)
    assert main(["verify", *OPTIONS, "--output", str(tmp_path / "report")]) == 2
    assert "record it on a larger machine with --record FILE" in capsys.readouterr().err
    assert command.NO_REFERENCE == "none"
