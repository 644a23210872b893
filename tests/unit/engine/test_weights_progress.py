"""How much of the weights is loaded, by the pages of mapped files in the memory of this process."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mllama_demo.engine.neuron import weights_progress
from mllama_demo.engine.neuron.compiler_log import WEIGHTS_BEGIN, WEIGHTS_END, report_loading
from mllama_demo.engine.neuron.weights_progress import WeightsProgress, mapped_bytes, weights_size
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Neuron runs on Linux")
MB = 10**6


@pytest.fixture
def artifact(tmp_path, monkeypatch) -> Path:
    """The weights of three cores, of 40 MB each. Pages of other files, such as libraries, count as none: a test may load any."""
    monkeypatch.setattr(weights_progress, "TICK_S", 0.01)
    monkeypatch.setattr(weights_progress, "mapped_bytes", lambda: mapped_bytes_of(tmp_path))
    (tmp_path / "weights").mkdir()
    for core in range(3):
        save_file({"layer": torch.ones(10 * MB)}, tmp_path / f"weights/tp{core}_sharded_checkpoint.safetensors")
    return tmp_path


def mapped_bytes_of(folder: Path) -> int:
    """The bytes in the memory of this process of the mapped files below a folder, by the list of all mappings."""
    found, is_below = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):  # the first line of a mapping, with the path at its end
            is_below = str(folder) in rest
        elif is_below and name == "Rss:":
            found += 1024 * int(rest.split()[0])
    return found


def test_the_figure_of_the_system_counts_mapped_files(artifact):
    files = [load_file(artifact / f"weights/tp{core}_sharded_checkpoint.safetensors") for core in range(3)]
    assert [float(file["layer"].sum()) for file in files] == [10 * MB] * 3
    assert min(mapped_bytes() or 0, mapped_bytes_of(artifact)) >= 118 * MB


def test_the_bytes_rise_as_the_mapped_weights_are_read_and_not_before(artifact):
    """As NxDI does: every file is mapped, and then its tensors are copied one after the other."""
    told: list[tuple[int, int]] = []
    progress = WeightsProgress(artifact, lambda done, total: told.append((done, total)))
    progress.start()
    try:
        files = [load_file(artifact / f"weights/tp{core}_sharded_checkpoint.safetensors") for core in range(3)]
        wait_until(lambda: len(told) > 2, "a report")
        assert told[-1][0] < 20 * MB
        for core in range(3):
            files[core]["layer"].sum()
            wait_until(lambda core=core: told[-1][0] >= 40 * MB * (core + 1) - 8 * MB, "the bytes of a core")
            assert told[-1][0] < 40 * MB * (core + 1) + 20 * MB
        wait_until(lambda: told[-1][0] >= 118 * MB, "all bytes")
    finally:
        progress.stop()
    assert {total for _, total in told} == {weights_size(artifact)}
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_log_of_nxdi_begins_and_ends_it(artifact):
    told: list[int] = []
    stages: list[str] = []
    logger = logging.getLogger("Neuron")
    with report_loading(stages.append, WeightsProgress(artifact, lambda done, total: told.append(done))):
        assert told == []
        logger.info(f"{WEIGHTS_BEGIN} for ranks: 0...2")
        wait_until(lambda: told, "a report")
        logger.info(f"{WEIGHTS_END} 12.3 seconds")
        count = len(told)
        logger.info("Warming up the model.")
    assert len(told) == count
    assert stages == ["loading the weights onto the device", "the device warms up"]


def test_without_weights_or_without_the_systems_figures_nothing_is_reported(tmp_path, artifact, monkeypatch):
    monkeypatch.setattr(weights_progress, "mapped_bytes", mapped_bytes)
    for folder, status in ((tmp_path / "none", weights_progress.STATUS), (artifact, tmp_path / "missing")):
        monkeypatch.setattr(weights_progress, "STATUS", status)
        told: list[int] = []
        progress = WeightsProgress(folder, lambda done, total, told=told: told.append(done))
        progress.start()
        progress.stop()
        assert told == []
    assert mapped_bytes() is None
