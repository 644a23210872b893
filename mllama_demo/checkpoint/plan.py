"""The command `plan`: says whether a configuration fits the memory of a Neuron device, a GPU or this machine, and which would.

Needs no weights and no device. The sizes of the model come from its config.json or from a published model; the formula is in
memory.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mllama_demo.checkpoint.memory import GIB, CoreMemory, core_memory, core_parameters
from mllama_demo.checkpoint.torch_plan import plan_torch
from mllama_demo.config.hub_cache import checkpoint_name
from mllama_demo.config.loader import load_settings
from mllama_demo.config.model_shape import PUBLISHED, ModelShape, published_by_name, read_dtype, read_shape
from mllama_demo.config.neuron import CORES, MAX_BATCH, NeuronOptions, default_buckets, first_problem
from mllama_demo.config.settings import Settings
from mllama_demo.errors import ConfigError
from mllama_demo.runtime.words import counted

DOES_NOT_FIT = 1
_TIGHT = GIB  # bytes; less free memory is within the error of the estimates
_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
_BATCHES = (1, 2, MAX_BATCH)


@dataclass(frozen=True)
class PlannedSize:
    """A batch size and a context length with the default buckets. problem: the rule that they break; then memory is None."""

    batch_size: int
    seq_len: int
    buckets: tuple[int, ...]
    memory: CoreMemory | None
    problem: str | None


def main(options: Sequence[str], published: str | None, as_json: bool, from_store: bool = False) -> int:
    """The command `plan`.

    Args:
        options: those of `serve`.
        published: the size of a published model to plan for, "11B" or "90B"; None plans for the one in model_path.
        as_json: print JSON instead of a table.
        from_store: suggest buckets by the prompts of the store, instead of printing the table.

    Returns:
        The exit code: 0 when the configuration fits, 1 when it does not.
    """
    named = PUBLISHED[published] if published else None
    settings = load_settings(options, shape=named, neuron_command="`plan` without backend torch", torch_too=True)
    if settings.backend == "torch":
        if from_store:
            raise ConfigError(
                "--from-store suggests buckets for Neuron, and this configuration is for backend torch; leave it out."
            )
        return _plan_torch(settings, published, as_json)
    shape, origin = _shape(settings, published)
    neuron = settings.neuron
    if from_store:
        return _plan_buckets(settings, shape, as_json)
    memory = core_memory(shape, neuron)
    found = list(choices(shape, neuron))
    print(json.dumps(_as_json(neuron, memory, found), indent=2) if as_json else report(shape, origin, neuron, memory, found))
    return 0 if memory.free >= 0 else DOES_NOT_FIT


def _plan_buckets(settings: Settings, shape: ModelShape, as_json: bool) -> int:
    """Suggests buckets, and says what they take of the memory."""
    from mllama_demo.checkpoint.bucket_plan import plan_buckets, with_buckets

    suggested = plan_buckets(settings)
    memory = core_memory(shape, with_buckets(settings.neuron, suggested))
    if as_json:
        print(json.dumps({**suggested.as_json(), "fits": memory.free >= 0, "total": memory.total}, indent=2))
    else:
        print("\n".join([*suggested.lines(), "", f"With these buckets each core {verdict(memory)}."]))
    return 0 if memory.free >= 0 else DOES_NOT_FIT


def _plan_torch(settings: Settings, published: str | None, as_json: bool) -> int:
    """The plan for a configuration of backend torch."""
    if settings.device == "auto":
        raise ConfigError("A plan for backend torch is for one device: add --device cpu or --device cuda.")
    shape, origin = _shape(settings, published)
    file = settings.model_path / "config.json"
    stored = read_dtype(file) if published is None and file.is_file() else None
    text, fits = plan_torch(settings, shape, origin, stored or "bfloat16", as_json)
    print(text)
    return 0 if fits else DOES_NOT_FIT


def _shape(settings: Settings, named: str | None) -> tuple[ModelShape, str]:
    """The sizes of the model, and where they are from, in words."""
    if named:
        return PUBLISHED[named], f"the published {named} model"
    file = settings.model_path / "config.json"
    if file.is_file():
        return read_shape(file), str(settings.model_path)
    if (shape := published_by_name(checkpoint_name(settings.model_path))) is not None:
        return shape, f"the published {next(size for size, known in PUBLISHED.items() if known is shape)} model"
    raise ConfigError(f"{file} does not exist and its folder names no size; download the checkpoint or pass --shape 11B or 90B.")


def choices(shape: ModelShape, options: NeuronOptions) -> Iterator[PlannedSize]:
    """Every common batch size and context length on the same instance, whether it fits or not."""
    for seq_len in (length for length in _LENGTHS if length <= shape.max_positions):
        for batch_size in _BATCHES:
            buckets = default_buckets(seq_len)
            wanted = replace(
                options,
                batch_size=batch_size,
                seq_len=seq_len,
                context_encoding_buckets=buckets,
                token_generation_buckets=buckets,
                is_continuous_batching=True,
            )
            problem = first_problem(wanted, shape)
            memory = None if problem else core_memory(shape, wanted)
            yield PlannedSize(batch_size, seq_len, buckets, memory, problem.rule if problem else None)


def verdict(memory: CoreMemory) -> str:
    """Whether the model fits, in words. Says "by estimate" where the exact part alone does not decide it."""
    free = abs(memory.free) / GIB
    if memory.exact > memory.capacity:
        return f"does not fit: weights and caches alone are {memory.exact / GIB:.2f} GiB"
    if memory.free < 0:
        return f"does not fit, by estimate: {free:.2f} GiB too much"
    if memory.free < _TIGHT:
        return f"fits, by estimate, but tightly: {free:.2f} GiB free"
    return f"fits: {free:.2f} GiB free"


def report(shape: ModelShape, origin: str, o: NeuronOptions, memory: CoreMemory, found: Sequence[PlannedSize]) -> str:
    """The table for a terminal."""
    whole = core_parameters(shape, 1)
    slots = counted(o.batch_size, "slot")
    rows = [
        (
            "weights",
            memory.weights,
            f"{o.dtype}, 1/{o.tensor_parallel_size} of {whole / 1e9:.1f} billion and what every core keeps",
        ),
        ("text cache", memory.text_cache, f"{slots} of {o.seq_len} tokens in {shape.self_layers} layers"),
        ("image cache", memory.image_cache, f"{slots} of {shape.vision_tokens} image tokens in {len(shape.cross_layers)} layers"),
        ("scratch", memory.scratch, f"estimate, for prompts of {o.max_context_length} tokens"),
        ("graphs", memory.graphs, "estimate, for the buckets " + _buckets(o)),
        ("total", memory.total, verdict(memory)),
    ]
    cores = f"{o.tensor_parallel_size} of {CORES[o.instance_type]} NeuronCores"
    lines = [f"GiB of the {o.chip.core_gib} on each core: {origin} on {o.instance_type}, {cores}", ""]
    lines += [f"  {name:12}{size / GIB:7.2f}   {words}" for name, size, words in rows]
    lines += ["", "What else fits, with the usual buckets (GiB of each core; * tight, ! too much, - against a rule):", ""]
    lines += [f"  {'seq_len':>8}" + "".join(f"{counted(batch, 'slot'):>10}" for batch in _BATCHES) + "   buckets"]
    for seq_len in dict.fromkeys(choice.seq_len for choice in found):
        row = [choice for choice in found if choice.seq_len == seq_len]
        buckets = ", ".join(map(str, row[0].buckets))
        lines.append(f"  {seq_len:8}" + "".join(f"{_cell(choice):>10}" for choice in row) + f"   {buckets}")
    return "\n".join(lines)


def _cell(choice: PlannedSize) -> str:
    if choice.memory is None:
        return "- "
    mark = "!" if choice.memory.free < 0 else "*" if choice.memory.free < _TIGHT else " "
    return f"{choice.memory.total / GIB:.2f}{mark}"


def _buckets(o: NeuronOptions) -> str:
    context, token = (", ".join(map(str, lengths)) for lengths in (o.context_encoding_buckets, o.token_generation_buckets))
    return context if context == token else f"{context} and {token}"


def _as_json(o: NeuronOptions, memory: CoreMemory, found: Sequence[PlannedSize]) -> dict[str, Any]:
    def sizes(m: CoreMemory) -> dict[str, int]:
        parts = {name: getattr(m, name) for name in ("weights", "text_cache", "image_cache", "scratch", "graphs")}
        return {**parts, "total": m.total, "free": m.free}

    return {
        "instance_type": o.instance_type,
        "tensor_parallel_size": o.tensor_parallel_size,
        "batch_size": o.batch_size,
        "seq_len": o.seq_len,
        "fits": memory.free >= 0,
        "bytes_per_core": sizes(memory),
        "choices": [
            {
                "batch_size": choice.batch_size,
                "seq_len": choice.seq_len,
                "buckets": list(choice.buckets),
                "fits": choice.memory is not None and choice.memory.free >= 0,
                **({"problem": choice.problem} if choice.memory is None else {"bytes_per_core": sizes(choice.memory)}),
            }
            for choice in found
        ],
    }
