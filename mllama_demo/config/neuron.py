"""The options of a Neuron engine and the rules that they must keep, since a broken rule costs an hour of compilation.

The module knows instances, limits and the shape of a model, and imports nothing heavy. The limits are those of NxDI's code for
Llama 3.2 Vision and of AWS's tutorial for it (docs-neuron, "Deploying Llama3.2 Multimodal Models").
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mllama_demo.config.model_shape import ModelShape, neuron_cross_layers

InstanceType = Literal[
    "trn1.2xlarge",
    "trn1.32xlarge",
    "trn1n.32xlarge",
    "inf2.xlarge",
    "inf2.8xlarge",
    "inf2.24xlarge",
    "inf2.48xlarge",
    "trn2.48xlarge",
]
CORES: dict[InstanceType, int] = {  # logical NeuronCores, as AWS publishes them
    "trn1.2xlarge": 2,
    "trn1.32xlarge": 32,
    "trn1n.32xlarge": 32,
    "inf2.xlarge": 2,
    "inf2.8xlarge": 2,
    "inf2.24xlarge": 12,
    "inf2.48xlarge": 24,
    "trn2.48xlarge": 64,  # of 128 physical ones
}


@dataclass(frozen=True)
class Chip:
    """A chip with NeuronCores.

    Attributes:
        cores: Logical NeuronCores. Each is a number that a process of the model has, and tensor_parallel_size counts them.
        physical: How many physical NeuronCores work together as a logical one: the LNC, at its default.
        core_gib: GiB of device memory of a logical NeuronCore.
    """

    cores: int
    physical: int
    core_gib: int


_NEURON_CORE_V2 = Chip(cores=2, physical=1, core_gib=16)  # Trainium and Inferentia2: 32 GiB
_TRAINIUM2 = Chip(cores=4, physical=2, core_gib=24)  # 96 GiB


def family_of(instance_type: str) -> str:
    """The family of an instance type: trn1 for "trn1.32xlarge" and for "trn1n.32xlarge", whose chips are the same."""
    return instance_type.partition(".")[0].removesuffix("n")


def chip(instance: str) -> Chip:
    """The chip of an instance type."""
    return _TRAINIUM2 if family_of(instance) == "trn2" else _NEURON_CORE_V2


MAX_TENSOR_PARALLEL = 32  # of NxDI's vision encoder
MAX_BATCH = 4
LONG_CONTEXT = 16384  # tokens: the longest context of 90B; a longer one leaves memory for one slot
GRAPH_DISK_BYTES = 2**30  # of each graph: traced, compiled, and in model.pt. An upper estimate.
SCRATCHPAD_PAGE_MIB = 1024  # fixed by NxDI's compiler arguments for this model
NO_SDK = (
    "The Neuron backend needs the package neuronx-distributed-inference of the AWS Neuron SDK: use the SDK's PyTorch inference "
    "environment on a trn1, inf2 or trn2 instance, or choose backend torch (--backend torch)."
)
_HOST_SAMPLING = "for sampling on the host, leave on_device_sampling_config at none"
# Options of NxDI and vLLM that are no options here, and why.
NOT_OPTIONS = {
    "tp_degree": "it is called tensor_parallel_size here",
    "max_model_len": "it is called seq_len here",
    "max_length": "it is called seq_len here",
    "max_num_seqs": "it is called batch_size here",
    "max_batch_size": "it always equals batch_size",
    "tkg_batch_size": "it always equals batch_size",
    "kv_cache_batch_size": "it always equals batch_size",
    "ctx_batch_size": "it is always 1, as prompts are read one slot at a time",
    "max_context_length": "it is the largest of context_encoding_buckets",
    "buckets": "name context_encoding_buckets and token_generation_buckets",
    "enable_bucketing": "it is always on",
    "scratchpad_page_size": f"it is always {SCRATCHPAD_PAGE_MIB}, the size that NxDI compiles this model for",
    "block_size": "slots have a contiguous cache, with no blocks",
    "override_neuron_config": "put its keys into the file one by one",
    "quantized": "this model runs in the number format of dtype; with backend torch, quantization makes its weights smaller",
    "quantized_checkpoints_path": "this model runs in the number format of dtype",
    "quantization_dtype": "this model runs in the number format of dtype",
    "skip_vision": "it would leave the images out of every prompt",
    "padding_side": "it is always right; NxDI reads left padding wrongly",
    "output_logits": "it breaks the caches of this model; " + _HOST_SAMPLING,
    "is_block_kv_layout": "this model crashes with it",
    "is_prefix_caching": "this model crashes with it",
    "is_chunked_prefill": "this model has no chunked prefill",
    "chunked_prefill_config": "this model has no chunked prefill",
    "speculation_length": "this model has no speculative decoding",
    "enable_fused_speculation": "this model has no speculative decoding",
    "enable_eagle_speculation": "this model has no speculative decoding",
    "is_medusa": "this model has no speculative decoding",
}


class OnDeviceSampling(BaseModel):
    """The option on_device_sampling_config, with the tutorial's names and defaults. None samples on the host.

    dynamic is always true, because every request brings its own values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    global_topk: int = Field(default=64, ge=1)
    dynamic: Literal[True] = True
    deterministic: bool = False


@dataclass(frozen=True)
class NeuronOptions:
    """The options that a Neuron engine is compiled for. Lengths are in tokens."""

    instance_type: InstanceType
    tensor_parallel_size: int
    batch_size: int
    seq_len: int
    context_encoding_buckets: tuple[int, ...]
    token_generation_buckets: tuple[int, ...]
    sequence_parallel_enabled: bool
    is_continuous_batching: bool
    on_device_sampling_config: OnDeviceSampling | None
    dtype: str
    fused_qkv: bool = False
    device: str = "auto"

    @property
    def max_context_length(self) -> int:
        """The longest prompt."""
        return self.context_encoding_buckets[-1]

    @property
    def graphs(self) -> int:
        """NxDI compiles one graph for each bucket."""
        return len(self.context_encoding_buckets) + len(self.token_generation_buckets)

    @property
    def chip(self) -> Chip:
        return chip(self.instance_type)

    @property
    def dtype_bytes(self) -> int:
        return 4 if self.dtype == "float32" else 2


def default_buckets(seq_len: int) -> tuple[int, ...]:
    """The buckets of AWS's tutorial: 1024 and 2048 tokens for most prompts, and seq_len. More buckets take more memory."""
    return (*(length for length in (1024, 2048) if length < seq_len), seq_len)


@dataclass(frozen=True)
class Problem:
    """A rule that a configuration breaks.

    Attributes:
        key: the option at fault.
        rule: the rule, as a sentence continues after "but".
        works: a value that keeps the rule.
    """

    key: str
    rule: str
    works: Any


def first_problem(options: NeuronOptions, model: ModelShape | None = None) -> Problem | None:
    """The first rule that the options break. With a model, NxDI's rules for the model are checked too."""
    found = itertools.chain.from_iterable(rule(options) for rule in _RULES)
    if model is not None:  # its length first: no other value makes a context work that is too long for the model
        found = itertools.chain(_length(options, model), found, *(rule(options, model) for rule in _MODEL_RULES))
    return next(found, None)


# --- rules of the options alone ------------------------------------------------------------------------------------------


def _cores(o: NeuronOptions) -> Iterator[Problem]:
    cores = CORES[o.instance_type]
    largest = _power_of_two_up_to(min(cores, MAX_TENSOR_PARALLEL))
    if o.tensor_parallel_size > cores:
        yield Problem("tensor_parallel_size", f"{o.instance_type} has {cores} NeuronCores", largest)
    if o.tensor_parallel_size > MAX_TENSOR_PARALLEL:
        yield Problem("tensor_parallel_size", f"the vision encoder cannot be cut into more than {MAX_TENSOR_PARALLEL}", largest)
    if o.tensor_parallel_size != _power_of_two_up_to(o.tensor_parallel_size):
        works = _power_of_two_up_to(o.tensor_parallel_size)
        yield Problem("tensor_parallel_size", "it must be a power of two, to divide the model's attention heads", works)


def _device(o: NeuronOptions) -> Iterator[Problem]:
    if o.device != "auto":
        yield Problem("device", "with backend neuron the model runs on NeuronCores", "auto")


def _context_buckets(o: NeuronOptions) -> Iterator[Problem]:
    key, buckets = "context_encoding_buckets", o.context_encoding_buckets
    yield from _ascending(key, buckets, o.seq_len)
    if buckets[-1] > o.seq_len:
        kept = [length for length in buckets if length < o.seq_len]
        yield Problem(key, f"none can be longer than seq_len, {o.seq_len}", [*kept, o.seq_len])


def _token_buckets(o: NeuronOptions) -> Iterator[Problem]:
    key, buckets = "token_generation_buckets", o.token_generation_buckets
    yield from _ascending(key, buckets, o.seq_len)
    if buckets[-1] != o.seq_len:
        kept = [length for length in buckets if length < o.seq_len]
        yield Problem(key, f"the largest must equal seq_len, {o.seq_len}", [*kept, o.seq_len])


def _ascending(key: str, buckets: tuple[int, ...], seq_len: int) -> Iterator[Problem]:
    if not buckets:
        yield Problem(key, "there must be at least one", list(default_buckets(seq_len)))
    elif buckets[0] < 2:
        yield Problem(
            key, "a prompt of one token counts as a decode step, so the smallest is 2", [max(2, b) for b in buckets[-1:]]
        )
    elif list(buckets) != sorted(set(buckets)):
        yield Problem(key, "they must ascend, with none twice", sorted(set(buckets)))


def _batch(o: NeuronOptions) -> Iterator[Problem]:
    if o.seq_len > LONG_CONTEXT and o.batch_size > 1:
        yield Problem("batch_size", f"device memory has room for one slot when seq_len is above {LONG_CONTEXT}", 1)
    if o.batch_size > MAX_BATCH:
        yield Problem("batch_size", f"NxDI supports at most {MAX_BATCH} slots for this model", MAX_BATCH)
    if o.seq_len == LONG_CONTEXT and o.batch_size > 1:
        for key in ("context_encoding_buckets", "token_generation_buckets"):
            if len(getattr(o, key)) > 3:
                rule = f"at seq_len {LONG_CONTEXT} several slots leave room for three buckets"
                yield Problem(key, rule, list(default_buckets(LONG_CONTEXT)))


def _continuous(o: NeuronOptions) -> Iterator[Problem]:
    if o.batch_size > 1 and not o.is_continuous_batching:
        yield Problem("is_continuous_batching", f"{o.batch_size} slots are filled one by one, which needs it", True)


def _sequence_parallel(o: NeuronOptions) -> Iterator[Problem]:
    degree = o.tensor_parallel_size
    if o.sequence_parallel_enabled and any(length % degree for length in o.context_encoding_buckets):
        works = sorted({min(length + -length % degree, o.seq_len - o.seq_len % degree) for length in o.context_encoding_buckets})
        rule = f"sequence parallel cuts each of them into tensor_parallel_size, {degree}, equal parts"
        yield Problem("context_encoding_buckets", rule, works)


_RULES: tuple[Callable[[NeuronOptions], Iterator[Problem]], ...] = (
    *(_cores, _device, _context_buckets, _token_buckets, _batch, _continuous, _sequence_parallel),
)


# --- rules that depend on the model --------------------------------------------------------------------------------------


def _placement(o: NeuronOptions, m: ModelShape) -> Iterator[Problem]:
    places = neuron_cross_layers(m)
    if places is None:
        cross, rest = len(m.cross_layers), m.self_layers
        rule = f"NxDI cannot spread its {cross} cross-attention layers evenly over the other {rest}"
        yield Problem("model_path", rule, "a checkpoint of Llama-3.2-11B-Vision or Llama-3.2-90B-Vision")
    elif places != m.cross_layers:
        expected, found = _shortened(places), _shortened(m.cross_layers)
        rule = f"NxDI looks for cross-attention in the layers {expected}, and this model has it in {found}"
        yield Problem("model_path", rule, "a checkpoint of Llama-3.2-11B-Vision or Llama-3.2-90B-Vision")


def _heads(o: NeuronOptions, m: ModelShape) -> Iterator[Problem]:
    if not _divides(o.tensor_parallel_size, m):
        works = max(degree for degree in range(1, o.tensor_parallel_size) if _divides(degree, m))
        rule = f"it must divide the model's {m.heads} attention heads, and its {m.kv_heads} key-value heads as NxDI repeats them"
        yield Problem("tensor_parallel_size", rule, works)


def _divides(degree: int, m: ModelShape) -> bool:
    """The conditions of NeuronLlamaCrossAttention: above 8 cores, key-value heads are repeated degree / 8 times."""
    kv_heads = m.kv_heads * (degree // 8 if degree > 8 else 1)
    return m.heads % kv_heads == 0 and m.heads % degree == 0 and kv_heads % degree == 0


def _length(o: NeuronOptions, m: ModelShape) -> Iterator[Problem]:
    if m.hidden >= 8192 and o.seq_len > LONG_CONTEXT:
        yield Problem("seq_len", f"a model of the size of 90B is limited to {LONG_CONTEXT} tokens", LONG_CONTEXT)
    if o.seq_len > m.max_positions:
        yield Problem("seq_len", f"the model was made for at most {m.max_positions} tokens", m.max_positions)


def _vocabulary(o: NeuronOptions, m: ModelShape) -> Iterator[Problem]:
    chosen = o.on_device_sampling_config
    if chosen is not None and chosen.global_topk > m.vocab:
        works = chosen.model_copy(update={"global_topk": min(64, m.vocab)}).model_dump()
        yield Problem("on_device_sampling_config", f"global_topk cannot exceed the vocabulary of {m.vocab} tokens", works)


_MODEL_RULES: tuple[Callable[[NeuronOptions, ModelShape], Iterator[Problem]], ...] = (_placement, _heads, _vocabulary)


def _power_of_two_up_to(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _shortened(layers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, layers[:4]))
    return shown + (f", …, {layers[-1]}" if len(layers) > 4 else "")
