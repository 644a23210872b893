"""Runs Llama 3.2 Vision with PyTorch and transformers on a CPU or a CUDA device: a ModelRunner with a fixed number of slots.

A prefill computes one slot. A decode step computes the whole batch, with one row for each slot, also for idle slots. This is the
shape of a Neuron-compiled model. Sampling runs on the host. meta_mllama corrects two points in which transformers computes
something else than Meta's reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from transformers import AutoImageProcessor, MllamaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import Sampled, image_position
from mllama_demo.engine.token_sampler import TokenSampler
from mllama_demo.engine.torch.kv_cache import LayerKV, SlotCache
from mllama_demo.engine.torch.meta_mllama import restore_meta_computation
from mllama_demo.errors import ConfigError
from mllama_demo.images.loading import LoadedImage

# A decode step attends to as many keys as the longest sequence has, rounded up to a multiple of this. The cache has more keys.
KEY_BUCKET = 256
# How many prefilled prompts stay in memory for requests with the same prompt. Each takes as much memory as the prompt does in the
# cache of a slot.
SHARED_PROMPTS = 2


@dataclass
class _SlotState:
    """The sequence in a slot.

    Attributes:
        length: Tokens in the cache.
        last_token: The last sampled token, which is not in the cache yet.
        has_image: The prompt has an image.
    """

    sampler: TokenSampler
    length: int
    last_token: int
    has_image: bool


@dataclass(frozen=True)
class VisionFeatures:
    """The input of cross-attention for one image.

    Attributes:
        states: [tiles, patches, hidden].
        tile_mask: [tiles] bool; False for padding.
    """

    states: torch.Tensor
    tile_mask: torch.Tensor


@dataclass(frozen=True)
class _SharedPrompt:
    """The result of a prefill, to copy into other slots.

    Attributes:
        logits: [vocabulary] after the last token of the prompt.
        layers: The slot's part of the cache.
    """

    logits: Any
    layers: list[LayerKV]
    tile_mask: torch.Tensor | None


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
    ) -> None:
        self.slots, self.max_seq_len = slots, max_seq_len
        self._model = model.eval()
        self._cross_output = restore_meta_computation(model)
        self._text = model.model.language_model
        self._device, self._dtype = model.device, model.dtype
        self._image_processor = image_processor
        self._image_token_id = image_token_id
        self._max_tiles = model.model.vision_model.max_num_tiles
        self._patches = model.model.vision_model.num_patches
        self._cache = SlotCache(
            model.config.text_config, slots, max_seq_len, self._max_tiles * self._patches, self._dtype, self._device
        )
        self._tile_masks = torch.zeros(slots, self._max_tiles, dtype=torch.bool, device=self._device)
        self._live: dict[int, _SlotState] = {}  # the slots in use
        self._vision_cache: LRUCache[str, VisionFeatures] = LRUCache(vision_cache_size)
        self._shared_prompts: LRUCache[tuple[tuple[int, ...], str], _SharedPrompt] = LRUCache(SHARED_PROMPTS)

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
        """Loads a checkpoint folder in the published Hugging Face layout. Never downloads."""
        transformers_logging.disable_progress_bar()
        model = MllamaForConditionalGeneration.from_pretrained(path, dtype=dtype, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(path, local_files_only=True)
        return cls(
            model.to(device),  # type: ignore[arg-type]  # transformers decorates .to(), which hides its parameter types
            processor,
            model.config.image_token_index,
            slots=slots,
            max_seq_len=max_seq_len,
            vision_cache_size=vision_cache_size,
        )

    @property
    def device(self) -> str:
        """The device of the model, such as cpu or cuda:0."""
        return str(self._device)

    # --- ModelRunner ----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(self, slot: int, request: GenerationRequest) -> Sampled:
        if slot in self._live:
            raise ValueError(f"slot {slot} is in use")
        logits = self._shared_prefill_logits(slot, request) if request.shared_prompt else self._prefill_logits(slot, request)
        sampler = TokenSampler(request.sampling, trace=request.trace, skip=request.answered)
        token, trace = sampler.sample(logits)
        self._live[slot] = _SlotState(sampler, len(request.prompt_ids), token, request.image is not None)
        return Sampled(token, trace)

    @torch.inference_mode()
    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        logits = self._decode_logits(slots)
        result = []
        for slot in slots:
            state = self._live[slot]
            state.length += 1
            state.last_token, trace = state.sampler.sample(logits[slot].numpy())
            result.append(Sampled(state.last_token, trace))
        return result

    def release(self, slot: int) -> None:
        self._live.pop(slot, None)
        self._tile_masks[slot] = False

    # --- forwards of the text model ------------------------------------------------------------------------------------

    def _shared_prefill_logits(self, slot: int, request: GenerationRequest) -> Any:
        """Does the same as _prefill_logits, but copies the result if another request had the same prompt and image."""
        key = (request.prompt_ids, "" if request.image is None else request.image.digest)
        prompt = self._shared_prompts.get(key)
        if prompt is None:
            logits = self._prefill_logits(slot, request)
            with_image = request.image is not None
            layers = self._cache.copy_out(slot, len(request.prompt_ids), with_image=with_image)
            prompt = _SharedPrompt(logits, layers, self._tile_masks[slot].clone() if with_image else None)
            self._shared_prompts[key] = prompt
        else:
            self._cache.copy_in(slot, prompt.layers)
            if prompt.tile_mask is not None:
                self._tile_masks[slot] = prompt.tile_mask
        return prompt.logits

    def _prefill_logits(self, slot: int, request: GenerationRequest) -> Any:
        """Prefills the slot. Returns the logits [vocabulary] after the last prompt token, on the host."""
        ids = torch.tensor([request.prompt_ids], device=self._device)
        length = ids.shape[1]
        features, sees_image, cross_mask = None, None, None
        image_at = image_position(request, self._image_token_id)
        if request.image is not None:
            features = self.vision_features(request.image)
            sees_image = torch.arange(length, device=self._device)[None] >= image_at
            cross_mask = self._cross_mask(features.tile_mask[None], sees_image)
            self._tile_masks[slot] = features.tile_mask
        self._cache.for_prefill(slot, with_image=features is not None)
        causal = torch.ones(length, length, dtype=torch.bool, device=self._device).tril()
        hidden = self._forward(
            ids,
            torch.arange(length, device=self._device)[None],
            causal[None, None],
            sees_image=sees_image,
            cross_mask=cross_mask,
            cross_states=None if features is None else features.states,
        )
        logits = self._model.lm_head(hidden[:, -1]).float()
        return logits[0].cpu().numpy()

    def _decode_logits(self, slots: Sequence[int]) -> torch.Tensor:
        """Runs one decode step. Returns logits [slots, vocabulary] on the host; only the rows of `slots` are valid.

        The step also writes keys and values for all other slots. A free slot gets them at position 0, which its next prefill
        overwrites. A live slot gets them at the last position, which its own last token overwrites before any step attends to it.
        """
        ids, positions, images = [0] * self.slots, [0] * self.slots, [False] * self.slots
        for slot, state in self._live.items():
            positions[slot] = self.max_seq_len - 1
            if slot in slots:
                ids[slot], positions[slot], images[slot] = state.last_token, state.length, state.has_image
        longest = max(self._live[slot].length for slot in slots) + 1
        # Masked keys have a weight of exactly 0, so the number of keys changes the work and not the result.
        length = min(self.max_seq_len, -(-longest // KEY_BUCKET) * KEY_BUCKET)
        position_ids = torch.tensor(positions, device=self._device)
        mask = torch.arange(length, device=self._device)[None] <= position_ids[:, None]
        sees_image = torch.tensor(images, device=self._device)[:, None] if any(images) else None
        cross_mask = None if sees_image is None else self._cross_mask(self._tile_masks, sees_image)
        self._cache.for_decode(position_ids, max(length, 1), with_images=sees_image is not None)
        hidden = self._forward(
            torch.tensor(ids, device=self._device)[:, None],
            position_ids[:, None],
            mask[:, None, None],
            sees_image=sees_image,
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
        sees_image: torch.Tensor | None,
        cross_mask: torch.Tensor | None,
        cross_states: torch.Tensor | None,
    ) -> torch.Tensor:
        """Runs the text model. Returns hidden states [batch, length, hidden].

        Args:
            ids, positions: [batch, length].
            mask: [batch, 1, length, keys] bool, True for the keys of self-attention that a token attends to.
            sees_image: [batch, length] bool, False for tokens without an image before them; None if there is no image.
            cross_mask: See _cross_mask.
            cross_states: VisionFeatures.states in a prefill; None takes the keys and values from the cache.
        """
        row_mask = None if sees_image is None else sees_image[:, None, :, None].to(self._dtype)
        self._cross_output.mask = None if row_mask is None else row_mask[:, 0]
        output = self._text(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            cross_attention_states=cross_states,
            cross_attention_mask=cross_mask,
            full_text_row_masked_out_mask=row_mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state

    def _cross_mask(self, tile_masks: torch.Tensor, sees_image: torch.Tensor) -> torch.Tensor:
        """Returns which vision keys each token attends to: [batch, 1, length, tiles * patches] bool.

        A token that sees no image attends to all keys, because a softmax over no keys is undefined. _forward masks its output.
        """
        keys = tile_masks.repeat_interleave(self._patches, dim=1)[:, None, None]
        return keys | ~sees_image[:, None, :, None]

    # --- vision ---------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def vision_features(self, image: LoadedImage) -> VisionFeatures:
        """Returns the features of the image. The last `vision_cache_size` images stay in memory; 0 keeps none."""
        cached = self._vision_cache.get(image.digest)
        if cached is not None:
            return cached
        inputs = self._image_processor(images=[[image.pixels]], return_tensors="pt").to(self._device)
        output = self._model.model.vision_model(
            pixel_values=inputs["pixel_values"].to(self._dtype),
            aspect_ratio_ids=inputs["aspect_ratio_ids"],
            aspect_ratio_mask=inputs["aspect_ratio_mask"],
        )
        states = self._model.model.multi_modal_projector(output.last_hidden_state)
        features = VisionFeatures(states.reshape(-1, self._patches, states.shape[-1]), inputs["aspect_ratio_mask"][0, 0].bool())
        if self._vision_cache.maxsize:  # an LRUCache of size 0 raises ValueError for every item
            self._vision_cache[image.digest] = features
        return features


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


def choose_dtype(name: str, device: str) -> torch.dtype:
    """Returns the dtype `name`. "auto" is bfloat16, but float32 on a CPU, where smaller types are slower."""
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
