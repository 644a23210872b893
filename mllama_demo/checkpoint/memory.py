"""The device memory that a Neuron configuration takes on each NeuronCore, computed from the sizes of a model.

Exact, from NxDI's layers (models/mllama) and caches (modules/kvcache/multimodal_kv_cache_manager.py), where t is
tensor_parallel_size, b the bytes of a number, k = max(1, kv heads / t) the key-value heads of a core and d the head size:
    weights      matrices / t, with key-value heads repeated until every core has one, vision heads padded to a multiple of t,
                 and norms, gates, biases after a sum and the position embeddings of tiles (148 MB) whole on every core
    text cache   2 × self-attention layers × batch_size × k × seq_len × d × b
    image cache  2 × cross-attention layers × batch_size × k × (tiles × patches of a tile) × d × b
Estimated, because no source states it:
    scratch      the largest step of a prompt's computation – vision encoder, self-attention, cross-attention or feed-forward,
                 attention scores in float32 and again in b bytes – rounded up to pages of SCRATCHPAD_PAGE_MIB
    graphs       0.1 GiB for the instructions of each compiled graph, one for each bucket

GiB a core        weights  text cache  image cache  scratch  graphs  total
11B trn1 2048        0.83        0.12         0.10     1.00    0.70   2.76
90B trn1 2048        5.61        0.31         0.24     1.00    0.70   7.86
90B trn1 16k         5.61        2.50         0.24     2.00    0.60  10.95
90B inf2 2048       10.64        0.31         0.24     1.00    0.70  12.90
(the files in configs/: 4 slots, bfloat16; trn1: t = 32, inf2: t = 16)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mllama_demo.config.model_shape import LEARNABLE_TOKENS, ModelShape
from mllama_demo.config.neuron import SCRATCHPAD_PAGE_MIB, NeuronOptions

GIB = 2**30
_GRAPH_BYTES = 0.1 * GIB
# From this prompt length on, self-attention on a NeuronCore-v2 is a kernel that stores no attention scores
# (NxDI, NeuronAttentionBase.get_flash_attention_strategy); cross-attention always stores them.
_FLASH_ATTENTION = 4096


@dataclass(frozen=True)
class CoreMemory:
    """Bytes on each logical NeuronCore. Weights and caches are exact, scratch and graphs are estimates.

    Attributes:
        capacity: The memory of the core.
    """

    weights: int
    text_cache: int
    image_cache: int
    scratch: int
    graphs: int
    capacity: int

    @property
    def exact(self) -> int:
        return self.weights + self.text_cache + self.image_cache

    @property
    def total(self) -> int:
        return self.exact + self.scratch + self.graphs

    @property
    def free(self) -> int:
        """Free bytes; negative when the model does not fit."""
        return self.capacity - self.total


def core_memory(m: ModelShape, o: NeuronOptions) -> CoreMemory:
    """The memory of one NeuronCore."""
    number, heads = o.dtype_bytes, _kv_heads(m, o.tensor_parallel_size)
    row = 2 * o.batch_size * heads * m.head_dim * number  # keys and values of one position in every slot
    graphs = len(o.context_encoding_buckets) + len(o.token_generation_buckets)
    return CoreMemory(
        weights=core_parameters(m, o.tensor_parallel_size) * number,
        text_cache=m.self_layers * o.seq_len * row,
        image_cache=len(m.cross_layers) * m.vision_tokens * row,
        scratch=_pages(scratch_bytes(m, o)),
        graphs=round(graphs * _GRAPH_BYTES),
        capacity=o.chip.core_gib * GIB,
    )


def core_parameters(m: ModelShape, t: int) -> int:
    """The number of parameters on one of `t` cores; t = 1 counts the whole model."""
    query, key_value = _share(m.heads, t) * m.head_dim * m.hidden, _kv_heads(m, t) * m.head_dim * m.hidden
    attention, feed_forward = 2 * query + 2 * key_value, 3 * m.hidden * _share(m.ffn, t)
    layer = attention + feed_forward + 2 * m.hidden
    cross_extra = 2 * m.head_dim + 2  # the norms of queries and keys, two gates
    embeddings = (m.vocab + LEARNABLE_TOKENS) * _share(m.hidden, t) + _share(m.vocab, t) * m.hidden
    text = m.layers * layer + len(m.cross_layers) * cross_extra + embeddings + m.hidden

    width, head = m.vision_hidden, m.vision_hidden // m.vision_heads
    ffn = _share(m.vision_ffn, t)
    vision_layer = 4 * _share(m.vision_heads, t) * head * width + 2 * width * ffn + ffn + width + 4 * width
    layers = (m.vision_layers + m.vision_global_layers) * vision_layer + 2 * m.vision_global_layers
    tiles = (m.ratios + 1) * m.tiles * width
    positions = m.patches * width + 1 + tiles * m.patches + 2 * (tiles + 1)
    patches = 3 * m.patch**2 * _share(width, t) + width + 4 * width
    projection = _share(m.hidden, t) * ((m.vision_features + 1) * width + 1)
    return text + layers + positions + patches + projection


def scratch_bytes(m: ModelShape, o: NeuronOptions) -> int:
    """Bytes of the largest step of the longest prefill, before rounding. An upper estimate: kernels may need less."""
    t, number, length = o.tensor_parallel_size, o.dtype_bytes, o.max_context_length
    padded = m.tiles * 8 * math.ceil(m.patches / 8)
    tokens = m.vision_tokens * m.hidden * number  # the image tokens for cross-attention

    def scores(heads: int, rows: int, columns: int) -> int:
        return _share(heads, t) * rows * columns * (4 + number)

    vision = padded * m.vision_hidden * number * (3 + m.vision_features + 1)
    vision += max(scores(m.vision_heads, padded, padded), padded * _share(m.vision_ffn, t) * number)
    cross_rows = 2 * len(m.cross_layers) * _kv_heads(m, t) * m.vision_tokens * m.head_dim * number
    # The residual, its norm and a sum. Sequence parallelism divides two of them among the cores.
    hidden = length * m.hidden * number * 3
    if o.sequence_parallel_enabled:
        hidden = length * m.hidden * number + 2 * math.ceil(length / t) * m.hidden * number
    unfused = max((bucket for bucket in o.context_encoding_buckets if bucket < _FLASH_ATTENTION), default=0)
    widest = max(
        scores(m.heads, unfused, unfused),
        scores(m.heads, length, m.vision_tokens),
        2 * length * _share(m.ffn, t) * number,
    )
    return max(vision + tokens, hidden + widest + tokens + cross_rows)


def _pages(size: int) -> int:
    page = SCRATCHPAD_PAGE_MIB * 2**20
    return math.ceil(size / page) * page


def _kv_heads(m: ModelShape, t: int) -> int:
    return max(1, m.kv_heads // t)


def _share(count: int, t: int) -> int:
    """The share of one core, when the count is padded to a multiple of t."""
    return math.ceil(count / t)
