"""The report of verify: what a stranger may read of it, and what it says."""

from __future__ import annotations

import json
import math
import socket
from pathlib import Path

import pytest

from mllama_demo.config.settings import Settings
from mllama_demo.verify.comparison import Comparison
from mllama_demo.verify.faults import Fault
from mllama_demo.verify.measure import MemoryFound, Timing
from mllama_demo.verify.report import Redaction, Report, write

GIB = 2**30
AGREES = Comparison("text", "a story", 0.001, 0.002, True)
DIFFERS = Comparison("bucket", "a prompt of 62 tokens", math.inf, 0.002, False, "these are the results of slot 2")
FAILED = Comparison("bucket", "a prompt of 126 tokens", None, 0.002, False, "RuntimeError: nrt_execute failed")


def report(*comparisons: Comparison, faults: tuple[Fault, ...] = (), problem: str = "") -> Report:
    return Report(
        date="2026-11-30",
        program="mllama_demo 1",
        machine={"instance": "trn1.32xlarge"},
        model={"size": "90B", "parameters": 88_590_000_000},
        configuration={"backend": "neuron", "context_encoding_buckets": [256, 2048]},
        reference="PyTorch",
        comparisons=comparisons,
        faults=faults,
        timings=[Timing("first token", 256, 254, False, 1, 0.25, 0.2, 1.5, 5)],
        memory=MemoryFound(8 * GIB, 6 * GIB, 32),
        problem=problem,
    )


def test_one_difference_is_a_failure_and_stands_first(tmp_path):
    markdown, data = write(report(AGREES, DIFFERS, FAILED), tmp_path / "new" / "folder")
    text = markdown.read_text()
    assert "**Result: FAILED.** 2 of 3 comparisons failed." in text
    assert text.index("62 tokens") < text.index("a story")
    told = json.loads(data.read_text(), parse_constant=pytest.fail)  # infinity is no JSON
    assert told["passed"] is False
    assert [c["difference"] for c in told["comparisons"]] == [0.001, "infinite", None]


def test_everything_that_agrees_is_passed_with_times_and_memory():
    text = report(AGREES).as_markdown()
    assert "Written by mllama_demo 1 on 2026-11-30." in text
    assert "**Result: passed.** All 1 comparisons agree." in text
    assert "- parameters: 88,590,000,000\n" in text
    assert "| first token | 256 | 254 | 1 | 5 times | 250.0 ms | 200.0 ms | 1,500.0 ms |" in text
    assert "`plan` computes 8.00 GiB for each core. The fullest of 32 cores has 6.00 GiB in use, 75% of that." in text
    assert "- context_encoding_buckets: 256, 2048" in text


@pytest.mark.parametrize(("harm", "passed"), [(True, False), (False, True)])
def test_a_fault_that_makes_answers_wrong_is_a_failure_and_an_avoided_one_is_not(harm, passed):
    found = report(AGREES, faults=(Fault("ids", "met", "8 of 8 images", harm),))
    assert found.passed is passed
    assert "| ids | met | 8 of 8 images |" in found.as_markdown()


@pytest.mark.parametrize("comparisons", [(), (AGREES,)])
def test_a_verification_that_ended_early_has_not_passed(comparisons):
    found = report(*comparisons, problem="The engine could not be loaded.")
    assert not found.passed
    assert ("## Comparisons" in found.as_markdown()) == bool(comparisons)
    assert not report().passed


SECRETS = {"remote_api_key": "sk-secret-1", "admin_key": "admin-secret", "api_keys": ["key-secret-1", "key-secret-2"]}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("OSError: /home/jo/models/90B/model.safetensors is cut off", "OSError: [path] is cut off"),
        ("cannot open '/opt/x y/lib.so'", "cannot open '[path] y/lib.so'"),
        ("in ~/weights and C:\\Users\\jo\\weights", "in [path] and [path]"),
        ("host ip-10-0-3-4.ec2.internal (10.0.3.4) refused", "host [address] ([address]) refused"),
        (f"{socket.gethostname()}: sk-secret-1, admin-secret, key-secret-2", "[removed]: [removed], [removed], [removed]"),
        ("Input shape [[1, 64], [1]] not found, 3/4 tiles, 1.5 s", "Input shape [[1, 64], [1]] not found, 3/4 tiles, 1.5 s"),
        ("KeyError: 'text_model.layers.3.self_attn'", "KeyError: 'text_model.layers.3.self_attn'"),
    ],
)
def test_what_only_the_owner_should_know_is_removed(text, left):
    assert Redaction(Settings(**SECRETS))(text) == left


def test_a_path_with_spaces_that_the_settings_name_is_removed_whole(tmp_path):
    folder = tmp_path / "my secret models"
    redact = Redaction(Settings(model_path=folder, compiled_artifacts=tmp_path / "my compiled models"))
    assert redact(f"{folder}/config.json is missing") == "[path] is missing"
    assert redact(f"{tmp_path / 'my compiled models'} is full") == "[path] is full"


def test_the_name_of_the_checkpoint_and_a_folder_in_s3_are_removed():
    redact = Redaction(Settings(compiled_artifacts="s3://our-bucket/our-models"), "our-model-90B")
    told = redact("The weights of our-model-90B are not here, and s3://our-bucket/our-models has none; None is left.")
    assert told == "The weights of [removed] are not here, and [path] has none; None is left."


def test_device_memory_is_the_fullest_core(tmp_path):
    from mllama_demo.checkpoint.memory import CoreMemory

    def use(core: str, purpose: str, size: str) -> None:
        file = tmp_path / f"sys/devices/virtual/neuron_device/{core}/stats/memory_usage/device_mem/{purpose}/total"
        file.parent.mkdir(parents=True)
        file.write_text(size)

    planned = CoreMemory(5, 1, 1, 1, 1, 16)
    assert MemoryFound.of(planned, tmp_path) == MemoryFound(9, None, 0)
    use("neuron0/neuron_core0", "tensors", "700\n")
    use("neuron0/neuron_core0", "constants", "50\n")
    use("neuron0/neuron_core1", "tensors", "300\n")
    use("neuron1/neuron_core0", "tensors", "0\n")
    use("neuron1/neuron_core1", "tensors", "no number")
    assert MemoryFound.of(planned, Path(tmp_path)) == MemoryFound(9, 750, 2)
