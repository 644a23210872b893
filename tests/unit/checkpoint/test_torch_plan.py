# pyright: reportArgumentType=false
"""The memory of backend torch: the sizes of real models, the report, and the refusal of a model that does not fit."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mllama_demo import backends
from mllama_demo.backends import make_backend
from mllama_demo.checkpoint import torch_plan
from mllama_demo.checkpoint.plan import DOES_NOT_FIT, main
from mllama_demo.checkpoint.torch_memory import GB, TorchOptions, torch_memory
from mllama_demo.checkpoint.torch_plan import torch_options
from mllama_demo.config.model_shape import PUBLISHED, read_shape
from mllama_demo.config.settings import Settings
from mllama_demo.engine.torch.kv_cache import SlotCache
from mllama_demo.engine.torch.loading import load_model
from mllama_demo.errors import ConfigError
from tests.support.described_machine import LAPTOP
from tests.support.paths import ROOT

OPTIONS = TorchOptions("cpu", "float32", "bfloat16", "none", slots=1, seq_len=2048, vision_cache_size=2)


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory in GB; None for unknown."""

    def set_free(gigabytes: float | None) -> None:
        monkeypatch.setattr(torch_plan, "free_memory", lambda device: None if gigabytes is None else round(gigabytes * GB))

    return set_free


@pytest.fixture(autouse=True)
def units(monkeypatch):
    """Sets whether the CPU has units for bfloat16. It has none at first, whatever machine this is."""

    def set_units(there: bool) -> None:
        monkeypatch.setattr(torch_plan, "has_bfloat16_units", lambda: there)

    set_units(False)
    return set_units


@pytest.mark.parametrize(
    ("device", "dtype", "quantization"),
    [("cpu", "float32", "none"), *itertools.product(["meta"], ["bfloat16"], ["none", "int8", "int4"])],
)
def test_the_weights_are_counted_as_they_are_loaded(random_checkpoint, device, dtype, quantization):
    model = load_model(random_checkpoint, device=device, dtype=getattr(torch, dtype), quantization=quantization)
    tensors = [*model.parameters(), *(b for name, b in model.named_buffers() if "rotary" not in name)]
    options = replace(OPTIONS, device="cpu" if device == "cpu" else "cuda", dtype=dtype, quantization=quantization)
    assert torch_memory(read_shape(random_checkpoint / "config.json"), options).weights == sum(t.nbytes for t in tensors)


def test_the_caches_are_those_of_the_published_model():
    memory = torch_memory(PUBLISHED["11B"], replace(OPTIONS, slots=3, seq_len=1000))
    assert memory.text_cache == 3 * 1024 * 32 * 2 * 8 * 128 * 4
    assert memory.image_cache == 3 * 8 * 6656 * 2 * 8 * 128 * 4
    assert memory.encoded_images == 2 * 6404 * 4096 * 4


@pytest.mark.parametrize("seq_len", [1000, 1024])
def test_the_caches_are_counted_as_they_are_allocated(random_checkpoint, seq_len):
    shape = read_shape(random_checkpoint / "config.json")
    config = load_model(random_checkpoint, device="meta", dtype=torch.float32).config.text_config
    cache = SlotCache(config, 3, seq_len, shape.vision_tokens, torch.float32, torch.device("meta"))
    memory = torch_memory(shape, replace(OPTIONS, slots=3, seq_len=seq_len))
    for planned, cross in ((memory.text_cache, False), (memory.image_cache, True)):
        assert planned == sum(t.nbytes for layer in cache.layers if layer.cross == cross for t in (layer.keys, layer.values))


def test_the_large_model_in_4_bits_takes_the_memory_that_was_measured():
    assert torch_memory(PUBLISHED["11B"], replace(OPTIONS, quantization="int4")).weights == pytest.approx(7.53 * GB, rel=0.02)


def test_the_report_names_what_fits(free, capsys):
    free(16)
    assert main(["--device", "cpu", "--batch-size", "1"], "11B", as_json=False) == DOES_NOT_FIT
    text = capsys.readouterr().out
    assert "the published 11B model on cpu, float32, 1 slot of 2048 tokens" in text
    assert "free: 16.0 GB; does not fit" in text
    marks = {line.split()[1]: " ".join(line.split()[2:]) for line in text.splitlines()[-4:]}
    assert marks == {"float32": "does not fit", "bfloat16": "does not fit", "int8": "does not fit", "int4": "fits"}


def test_the_json_has_every_part_and_choice(free, capsys):
    free(None)
    assert main(["--device=cuda", "--quantization", "int8"], "90B", as_json=True) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["device"], plan["dtype"], plan["quantization"], plan["free"], plan["fits"]) == (
        "cuda",
        "bfloat16",
        "int8",
        None,
        True,
    )
    parts = plan["bytes"]
    assert parts["total"] == parts["weights"] + sum(
        parts[p] for p in ("text_cache", "image_cache", "encoded_images", "prefix_cache", "computing")
    )
    assert [(c["quantization"], c["dtype"]) for c in plan["choices"]] == [
        ("none", "float32"),
        ("none", "bfloat16"),
        ("int8", "bfloat16"),
        ("int4", "bfloat16"),
    ]


def test_the_sizes_of_a_checkpoint_are_read_from_its_folder(random_checkpoint, free, capsys):
    free(16)
    assert main(["--device", "cpu", "--model-path", str(random_checkpoint)], None, as_json=False) == 0
    assert str(random_checkpoint) in capsys.readouterr().out


@pytest.mark.parametrize(("device", "changes"), [("cpu", {}), ("cuda", {}), ("cpu", {"torch_dtype": "float32"}), ("cpu", None)])
def test_a_folder_with_only_a_config_is_planned(random_checkpoint, tmp_path, free, capsys, device, changes):
    """The largest tensor, which is loaded first, has the type that the config names; bfloat16 where it names none."""
    free(None)
    config = json.loads((random_checkpoint / "config.json").read_text())
    shape = read_shape(random_checkpoint / "config.json")
    if changes is None:
        config = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    elif changes:
        config = {key: value for key, value in config.items() if key != "dtype"} | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["--device", device, "--model-path", str(tmp_path)], None, as_json=True) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["bytes"]["loading"] == (shape.vocab + 8) * shape.hidden * (4 if changes else 2)


@pytest.mark.parametrize("name", ["laptop-11b", "laptop"])  # with backend torch and a device; with a device alone
def test_a_file_or_the_environment_chooses_the_backend_as_the_command_line_does(name, free, capsys, monkeypatch):
    free(1000)
    options = ["--config", str(ROOT / "configs" / f"{name}.yaml")]
    assert main(options, "11B", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cpu"
    monkeypatch.setenv("MLLAMA_DEMO_DEVICE", "cuda")
    assert main(options, "11B", as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cuda"


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (["--backend", "torch"], "add --device cpu or --device cuda"),
        (["--device", "cpu", "--backend", "openai"], "is for Neuron, but backend is openai"),
    ],
)
def test_a_device_without_a_plan_is_refused(options, refusal):
    with pytest.raises(ConfigError, match=refusal):
        main(options, "11B", as_json=False)


# --- serving -------------------------------------------------------------------------------------------------------------


def test_a_cpu_with_units_for_bfloat16_needs_half_the_caches():
    units = replace(OPTIONS, dtype="bfloat16", bfloat16_units=True)
    for dtype in ("float32", "float16"):  # has no effect on other types
        plain = replace(OPTIONS, dtype=dtype)
        assert torch_memory(PUBLISHED["11B"], replace(plain, bfloat16_units=True)) == torch_memory(PUBLISHED["11B"], plain)
    whole, half = (torch_memory(PUBLISHED["11B"], options) for options in (OPTIONS, units))
    assert (half.weights, half.text_cache, half.image_cache) == (
        whole.weights // 2,
        whole.text_cache // 2,
        whole.image_cache // 2,
    )


@pytest.mark.parametrize(
    ("device", "there", "stored", "changes", "expected"),
    [
        ("cpu", False, "bfloat16", {}, "float32"),
        ("cpu", True, "bfloat16", {}, "bfloat16"),
        ("cpu", True, "float16", {}, "float32"),
        ("cpu", True, "bfloat16", {"quantization": "int8"}, "float32"),
        ("cpu", True, "bfloat16", {"dtype": "float32"}, "float32"),
        ("cuda", False, "float16", {}, "bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_the_checkpoint_is_and_the_device_computes_with_it(
    units, device, there, stored, changes, expected
):
    units(there)
    assert torch_options(Settings(**changes), stored, device).dtype == expected


def test_a_model_that_does_not_fit_is_refused_with_what_would(random_checkpoint, free):
    shape = read_shape(random_checkpoint / "config.json")
    changes = ({"dtype": "bfloat16"}, {"quantization": "int8"})
    bfloat16, int8 = (torch_memory(shape, replace(OPTIONS, **change)).needed / GB for change in changes)
    assert int8 < bfloat16
    free((bfloat16 + int8) / 2)
    settings = {"model_path": random_checkpoint, "device": "cpu", "batch_size": 1}
    with pytest.raises(ConfigError) as caught:
        make_backend(Settings(dtype="bfloat16", **settings))
    assert "GB of memory (bfloat16, 1 slot of 2048 tokens), but 0.7 GB are free; quantization int8 would fit." in str(
        caught.value
    )
    make_backend(Settings(quantization="int8", **settings))


def test_the_refusal_names_fewer_slots_where_they_would_do(random_checkpoint, free):
    shape = read_shape(random_checkpoint / "config.json")
    one, eight = (torch_memory(shape, replace(OPTIONS, slots=slots)).needed / GB for slots in (1, 8))
    assert one < eight
    free((one + eight) / 2)
    with pytest.raises(ConfigError, match=r"are free; batch_size 1 would fit\.$"):
        make_backend(Settings(model_path=random_checkpoint, device="cpu", batch_size=8))


def test_a_model_that_never_fits_is_refused(random_checkpoint, free):
    free(0.1)
    with pytest.raises(ConfigError, match="reduce batch_size or seq_len, or use a machine with more memory or a smaller model"):
        make_backend(Settings(model_path=random_checkpoint, device="cpu"))


def test_caches_that_would_not_fit_when_full_are_warned_of(free, caplog):
    """The embedded model starts in a container of 1 GB, although a full prefix cache would not fit."""
    free(1)
    with caplog.at_level(logging.WARNING):
        make_backend(Settings(device="cpu"))
    (warning,) = caplog.messages
    assert "but 1.0 GB are free; reduce prefix_cache_mb (512), vision_cache_size (16) or batch_size (" in warning

    caplog.clear()
    free(10)
    make_backend(Settings(device="cpu"))
    assert not caplog.messages


@pytest.mark.parametrize(("cpu", "gpu", "refused"), [(0.1, 0.01, True), (0.1, 10, False), (10, 0.01, False), (0.1, None, False)])
def test_device_auto_is_refused_only_when_the_model_fits_neither(random_checkpoint, tmp_path, monkeypatch, cpu, gpu, refused):
    machine = replace(LAPTOP, gpu="nvidia1").build(tmp_path / "machine")
    monkeypatch.setattr(backends, "this_machine", lambda: machine)
    free = {"cpu": cpu * GB, "cuda": gpu and gpu * GB}
    monkeypatch.setattr(torch_plan, "free_memory", lambda device: free[device])
    if refused:
        with pytest.raises(ConfigError, match=r"0\.0 GB are free"):
            make_backend(Settings(model_path=random_checkpoint))
    else:
        make_backend(Settings(model_path=random_checkpoint))


def test_unknown_memory_refuses_nothing(random_checkpoint, free):
    free(None)
    make_backend(Settings(model_path=random_checkpoint, device="cpu"))


# --- free memory ---------------------------------------------------------------------------------------------------------

V1 = {"memory/memory.limit_in_bytes": "6000000000", "memory/memory.usage_in_bytes": "1000000000"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "8000000000"}, 8_000_000_000),
        ({"memory.max": "8000000000", "memory.current": "500000000"}, 7_500_000_000),
        (
            {
                "memory.max": "8000000000",
                "memory.current": "500000000",
                "memory.stat": "anon 200000000\ninactive_file 250000000\nactive_file 50000000",
            },
            7_800_000_000,
        ),
        ({"memory.max": "1000", "memory.current": "2000"}, 0),
        ({"memory.max": "max", "memory.current": "500000000"}, 20_000_000 * 1024),
        (V1, 5_000_000_000),
        (V1 | {"memory/memory.stat": "inactive_file 7\ntotal_inactive_file 400000000"}, 5_400_000_000),
        (V1 | {"memory/memory.limit_in_bytes": "9223372036854771712"}, 20_000_000 * 1024),
        ({}, 20_000_000 * 1024),
    ],
)
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, files, free):
    for name, text in {"proc/meminfo": "MemAvailable:   20000000 kB"}.items() | {
        (f"sys/fs/cgroup/{name}", text) for name, text in files.items()
    }:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    here = torch_plan.this_machine()
    monkeypatch.setattr(torch_plan, "this_machine", lambda: replace(here, root=Path(tmp_path)))
    assert torch_plan.free_memory("cpu") == free


@pytest.mark.parametrize(
    ("device", "found"),
    [("nvidia0", True), ("nvidia3", True), ("dxg", True), ("kfd", True), ("nvidiactl", False), ("nvidia-uvm", False)],
)
def test_the_devices_that_show_a_gpu(tmp_path, device, found):
    assert replace(LAPTOP, gpu=device).build(tmp_path / "machine").gpu is found


@pytest.mark.parametrize(
    ("visible", "device", "asked"),
    [
        (None, "cuda", "0"),
        (None, "cuda:2", "2"),
        ("3,1", "cuda", "3"),
        ("3, 1", "cuda:1", "1"),
        ("GPU-8932f937-d72c", "cuda:0", "GPU-8932f937-d72c"),
        ("3,1", "cuda:2", None),
        ("3,-1,1", "cuda:2", None),
        ("", "cuda", None),
    ],
)
def test_the_gpu_that_cuda_sees_is_asked_for_its_memory(tmp_path, monkeypatch, visible, device, asked):
    """A program in the place of nvidia-smi notes its arguments and says 1000 MiB."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\necho "$last" > {tmp_path}/asked\necho 1000\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert torch_plan.free_memory(device) == (None if asked is None else 1000 * 2**20)
    note = tmp_path / "asked"
    assert (note.read_text().strip() if note.exists() else None) == asked
