"""What `compile --dry-run` says, and that it changes nothing."""

from __future__ import annotations

import importlib.metadata

import pytest

from mllama_demo.checkpoint.compilation import compile as module
from mllama_demo.checkpoint.memory import GIB, CoreMemory
from tests.support.compilations import compile_it, made, refused, wanted

pytestmark = pytest.mark.timeout(120)


def test_a_dry_run_describes_the_compilation_and_writes_nothing(config, capsys):
    assert compile_it(config, "--dry-run") == 0
    out = capsys.readouterr().out
    for words in (
        "1 of 32 NeuronCores",
        "4 of 256 tokens",
        "3: prompts of 64, 128; contexts of 256",
        "among 64",
        "to be compiled",
    ):
        assert words in out
    assert str(wanted(config).location.folder) in out
    assert "neuronx-distributed-inference 0.9.0" in out
    assert not (config.parent / "artifacts").exists()


def test_a_dry_run_recognizes_a_compiled_model(config, capsys):
    assert compile_it(config) == 0
    assert compile_it(config, "--dry-run") == 0
    assert "compiled; nothing to do" in capsys.readouterr().out
    assert compile_it(config, "--dry-run", "--on-device-sampling-config", "none") == 0
    out = capsys.readouterr().out
    assert "on the host, with probabilities" in out
    assert "neuron.on_device_sampling_config.global_topk is 64 there and missing here" in out


def test_a_dry_run_says_that_the_disk_is_too_small(config, capsys, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(module, "free_bytes", lambda folder: 10**6)
        assert "where 0.0 GB are free; name another folder with --compiled-artifacts" in refused(capsys, config, "--dry-run")
    assert compile_it(config) == 0
    monkeypatch.setattr(module, "free_bytes", lambda folder: 10**6)
    assert compile_it(config, "--dry-run") == 0, "a compiled model needs no more space"


def test_a_dry_run_says_that_the_model_cannot_fit(config, capsys, monkeypatch):
    monkeypatch.setattr(module, "core_memory", lambda *_: CoreMemory(15 * GIB, 2 * GIB, 0, 0, 0, 16 * GIB))
    assert "weights and caches alone are 17.0 GiB" in refused(capsys, config, "--dry-run")


@pytest.mark.parametrize("flags", [[], ["--dry-run"]], ids=["compile", "dry run"])
def test_a_release_of_nxdi_that_does_not_work_is_refused_before_the_compilation(config, capsys, monkeypatch, flags):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.3.5591")
    assert "NxD Inference 0.3.5591, of SDK 2.23, cannot be used" in refused(capsys, config, *flags)
    assert not made(config)


def test_a_dry_run_says_that_a_variable_changes_the_logical_cores(config, capsys, monkeypatch):
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "2")
    assert "NEURON_LOGICAL_NC_CONFIG is 2, but this configuration counts" in refused(capsys, config, "--dry-run")


def test_a_dry_run_needs_no_sdk(config, capsys, monkeypatch):
    monkeypatch.undo()
    assert compile_it(config, "--dry-run") == 0
    assert "not installed here" in capsys.readouterr().out
