"""Runs transformers' MllamaForConditionalGeneration in slots, on a CPU or a CUDA device, with Meta's computation.

Shaped like the Neuron-compiled model: prompts are read one slot at a time, every decode step feeds the whole batch with
rows in slot order, and idle rows are parked where they harm nothing. Sampling happens on the host.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, MllamaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import Sampled, image_position
from mllama_demo.engine.token_sampler import TokenSampler
from mllama_demo.engine.torch.kv_cache import Row, SlotCache
from mllama_demo.engine.torch.meta_mllama import restore_meta_computation
from mllama_demo.errors import ConfigError
from mllama_demo.images.loading import LoadedImage

# Keys are read up to a multiple of this, so that short answers do not pay for a long cache; see decode().
KEY_BUCKET = 256
# Read prompts kept for requests that share them. One takes as much memory as its part of a slot's cache.
SHARED_PROMPTS = 2


@dataclass
class _Slot:
    """A live sequence. length: tokens in the cache. last: sampled, not yet fed."""

    sampler: TokenSampler
    length: int
    last: int
    has_image: bool


@dataclass(frozen=True)
class VisionFeatures:
    """What cross-attention sees of one image. states: [tiles, patches, hidden]; tile_mask: [tiles] of bool."""

    states: torch.Tensor
    tile_mask: torch.Tensor


@dataclass(frozen=True)
class _ReadPrompt:
    """What reading a prompt left behind, for other slots to begin with. logits: [vocabulary] after its last token."""

    logits: Any
    rows: list[Row]
    tile_mask: torch.Tensor | None


class TorchRunner:
    """A ModelRunner over transformers. Not thread-safe; the backend's thread owns it."""

    def __init__(
        self,
        model: MllamaForConditionalGeneration,
        image_processor: Any,
        image_token_id: int,
        *,
        slots: int,
        max_seq_len: int,
        vision_cache_size: int = 16,
    ) -> None:
        self.slots, self.max_seq_len = slots, max_seq_len
        self._model = model.eval()
        self._cross_rows = restore_meta_computation(model)
        self._text = model.model.language_model
        self._device, self._dtype = model.device, model.dtype
        self._process_image = image_processor
        self._image_token_id = image_token_id
        self._max_tiles = model.model.vision_model.max_num_tiles
        self._patches = model.model.vision_model.num_patches
        self._cache = SlotCache(
            model.config.text_config, slots, max_seq_len, self._max_tiles * self._patches, self._dtype, self._device
        )
        self._tiles = torch.zeros(slots, self._max_tiles, dtype=torch.bool, device=self._device)
        self._live: dict[int, _Slot] = {}
        self._vision_cache: OrderedDict[str, VisionFeatures] = OrderedDict()
        self._vision_cache_size = vision_cache_size
        self._read: OrderedDict[tuple[tuple[int, ...], str], _ReadPrompt] = OrderedDict()

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        slots: int,
        max_seq_len: int,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        vision_cache_size: int = 16,
    ) -> TorchRunner:
        """Loads a checkpoint folder in the published Hugging Face layout; nothing is fetched from anywhere."""
        transformers_logging.disable_progress_bar()
        model = MllamaForConditionalGeneration.from_pretrained(path, dtype=dtype, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        return cls(
            model.to(device),  # type: ignore[arg-type]  # a decorator of transformers hides what .to() takes
            processor,
            model.config.image_token_index,
            slots=slots,
            max_seq_len=max_seq_len,
            vision_cache_size=vision_cache_size,
        )

    @property
    def device(self) -> str:
        """Where the model is: cpu, cuda:0."""
        return str(self._device)

    # --- ModelRunner ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, slot: int, request: GenerationRequest) -> Sampled:
        if slot in self._live:
            raise ValueError(f"slot {slot} is in use")
        logits = self._read_or_copy(slot, request) if request.shared_prompt else self._read_prompt(slot, request)
        sampler = TokenSampler(request.sampling, trace=request.trace, skip=request.answered)
        token, trace = sampler.sample(logits)
        self._live[slot] = _Slot(sampler, len(request.prompt_ids), token, request.image is not None)
        return Sampled(token, trace)

    @torch.inference_mode()
    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        logits = self._decode_logits(slots)
        result = []
        for slot in slots:
            state = self._live[slot]
            state.length += 1
            state.last, trace = state.sampler.sample(logits[slot].numpy())
            result.append(Sampled(state.last, trace))
        return result

    def release(self, slot: int) -> None:
        self._live.pop(slot, None)
        self._tiles[slot] = False

    # --- the two forwards -----------------------------------------------------------------------------------------------

    def _read_or_copy(self, slot: int, request: GenerationRequest) -> Any:
        """As _read_prompt, which runs for the first of the requests that share a prompt; the others get a copy."""
        key = (request.prompt_ids, "" if request.image is None else request.image.digest)
        read = self._read.get(key)
        if read is None:
            logits = self._read_prompt(slot, request)
            with_image = request.image is not None
            rows = self._cache.copy_out(slot, len(request.prompt_ids), with_image=with_image)
            read = self._read[key] = _ReadPrompt(logits, rows, self._tiles[slot].clone() if with_image else None)
            while len(self._read) > SHARED_PROMPTS:
                self._read.popitem(last=False)
        else:
            self._read.move_to_end(key)
            self._cache.copy_in(slot, read.rows)
            if read.tile_mask is not None:
                self._tiles[slot] = read.tile_mask
        return read.logits

    def _read_prompt(self, slot: int, request: GenerationRequest) -> Any:
        """Fills the slot's caches; the logits [vocabulary] after the last prompt token, on the host."""
        ids = torch.tensor([request.prompt_ids], device=self._device)
        length = ids.shape[1]
        features, rows, cross_mask = None, None, None
        image_at = image_position(request, self._image_token_id)
        if request.image is not None:
            features = self.vision_features(request.image)
            rows = torch.arange(length, device=self._device) >= image_at
            cross_mask = self._cross_mask(features.tile_mask[None], rows[None])
            self._tiles[slot] = features.tile_mask
        self._cache.for_prefill(slot, with_image=features is not None)
        causal = torch.ones(length, length, dtype=torch.bool, device=self._device).tril()
        hidden = self._forward(
            ids,
            torch.arange(length, device=self._device)[None],
            causal[None, None],
            rows=None if rows is None else rows[None],
            cross_mask=cross_mask,
            cross_states=None if features is None else features.states,
        )
        logits = self._model.lm_head(hidden[:, -1]).float()
        return logits[0].cpu().numpy()

    def _decode_logits(self, slots: Sequence[int]) -> torch.Tensor:
        """One step of every row; logits [slots, vocabulary] on the host, meaningful for the named slots only."""
        # Free rows write at position 0, which the next prefill overwrites. Live rows that sit out are parked on the last
        # position: their own turn to use it overwrites it before anything reads it.
        ids, positions, images = [0] * self.slots, [0] * self.slots, [False] * self.slots
        for slot, state in self._live.items():
            positions[slot] = self.max_seq_len - 1
            if slot in slots:
                ids[slot], positions[slot], images[slot] = state.last, state.length, state.has_image
        longest = max(self._live[slot].length for slot in slots) + 1
        # Masked keys weigh exactly zero, so how many are read changes the work, not the answer.
        length = min(self.max_seq_len, -(-longest // KEY_BUCKET) * KEY_BUCKET)
        position_ids = torch.tensor(positions, device=self._device)
        mask = torch.arange(length, device=self._device)[None] <= position_ids[:, None]
        rows = torch.tensor(images, device=self._device)[:, None] if any(images) else None
        cross_mask = None if rows is None else self._cross_mask(self._tiles, rows)
        self._cache.for_decode(position_ids, max(length, 1), with_images=rows is not None)
        hidden = self._forward(
            torch.tensor(ids, device=self._device)[:, None],
            position_ids[:, None],
            mask[:, None, None],
            rows=rows,
            cross_mask=cross_mask,
            cross_states=None,
        )
        return self._model.lm_head(hidden[:, -1]).float().cpu()

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor,
        *,
        rows: torch.Tensor | None,
        cross_mask: torch.Tensor | None,
        cross_states: torch.Tensor | None,
    ) -> torch.Tensor:
        """Hidden states [batch, length, hidden]. rows: [batch, length] True where cross-attention is let through."""
        full_rows = None if rows is None else rows[:, None, :, None].to(self._dtype)
        self._cross_rows.mask = None if full_rows is None else full_rows[:, 0]
        output = self._text(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            cross_attention_states=cross_states,
            cross_attention_mask=cross_mask,
            full_text_row_masked_out_mask=full_rows,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state

    def _cross_mask(self, tiles: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Which vision keys each row may see: bool [batch, 1, length, tiles * patches]. Rows that see nothing are opened
        wide, since a softmax over nothing is undefined; their result is silenced afterwards."""
        keys = tiles.repeat_interleave(self._patches, dim=1)[:, None, None]
        return keys | ~rows[:, None, :, None]

    # --- vision ---------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def vision_features(self, image: LoadedImage) -> VisionFeatures:
        """The image's features, computed once while it stays among the last `vision_cache_size` images."""
        found = self._vision_cache.get(image.digest)
        if found is not None:
            self._vision_cache.move_to_end(image.digest)
            return found
        inputs = self._process_image(images=[[image.pixels]], return_tensors="pt").to(self._device)
        output = self._model.model.vision_model(
            pixel_values=inputs["pixel_values"].to(self._dtype),
            aspect_ratio_ids=inputs["aspect_ratio_ids"],
            aspect_ratio_mask=inputs["aspect_ratio_mask"],
        )
        states = self._model.model.multi_modal_projector(output.last_hidden_state)
        features = VisionFeatures(states.reshape(-1, self._patches, states.shape[-1]), inputs["aspect_ratio_mask"][0, 0].bool())
        self._vision_cache[image.digest] = features
        while len(self._vision_cache) > self._vision_cache_size:
            self._vision_cache.popitem(last=False)
        return features


def choose_device(name: str) -> str:
    """ "auto" takes a CUDA device where there is one; a named one must exist, or ConfigError says what does."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name}, but this machine's PyTorch sees no CUDA device; use cpu or auto.")
    index = name.partition(":")[2]
    if index and int(index) >= torch.cuda.device_count():
        raise ConfigError(f"device is {name}, but there are only {torch.cuda.device_count()} CUDA devices.")
    return name


def choose_dtype(name: str, device: str) -> torch.dtype:
    """ "auto" is float32 on a CPU, where smaller types are slower, and bfloat16 elsewhere."""
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
