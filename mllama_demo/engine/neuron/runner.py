"""Runs NxDI's NeuronMllamaForCausalLM in the slots it was compiled for.

Prompts are read one row at a time; every decode step feeds all rows in slot order, since the compiled graph has no other
shape. Samples on the device, or on the host where the model was compiled to return logits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mllama_demo.config.neuron import SCRATCHPAD_PAGE_MIB
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.neuron.images import VisionInputs, vision_inputs
from mllama_demo.engine.neuron.sdk import mllama_module
from mllama_demo.engine.runner import Sampled, image_position
from mllama_demo.engine.token_sampler import TokenSampler
from mllama_demo.errors import ConfigError, PromptTooLong
from mllama_demo.sampling import SamplingParams

# NxDI fills position ids up to the bucket with ones and takes the logits where they are largest: with two tokens the padding
# is as large as the last of them. One token is no prefill at all: it would be run as a decode step.
SHORTEST_PREFILL = 3


@dataclass
class _Slot:
    """A live sequence. length: tokens in the cache. last: sampled, not yet fed. device_sampling: see device_sampling()."""

    sampler: TokenSampler
    device_sampling: tuple[float, float, float]
    length: int
    last: int
    has_image: bool


class NeuronRunner:
    """A ModelRunner over a loaded NeuronMllamaForCausalLM. Not thread-safe; the backend's thread owns it.

    global_topk: how many candidates the device can choose among, None when sampling happens on the host.
    """

    def __init__(self, model: Any, image_token_id: int) -> None:
        """Raises ConfigError for a model that was compiled in a way this runner cannot use."""
        self._model, self._config = model, model.config
        compiled = self._config.neuron_config
        _check_compiled(compiled)
        self.slots = int(compiled.batch_size)
        self.max_seq_len = int(model.token_generation_model.neuron_config.buckets[-1])
        self._longest_prompt = int(model.context_encoding_model.neuron_config.buckets[-1])
        sampling = compiled.on_device_sampling_config
        self.global_topk = None if sampling is None else min(int(sampling.global_topk), int(self._config.text_config.vocab_size))
        self._image_token_id = image_token_id
        self._live: dict[int, _Slot] = {}

    @classmethod
    def load(cls, artifacts: Path, image_token_id: int) -> NeuronRunner:
        """Loads a compiled model onto the device, which takes minutes. Raises ConfigError where there is no Neuron SDK."""
        # NxDI compiles for this page size, but its loader does not set it for the runtime.
        os.environ.setdefault("NEURON_SCRATCHPAD_PAGE_SIZE", str(SCRATCHPAD_PAGE_MIB))
        model = mllama_module().NeuronMllamaForCausalLM(str(artifacts))
        model.load(str(artifacts))
        return cls(model, image_token_id)

    # --- ModelRunner ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prefill(self, slot: int, request: GenerationRequest) -> Sampled:
        if slot in self._live:
            raise ValueError(f"slot {slot} is in use")
        prompt = request.prompt_ids
        if len(prompt) > self._longest_prompt:
            raise PromptTooLong(f"The prompt has {len(prompt)} tokens; this model was compiled to read {self._longest_prompt}.")
        image_at = image_position(request, self._image_token_id)
        state = _Slot(
            TokenSampler(request.sampling, trace=request.trace, skip=request.answered),
            device_sampling(request.sampling, self.global_topk),
            length=len(prompt),
            last=prompt[-1],
            has_image=request.image is not None,
        )
        vision = vision_inputs(self._config, None if request.image is None else request.image.pixels)
        output, row = self._read_prompt(slot, prompt, state, vision, image_at), 0
        if len(prompt) < SHORTEST_PREFILL:
            # The caches are right; the last prompt token, fed once more at its own position, gives the logits.
            state.length -= 1
            output, row = self._step({**self._live, slot: state}), slot
            state.length += 1
        sampled = self._take(state, output, row)
        self._live[slot] = state
        return sampled

    @torch.no_grad()
    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        for slot in slots:
            if self._live[slot].length >= self.max_seq_len:
                raise ValueError(f"slot {slot} holds {self.max_seq_len} tokens already, which is all it was compiled for")
        output = self._step(self._live)
        result = []
        for slot in slots:
            state = self._live[slot]
            state.length += 1
            result.append(self._take(state, output, slot))
        return result

    def release(self, slot: int) -> None:
        self._live.pop(slot, None)

    # --- the two forwards -----------------------------------------------------------------------------------------------

    def _read_prompt(self, slot: int, prompt: Sequence[int], state: _Slot, vision: VisionInputs, image_at: int) -> Any:
        """Fills the slot's caches; what the model returns for this one row."""
        ids = torch.tensor([[*prompt, *[prompt[-1]] * (SHORTEST_PREFILL - len(prompt))]])
        return self._model.forward(
            input_ids=ids,
            attention_mask=None,
            position_ids=torch.arange(ids.shape[1])[None],
            seq_ids=torch.tensor([slot]),
            sampling_params=torch.tensor([state.device_sampling], dtype=torch.float32),
            pixel_values=vision.pixel_values,
            aspect_ratios=vision.aspect_ratios,
            vision_mask=torch.tensor([[[image_at, -1]]], dtype=torch.int32),
            num_chunks=vision.num_chunks,
            has_image=vision.has_image,
        )

    def _step(self, live: dict[int, _Slot]) -> Any:
        """One step of every row; what the model returns for all of them, in slot order.

        Every row writes its key and value, asked for or not. So a live row that sits out is fed exactly what its own turn will
        feed it, where it will feed it, or once it is full at the last position, which nothing reads any more. Free rows write
        at position 0, which the next prefill overwrites.
        """
        ids, positions, images = [0] * self.slots, [0] * self.slots, [0] * self.slots
        sampling = [device_sampling(SamplingParams(temperature=0.0), self.global_topk)] * self.slots
        for slot, state in live.items():
            ids[slot], positions[slot] = state.last, min(state.length, self.max_seq_len - 1)
            images[slot], sampling[slot] = int(state.has_image), state.device_sampling
        return self._model.forward(
            input_ids=torch.tensor(ids)[:, None],
            attention_mask=None,
            position_ids=torch.tensor(positions)[:, None],
            seq_ids=torch.arange(self.slots),
            sampling_params=torch.tensor(sampling, dtype=torch.float32),
            pixel_values=None,
            aspect_ratios=torch.ones(self.slots, 1, 2, dtype=torch.int32),
            vision_mask=torch.zeros(self.slots, 1, 2, dtype=torch.int32),
            num_chunks=torch.zeros(self.slots, 1, dtype=torch.int32),
            has_image=torch.tensor(images, dtype=torch.int32),
        )

    def _take(self, state: _Slot, output: Any, row: int) -> Sampled:
        """The row's next token: the one the device chose, or one drawn here from its logits."""
        if self.global_topk is not None:
            state.last, trace = int(output.tokens[row]), None
        else:
            state.last, trace = state.sampler.sample(output.logits[row, -1].float().numpy())
        return Sampled(state.last, trace)


def device_sampling(params: SamplingParams, global_topk: int | None) -> tuple[float, float, float]:
    """top_k, top_p and temperature as NxDI's sampler takes them; it checks nothing itself.

    It knows no greedy: temperature 0 would divide by zero, top_k 1 is the likeliest token. It knows no "off" for top_k: 0 would
    draw almost evenly, the whole vocabulary is out of its reach, so it becomes global_topk, and so do larger values. Its
    nucleus is a little narrower than the host's: the token that reaches top_p is left out, unless it is the likeliest.
    """
    if params.greedy:
        return 1.0, 1.0, 1.0
    return float(params.top_k_within(global_topk)), params.top_p, params.temperature


def _check_compiled(compiled: Any) -> None:
    """Raises ConfigError naming the first setting of a NeuronConfig that this runner cannot work with."""
    sampling = compiled.on_device_sampling_config
    one_row = compiled.batch_size == 1
    for setting, wrong, needed in (
        ("ctx_batch_size", compiled.ctx_batch_size != 1, "1: prompts are read one at a time"),
        ("tkg_batch_size", compiled.tkg_batch_size != compiled.batch_size, "batch_size: all slots decode together"),
        ("max_batch_size", compiled.max_batch_size != compiled.batch_size, "batch_size: each slot has a row of the cache"),
        ("is_continuous_batching", not (compiled.is_continuous_batching or one_row), "true with more than one slot"),
        ("padding_side", compiled.padding_side != "right", "right"),
        ("async_mode", compiled.async_mode, "false"),
        ("output_logits", compiled.output_logits, "false: leave on-device sampling out to get logits"),
        ("dynamic", sampling is not None and not sampling.dynamic, "true: every request brings its own values"),
    ):
        if wrong:
            raise ConfigError(f"The model was compiled with a {setting} that this demo cannot use; compile it with {needed}.")
