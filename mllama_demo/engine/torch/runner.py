"""Runs Llama 3.2 Vision with PyTorch and transformers on a CPU or a CUDA device: a ModelRunner with a fixed number of slots.

A prompt is read into one slot in pieces, and the live slots are decoded together (text_model.py). batch_sampler samples on the
device of the model. transformers computes the image; meta_mllama corrects a point in which it computes something else than Meta's
reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from torch import nn
from transformers import MllamaForConditionalGeneration

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.batch_sampler import sample_rows
from mllama_demo.engine.runner import Sampled, image_position
from mllama_demo.engine.token_sampler import TokenSampler
from mllama_demo.engine.torch.image_processor import load_image_processor
from mllama_demo.engine.torch.kv_cache import SlotCache
from mllama_demo.engine.torch.linear import has_half_kernels
from mllama_demo.engine.torch.loading import Quantization, Report, load_model
from mllama_demo.engine.torch.meta_mllama import cross_attention_layers, image_keys_values, restore_meta_computation
from mllama_demo.engine.torch.prefix_cache import PrefixCache
from mllama_demo.engine.torch.prompt_pieces import PIECE_TOKENS, Piece, divide
from mllama_demo.engine.torch.quantized import StoredEmbedding, StoredLinear
from mllama_demo.engine.torch.text_model import TextModel
from mllama_demo.engine.torch.threads import choose_threads
from mllama_demo.errors import ConfigError
from mllama_demo.images.loading import LoadedImage
from mllama_demo.runtime.cpu import has_bfloat16_units


@dataclass
class _SlotState:
    """The sequence in a slot.

    Attributes:
        pieces: The pieces of the prompt.
        image_at: The position of the image token; None without an image.
        pieces_read: How many of the pieces are in the cache.
        image_read: The keys and values of the image are in the cache.
        logits: [vocabulary] after the prompt, once all pieces are read.
        answer: The tokens of the answer. The last one is not in the cache yet.
        failed: A decode step of the sequence had no token, and its row is empty.
    """

    request: GenerationRequest
    sampler: TokenSampler
    pieces: list[Piece]
    image_at: int | None
    pieces_read: int = 0
    image_read: bool = False
    logits: torch.Tensor | None = None
    answer: list[int] = field(default_factory=list)
    failed: bool = False

    @property
    def has_image(self) -> bool:
        return self.image_at is not None

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        if self.answer:
            return len(self.request.prompt_ids) + len(self.answer) - 1
        return self.pieces[self.pieces_read - 1].end if self.pieces_read else 0

    @property
    def next_piece(self) -> Piece | None:
        return self.pieces[self.pieces_read] if self.pieces_read < len(self.pieces) else None


@dataclass(frozen=True)
class VisionFeatures:
    """The input of cross-attention for one image.

    Attributes:
        states: [tiles, patches, hidden].
        tile_mask: [tiles] bool; False for padding.
    """

    states: torch.Tensor
    tile_mask: torch.Tensor


class TorchRunner:
    """A ModelRunner, see engine.runner. Not thread-safe: only the backend's thread calls it."""

    def __init__(
        self,
        model: MllamaForConditionalGeneration,
        image_processor: Any,
        image_token_id: int,
        *,
        slots: int,
        max_seq_len: int,
        vision_cache_size: int = 16,
        prefix_cache_mb: int = 0,
        prefix_cache_answers: bool = False,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        """

        Args:
            vision_cache_size: Encoded images that stay in memory.
            prefix_cache_mb: MiB of the store of a PrefixCache; 0 reads every prompt from its beginning.
            prefix_cache_answers: The tokens of an answer are not read again with the next question. Then answers are those of a
                runner without a prefix cache up to rounding only, because decode steps round in another way.
            compute_dtype: The type of activations and caches; None for that of `arithmetic`.
        """
        self.slots, self.max_seq_len = slots, max_seq_len
        self._model = model.eval()
        restore_meta_computation(model)
        self._cross_attention = cross_attention_layers(model)
        self._device = model.device
        self._dtype = compute_dtype or arithmetic(model.dtype, model.device.type)
        self._image_processor = image_processor
        self._image_token_id = image_token_id
        self._max_tiles = model.model.vision_model.max_num_tiles
        self._patches = model.model.vision_model.num_patches
        self._cache = SlotCache(
            model.config.text_config, slots, max_seq_len, self._max_tiles * self._patches, self._dtype, self._device
        )
        self._text = TextModel(model, self._cache, slots, half=model.dtype != self._dtype)
        vision = (model.model.vision_model, model.model.multi_modal_projector)
        self._vision_dtype = torch.bfloat16 if _multiplies_bfloat16(vision) else self._dtype
        for module in vision:
            nn.Module.to(module, self._vision_dtype)  # transformers decorates .to(), which hides its parameter types
            for embedding in module.modules():
                if isinstance(embedding, StoredEmbedding):
                    embedding.dtype = self._vision_dtype
        for module in self._cross_attention.values():
            nn.Module.to(module, self._dtype)
        self._tile_masks = torch.zeros(slots, self._max_tiles, dtype=torch.bool, device=self._device)
        self._live: dict[int, _SlotState] = {}  # the slots in use
        self._vision_cache: LRUCache[str, VisionFeatures] = LRUCache(vision_cache_size)
        self._prefixes = PrefixCache(self._cache, self._tile_masks, prefix_cache_mb * 2**20)
        self._reuse_answers = prefix_cache_answers and prefix_cache_mb > 0

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        slots: int,
        max_seq_len: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        quantization: Quantization = "none",
        report: Report = lambda done, total: None,
        **options: Any,
    ) -> TorchRunner:
        """Loads a checkpoint folder in the published Hugging Face layout. Never downloads.

        Args:
            quantization, report: See loading.load_model.
            options: See __init__.
        """
        model = load_model(path, device=device, dtype=dtype, quantization=quantization, report=report)
        processor = load_image_processor(path)
        return cls(
            model,
            processor,
            model.config.image_token_index,
            slots=slots,
            max_seq_len=max_seq_len,
            **options,
        )

    @torch.inference_mode()
    def choose_threads(self) -> None:
        """Sets the number of CPU threads by measuring decode steps. All slots must be free."""
        choose_threads(
            lambda: self._text.logits(self._text.step([0], [0], [0], [False], self._tile_masks)), torch.get_num_threads()
        )
        self._text.check_rows()
        self._prefixes.clear()  # the steps have written into the rows

    @property
    def device(self) -> str:
        """The device of the model, such as cpu or cuda:0."""
        return str(self._device)

    # --- ModelRunner ----------------------------------------------------------------------------------------------------

    def choose_slot(self, free: Sequence[int], request: GenerationRequest) -> int:
        return self._prefixes.best_slot(free, self._divide(request), _digest(request))

    @torch.inference_mode()
    def begin(self, slot: int, request: GenerationRequest) -> int:
        if slot in self._live:
            raise ValueError(f"slot {slot} is in use")
        image_at = image_position(request, self._image_token_id)
        pieces = self._divide(request)
        sampler = TokenSampler(request.sampling, trace=request.trace, skip=request.answered)
        found = self._prefixes.take(slot, pieces, _digest(request))
        image_at = None if request.image is None else image_at
        state = _SlotState(request, sampler, pieces, image_at, found.pieces, found.image, found.logits)
        self._live[slot] = state
        return state.length

    @torch.inference_mode()
    def read_piece(self, slot: int) -> Sampled | None:
        """Reads the image, or the next PIECE_TOKENS tokens of the prompt."""
        state = self._live[slot]
        try:
            piece, image = state.next_piece, state.request.image
            if image is not None and not state.image_read and (piece is None or piece.sees_image):
                self._read_image(slot, state, image)
            elif piece is not None:
                self._read_text(slot, state, piece)
            if state.logits is None or (state.has_image and not state.image_read):
                return None
            [sampled] = _sample([state], state.logits[None])
            return sampled
        except Exception:
            self._prefixes.clear([slot])
            raise

    @torch.inference_mode()
    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        try:
            sampled = _sample([self._live[slot] for slot in slots], self._decode_logits(slots))
        except Exception:
            self._prefixes.clear(slots)
            raise
        for slot, step in zip(slots, sampled, strict=True):
            if step.error is not None:
                self._live[slot].failed = True
                self._prefixes.forget(slot)
        return sampled

    @torch.inference_mode()
    def release(self, slot: int) -> None:
        state = self._live.pop(slot, None)
        if state is not None and state.answer and not state.failed and self._reuse_answers:
            ids = [*state.request.prompt_ids, *state.answer]
            whole = state.length // PIECE_TOKENS * PIECE_TOKENS
            self._prefixes.add_answer(slot, divide(ids[:whole], state.image_at, _digest(state.request)))

    def replace_last_token(self, slot: int, token_id: int) -> None:
        """The next decode step feeds this token instead of the last one that was sampled for the slot."""
        self._live[slot].answer[-1] = token_id

    def _divide(self, request: GenerationRequest) -> list[Piece]:
        ids = request.prompt_ids
        image_at = ids.index(self._image_token_id) if self._image_token_id in ids else None
        return divide(ids, image_at, _digest(request))

    # --- forwards of the text model ------------------------------------------------------------------------------------

    def _read_text(self, slot: int, state: _SlotState, piece: Piece) -> None:
        """Reads a piece of the prompt, and after the last one the logits."""
        ids = state.request.prompt_ids[piece.start : piece.end]
        image_at = state.image_at if piece.sees_image else None
        hidden = self._text.read(slot, ids, piece.start, image_at, self._tile_masks[slot])
        state.pieces_read += 1
        if state.next_piece is None:
            state.logits = self._text.logits(hidden[-1:])[0]
        self._prefixes.add_piece(slot, piece, state.logits)

    def _read_image(self, slot: int, state: _SlotState, image: LoadedImage) -> None:
        """Writes the image's keys and values for cross-attention into the slot."""
        features = self.vision_features(image)
        self._tile_masks[slot] = features.tile_mask
        for index, attention in self._cross_attention.items():
            self._cache.write_image(slot, index, *image_keys_values(attention, features.states))
        state.image_read = True
        self._prefixes.add_image(slot, image.digest)

    def _decode_logits(self, slots: Sequence[int]) -> torch.Tensor:
        """Runs one decode step. Returns logits [len(slots), vocabulary] in the order of `slots`."""
        order = sorted(range(len(slots)), key=slots.__getitem__)
        states = [self._live[slots[index]] for index in order]
        if not all(state.answer for state in states):
            raise ValueError(f"the prompt of one of the slots {list(slots)} is not read yet")
        hidden = self._text.step(
            [slots[index] for index in order],
            [state.answer[-1] for state in states],
            [state.length for state in states],
            [state.has_image for state in states],
            self._tile_masks,
        )
        logits = self._text.logits(hidden)
        return logits if order == list(range(len(slots))) else logits[torch.tensor(order, device=self._device).argsort()]

    # --- vision ---------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def vision_features(self, image: LoadedImage) -> VisionFeatures:
        """Returns the features of the image. The last `vision_cache_size` images stay in memory; 0 keeps none."""
        cached = self._vision_cache.get(image.digest)
        if cached is not None:
            return cached
        inputs = self._image_processor(images=[[image.pixels]], return_tensors="pt").to(self._device)
        output = self._model.model.vision_model(
            pixel_values=inputs["pixel_values"].to(self._vision_dtype),
            aspect_ratio_ids=inputs["aspect_ratio_ids"],
            aspect_ratio_mask=inputs["aspect_ratio_mask"],
        )
        states = self._model.model.multi_modal_projector(output.last_hidden_state).to(self._dtype)
        features = VisionFeatures(states.reshape(-1, self._patches, states.shape[-1]), inputs["aspect_ratio_mask"][0, 0].bool())
        if self._vision_cache.maxsize:  # an LRUCache of size 0 raises ValueError for every item
            self._vision_cache[image.digest] = features
        return features


def _multiplies_bfloat16(modules: Sequence[nn.Module]) -> bool:
    """Whether the modules of a quantized model keep bfloat16 weights on a CPU that has units for them."""
    stored = [layer for module in modules for layer in module.modules() if isinstance(layer, StoredLinear)]
    return bool(stored) and has_bfloat16_units() and all(layer.weight.dtype == torch.bfloat16 for layer in stored)


def _digest(request: GenerationRequest) -> str:
    return "" if request.image is None else request.image.digest


def _sample(states: Sequence[_SlotState], logits: torch.Tensor) -> list[Sampled]:
    """Samples the next token of each sequence from logits [sequences, vocabulary]."""
    sampled = [Sampled(*step) for step in sample_rows([state.sampler for state in states], logits)]
    for state, step in zip(states, sampled, strict=True):
        if step.error is None:
            state.answer.append(step.token_id)
    return sampled


def choose_device(name: str) -> str:
    """Returns the device `name`; for "auto", cuda if there is a CUDA device, otherwise cpu.

    Raises:
        ConfigError: The machine does not have the device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name}, but this machine's PyTorch sees no CUDA device; use cpu or auto.")
    index = name.partition(":")[2]
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"device is {name}, but there are only {torch.cuda.device_count()} CUDA devices.")
    return name


def arithmetic(dtype: torch.dtype, device: str) -> torch.dtype:
    """Returns the type of activations and caches of a model with weights of type `dtype`.

    It is dtype on a GPU. A CPU computes in bfloat16 if it has units for that; without them bfloat16 is a hundred times as slow as
    float32. Other weights are multiplied with float32 activations where PyTorch has kernels for float16 weights.
    """
    if not device.startswith("cpu") or (dtype == torch.bfloat16 and has_bfloat16_units()):
        return dtype
    return torch.float32 if has_half_kernels() else dtype
