"""The memory that a model takes with backend torch, computed from the sizes of the model: weights, caches, and the largest step.

The weights and the caches follow from how engine/torch stores them:

- Without quantization, each number takes the bytes of dtype. A CPU computes in float32 also with 16-bit weights, unless they are
  bfloat16 and it has units for that. In float32, the vision encoder and the projector take 4 bytes a number.
- With quantization, a weight of the text model takes 4 or 8 bits and its share of a block's scales; the output layer has 8 bits.
  On a CPU, onnxruntime keeps 12 bytes for a block, the vision encoder stays as in the checkpoint, and the embeddings stay on the
  disk.

The memory of the program and of the largest step are estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mllama_demo.checkpoint.memory import core_parameters
from mllama_demo.config.model_shape import LEARNABLE_TOKENS, ModelShape

GB = 10**9
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BITS = {"int8": 8, "int4": 4}
_BLOCK = 128  # numbers with a common scale
_KEY_BUCKET = 256  # the caches have a multiple of this many keys; a copy from engine/torch/kv_cache.py, which imports torch
_PROGRAM = 700_000_000  # Python with PyTorch, transformers and the web page


@dataclass(frozen=True)
class TorchOptions:
    """What decides about the memory.

    Attributes:
        device: "cpu" or "cuda".
        dtype: A key of DTYPE_BYTES.
        stored: The type of the numbers in the checkpoint, a key of DTYPE_BYTES.
        quantization: "none", "int8" or "int4".
        prefix_cache: The largest size of the prefix cache in bytes.
        bfloat16_units: The CPU computes in bfloat16 when dtype is that.
    """

    device: str
    dtype: str
    stored: str
    quantization: str
    slots: int
    seq_len: int
    vision_cache_size: int
    prefix_cache: int = 0
    bfloat16_units: bool = False

    @property
    def number(self) -> int:
        """Bytes of a number of activations, caches and the vision encoder."""
        if self.device == "cpu" and not (self.dtype == "bfloat16" and self.bfloat16_units):
            return 4
        return DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class TorchMemory:
    """Bytes on the device.

    Attributes:
        loading: What loading needs besides the weights: the largest tensor.
        computing: The largest step, the encoding of an image.
        program: The program itself; 0 on a GPU.
    """

    weights: int
    text_cache: int
    image_cache: int
    encoded_images: int
    prefix_cache: int
    computing: int
    loading: int
    program: int

    @property
    def needed(self) -> int:
        """The peak until the first answer: without the encoded images and the prefix cache, which later requests fill."""
        return self.program + self.weights + max(self.loading, self.text_cache + self.image_cache + self.computing)

    @property
    def total(self) -> int:
        """The peak when every cache is full."""
        caches = self.text_cache + self.image_cache + self.encoded_images + self.prefix_cache + self.computing
        return self.program + self.weights + max(self.loading, caches)


def torch_memory(m: ModelShape, o: TorchOptions) -> TorchMemory:
    """The memory of a model with these options."""
    on_cpu = o.device == "cpu"
    number = o.number
    row = 2 * m.kv_heads * m.head_dim * number
    # A quantized model keeps the type of the checkpoint in the vision encoder, and computes there in bfloat16 if the CPU can.
    seen = replace(o, dtype=o.stored).number if on_cpu and o.quantization != "none" else number
    padded = m.tiles * 8 * math.ceil(m.patches / 8)
    states = padded * m.vision_hidden * seen * (m.vision_features + 4)
    largest = (m.vocab + LEARNABLE_TOKENS) * m.hidden * DTYPE_BYTES[o.stored]
    return TorchMemory(
        weights=_weights(m, o),
        text_cache=m.self_layers * o.slots * _in_buckets(o.seq_len + 1) * row,
        image_cache=len(m.cross_layers) * o.slots * _in_buckets(m.vision_tokens) * row,
        encoded_images=o.vision_cache_size * m.vision_tokens * m.hidden * number,
        prefix_cache=o.prefix_cache,
        computing=states + 2 * padded**2 * seen + 2 * padded * m.vision_ffn * seen,
        loading=largest,
        program=_PROGRAM if on_cpu else 0,
    )


def _in_buckets(keys: int) -> int:
    return math.ceil(keys / _KEY_BUCKET) * _KEY_BUCKET


def _weights(m: ModelShape, o: TorchOptions) -> int:
    everything = core_parameters(m, 1)
    attention = 2 * m.hidden * (m.heads + m.kv_heads) * m.head_dim
    layers = m.layers * (attention + 3 * m.hidden * m.ffn)
    output, embeddings = m.vocab * m.hidden, (m.vocab + LEARNABLE_TOKENS) * m.hidden
    others = everything - layers - output - embeddings  # the vision encoder, the projector, norms
    dtype, stored = DTYPE_BYTES[o.dtype], DTYPE_BYTES[o.stored]
    if o.quantization == "none":
        return dtype * (layers + output + embeddings) + o.number * others
    scales = (12 if o.device == "cpu" else 4) / _BLOCK
    quantized = round(layers * (_BITS[o.quantization] / 8 + scales) + output * (1 + scales))
    if o.device == "cpu":
        return quantized + others * min(stored, 4)
    return quantized + dtype * (embeddings + others)
