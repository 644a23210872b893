"""What a Neuron configuration takes of a core's memory: exact where it can be, and in agreement with what AWS says fits."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest

from mllama_demo.checkpoint import memory as formula
from mllama_demo.checkpoint.memory import GIB, core_memory, core_parameters, scratch_bytes
from mllama_demo.checkpoint.plan import choices, verdict
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.cli import main
from mllama_demo.config.loader import load_settings
from mllama_demo.config.model_shape import PUBLISHED, read_shape
from mllama_demo.config.neuron import NeuronOptions, default_buckets
from mllama_demo.config.settings import Settings
from tests.support.paths import ROOT

B11, B90 = PUBLISHED["11B"], PUBLISHED["90B"]


def options(seq_len: int = 2048, **changes: Any) -> NeuronOptions:
    return replace(Settings(backend="neuron", seq_len=seq_len).neuron, **changes)


def config(name: str) -> str:
    return str(ROOT / "configs" / f"{name}.yaml")


# --- the exact parts -----------------------------------------------------------------------------------------------------


def test_on_one_core_the_weights_are_all_the_parameters_of_the_model():
    assert core_parameters(B11, 1) == 10_670_220_835
    assert core_parameters(B90, 1) == 88_593_355_323


def test_the_embedded_checkpoint_has_as_many_parameters_as_its_shape_says(embedded):
    assert core_parameters(read_shape(embedded / "config.json"), 1) == check_checkpoint(embedded).parameters


def test_a_core_of_32_holds_the_share_of_90b_computed_by_hand():
    attention = 8192 * 128 * (2 + 1 + 1 + 2)  # two of 64 query heads, one key-value head that others hold as well
    layer = attention + 3 * 8192 * 896 + 2 * 8192
    text = 100 * layer + 20 * (2 * 128 + 2) + 128264 * 256 + 4008 * 8192 + 8192
    vision_layer = 4 * 1280 * 80 + 2 * 1280 * 160 + 160 + 1280 + 4 * 1280  # one of 16 heads, padded to 32
    positions = 9 * 4 * 1601 * 1280 + 1601 * 1280 + 1 + 2 * (9 * 4 * 1280 + 1)
    vision = 40 * vision_layer + 8 * 2 + positions + 588 * 40 + 1280 + 4 * 1280
    assert core_parameters(B90, 32) == text + vision + 256 * (7680 + 1)


def test_more_cores_hold_less_each_and_more_together():
    held = [core_parameters(B90, t) for t in (1, 2, 4, 8, 16, 32)]
    assert held == sorted(held, reverse=True)
    together = [t * count for t, count in zip((1, 2, 4, 8, 16, 32), held, strict=True)]
    assert together == sorted(together)
    assert together[-1] < 1.1 * together[0]


def test_the_caches_have_the_sizes_computed_by_hand():
    memory = core_memory(B90, options())
    assert memory.text_cache == 2 * 80 * 4 * 1 * 2048 * 128 * 2
    assert memory.image_cache == 2 * 20 * 4 * 1 * 6404 * 128 * 2
    assert core_memory(B90, options(tensor_parallel_size=4)).text_cache == 2 * memory.text_cache  # two heads on each
    assert core_memory(B90, options(batch_size=1)).image_cache * 4 == memory.image_cache
    assert core_memory(B90, options(dtype="float32")).text_cache == 2 * memory.text_cache


# --- the estimates -------------------------------------------------------------------------------------------------------


def test_scratch_is_whole_pages_and_grows_with_the_longest_prompt():
    lengths = (1024, 2048, 4096, 16384, 65536)
    sizes = [scratch_bytes(B11, options(length, context_encoding_buckets=(length,))) for length in lengths]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    memory = core_memory(B11, options(65536, batch_size=1))
    assert memory.scratch % GIB == 0
    assert 0 <= memory.scratch - sizes[-1] < GIB


def test_attention_scores_count_only_below_the_length_of_the_flash_kernel():
    small = replace(B90, tile_size=84)  # pictures so small that cross-attention is not the largest step
    lengths = (4095, 4096)
    below, at = (
        scratch_bytes(small, options(length, tensor_parallel_size=1, context_encoding_buckets=(length,))) for length in lengths
    )
    assert below > at
    assert scratch_bytes(B90, options(16384, sequence_parallel_enabled=True)) < scratch_bytes(B90, options(16384))


def test_every_bucket_is_a_graph():
    one, six = (
        core_memory(B90, options(16384, context_encoding_buckets=b, token_generation_buckets=b))
        for b in ((16384,), (1, 2, 16384))
    )
    assert math.isclose(six.graphs, 3 * one.graphs, rel_tol=1e-6)


# --- what AWS says -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "t", "batch", "seq_len", "fits"),
    [
        (B90, 32, 4, 2048, True),  # the tutorial's example
        (B90, 32, 4, 16384, True),  # and the one in its note on buckets
        (B90, 16, 4, 2048, True),  # on an inf2.48xlarge
        (B90, 16, 1, 16384, True),
        (B11, 32, 1, 131072, True),  # the longest context of 11B
        (B90, 8, 4, 2048, False),  # an inf2.24xlarge is too small
        (B90, 2, 1, 1024, False),
        (B11, 2, 4, 2048, True),  # 21 GB on two cores of 16
    ],
)
def test_the_plan_agrees_with_what_is_published(shape, t, batch, seq_len, fits):
    memory = core_memory(
        shape, options(seq_len, tensor_parallel_size=t, batch_size=batch, sequence_parallel_enabled=seq_len > 2048)
    )
    assert (memory.free >= 0) == fits


def test_the_table_in_the_docstring_is_what_the_formula_computes():
    lines = re.findall(r"^(11B|90B) (\w+) (\w+) +([\d. ]+)$", formula.__doc__ or "", re.MULTILINE)
    names = {("11B", "trn1", "2048"): "trn1-11b", ("90B", "trn1", "2048"): "trn1-90b"}
    names |= {("90B", "trn1", "16k"): "trn1-90b-16k", ("90B", "inf2", "2048"): "inf2-90b"}
    assert len(lines) == len(names)
    for *key, numbers in lines:
        o = load_settings(["--config", config(names[tuple(key)])], {}).neuron
        m = core_memory(PUBLISHED[key[0]], o)
        made = [m.weights, m.text_cache, m.image_cache, m.scratch, m.graphs, m.total]
        assert numbers.split() == [f"{size / GIB:.2f}" for size in made], key


# --- choices and words ---------------------------------------------------------------------------------------------------


def test_alternatives_cover_the_models_lengths_and_name_the_rules_that_others_break():
    found = {(choice.batch_size, choice.seq_len): choice for choice in choices(B90, options())}
    assert set(found) == {(batch, 1024 * 2**step) for batch in (1, 2, 4) for step in range(8)}
    assert found[4, 16384].memory is not None
    assert found[4, 16384].buckets == default_buckets(16384)
    assert found[4, 32768].memory is None
    assert "90B" in str(found[4, 32768].problem)
    eleven = {(choice.batch_size, choice.seq_len): choice for choice in choices(B11, options())}
    assert "one slot" in str(eleven[4, 32768].problem)
    assert eleven[1, 131072].memory is not None
    assert (
        max(
            seq_len for _, seq_len in {(c.batch_size, c.seq_len): c for c in choices(replace(B11, max_positions=4096), options())}
        )
        == 4096
    )


@pytest.mark.parametrize(
    ("t", "batch", "seq_len", "words"),
    [
        (32, 4, 2048, "fits: 8.44 GiB free"),
        (16, 4, 16384, "does not fit, by estimate: 0.99 GiB too much"),
        (8, 4, 2048, "does not fit: weights and caches alone are 21."),
        (16, 2, 16384, "fits, by estimate, but tightly: 0."),
    ],
)
def test_the_verdict_says_whether_it_is_an_estimate(t, batch, seq_len, words):
    o = options(seq_len, tensor_parallel_size=t, batch_size=batch, sequence_parallel_enabled=seq_len > 2048)
    assert verdict(core_memory(B90, o)).startswith(words)


# --- the command ------------------------------------------------------------------------------------------------------------


def test_a_configuration_that_fits_is_shown_with_its_parts_and_its_alternatives(capsys):
    assert main(["plan", "--config", config("trn1-90b")]) == 0
    out = capsys.readouterr().out
    assert "the published 90B model on trn1.32xlarge, 32 of 32 NeuronCores" in out
    assert "weights        5.61   bfloat16, 1/32 of 88.6 billion" in out
    assert "4 slots of 6404 image tokens in 20 layers" in out
    assert "estimate, for the buckets 256, 512, 1024, 2048" in out
    assert "total          7.86   fits: 8.14 GiB free" in out
    assert re.search(r"^ +2048 +\d\.\d+ +\d\.\d+ +7\.56 +1024, 2048$", out, re.MULTILINE)
    assert re.search(r"^ +32768 +- +- +- +1024, 2048, 32768$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 100


def test_a_trn2_has_other_cores(capsys):
    """64 logical NeuronCores of 24 GiB, each of two physical ones."""
    assert main(["plan", "--config", config("trn2-90b")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("GiB of the 24 on each core: the published 90B model on trn2.48xlarge, 32 of 64 NeuronCores\n")
    assert "total          7.86   fits: 16.14 GiB free" in out
    refused = ["plan", "--shape", "90b", "--instance-type", "trn2.48xlarge", "--tensor-parallel-size", "64"]
    assert main(refused) == 2
    assert "the vision encoder cannot be cut into more than 32" in capsys.readouterr().err


def test_plan_ends_with_1_for_a_configuration_that_does_not_fit(capsys):
    assert main(["plan", "--shape", "90b", "--instance-type", "inf2.24xlarge", "--tensor-parallel-size", "8"]) == 1
    out = capsys.readouterr().out
    assert "does not fit: weights and caches alone are 21." in out
    assert "!" in out.split("buckets\n")[-1]


def test_plan_prints_bytes_as_json(capsys):
    assert main(["plan", "--config", config("inf2-90b"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    buckets = {"context_encoding_buckets": (256, 512, 1024, 2048), "token_generation_buckets": (512, 1024, 2048)}
    expected = core_memory(B90, options(instance_type="inf2.48xlarge", tensor_parallel_size=16, **buckets))
    assert plan["fits"] is True
    assert plan["bytes_per_core"]["total"] == expected.total
    assert plan["bytes_per_core"]["weights"] == expected.weights
    by_size = {(choice["batch_size"], choice["seq_len"]): choice for choice in plan["choices"]}
    assert by_size[4, 2048]["bytes_per_core"]["weights"] == expected.weights
    assert by_size[4, 16384]["fits"] is False
    assert "problem" in by_size[1, 131072]


def test_the_models_own_config_json_comes_first(tmp_path, embedded, capsys):
    folder = tmp_path / "Llama-3.2-90B-Vision"
    folder.mkdir()
    (folder / "config.json").write_text((embedded / "config.json").read_text())
    argv = ["plan", "--model-path", str(folder), "--tensor-parallel-size", "2"]
    assert main(argv) == 0
    assert f"{folder} on trn1.32xlarge, 2 of 32 NeuronCores" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Llama-3.2-11B-Vision-Instruct", "llama-11b"])
def test_without_files_the_folders_name_says_which_model_is_meant(tmp_path, name, capsys):
    assert main(["plan", "--model-path", str(tmp_path / name)]) == 0
    assert "the published 11B model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--model-path", "/nowhere/model-211b"], "does not exist and its folder names no size; download the checkpoint or pass"),
        (["--config", "nowhere.yaml"], "The configuration file nowhere.yaml (named by --config) cannot be read"),
        (["--shape", "7B"], "'7B' is not one of"),
        (["--shape", "90B", "--bacth-size", "2"], "did you mean --batch-size?"),
        (["--shape", "90B", "--batch-size", "5"], "NxDI supports at most 4 slots"),
        (["--shape", "90B", "--instance-type", "inf2.48xlarge"], "inf2.48xlarge has 24 NeuronCores; 16 works"),
        (
            ["--shape", "90B", "--seq-len", "32768", "--batch-size", "4"],
            "the size of 90B is limited to 16384 tokens; 16384 works",
        ),
        (
            ["--model-path", "/nowhere/Llama-90B", "--seq-len", "32768", "--batch-size", "1"],
            "seq_len is 32768 (from --seq-len on the command line), but a model of the size of 90B is limited to 16384 tokens",
        ),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(argv, expected, capsys):
    assert main(["plan", *argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert expected in printed.err
