"""Runs NxDI's NeuronMllamaForCausalLM in the slots that the model was compiled for.

A prefill reads the prompt of one row. A decode step runs all rows in slot order, because the compiled graph has no other shape.
The device samples, or the host when the model was compiled to return logits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mllama_demo.config.neuron import SCRATCHPAD_PAGE_MIB
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.batch_sampler import sample_rows
from mllama_demo.engine.neuron.images import VisionInputs, vision_inputs
from mllama_demo.engine.neuron.runtime_errors import runtime_status, with_advice
from mllama_demo.engine.neuron.sdk import mllama_module
from mllama_demo.engine.runner import RunnerDown, Sampled, image_position
from mllama_demo.engine.token_sampler import TokenSampler
from mllama_demo.errors import ConfigError, PromptTooLong
from mllama_demo.sampling import SamplingParams

# NxDI 0.9 pads position ids to the bucket with ones and returns the logits at the largest position. With two tokens, the padding
# is as large as the last position. NxDI runs an input of one token as a decode step.
MIN_PREFILL_TOKENS = 3


@dataclass
class _Slot:
    """The sequence in a slot.

    Attributes:
        device_sampling: See device_sampling().
        length: Tokens in the cache.
        last_token: The newest token, which the next decode step feeds to the model.
    """

    sampler: TokenSampler
    device_sampling: tuple[float, float, float]
    length: int
    last_token: int
    has_image: bool


class NeuronRunner:
    """A ModelRunner over a loaded NeuronMllamaForCausalLM. The runner is not thread-safe; the backend's thread owns it.

    Attributes:
        global_topk: Candidates that the device can choose from. None when the host samples.
        full_canvas: Each image fills all tiles, see images.on_full_canvas. Off only to show what happens then.

    Raises:
        ConfigError: The model was compiled in a way that this runner cannot use.
    """

    def __init__(self, model: Any, image_token_id: int) -> None:
        self._model, self._config = model, model.config
        compiled = self._config.neuron_config
        _check_compiled(compiled)
        self.slots = int(compiled.batch_size)
        self.max_seq_len = int(model.token_generation_model.neuron_config.buckets[-1])
        self._longest_prompt = int(model.context_encoding_model.neuron_config.buckets[-1])
        sampling = compiled.on_device_sampling_config
        self.global_topk = None if sampling is None else min(int(sampling.global_topk), int(self._config.text_config.vocab_size))
        self.full_canvas = True
        self._image_token_id = image_token_id
        self._begun: dict[int, GenerationRequest] = {}  # the slots whose prompt is not read yet
        self._live: dict[int, _Slot] = {}

    @classmethod
    def load(cls, artifacts: Path, image_token_id: int) -> NeuronRunner:
        """Loads a compiled model onto the device, which takes minutes. Raises ConfigError without the Neuron SDK."""
        # NxDI 0.9 always compiles for this page size, but does not tell the runtime when the model's configuration omits it.
        os.environ.setdefault("NEURON_SCRATCHPAD_PAGE_SIZE", str(SCRATCHPAD_PAGE_MIB))
        with _explained_errors():
            model = mllama_module().NeuronMllamaForCausalLM(str(artifacts))
            model.load(str(artifacts))
        return cls(model, image_token_id)

    # --- ModelRunner ----------------------------------------------------------------------------------------------------

    def choose_slot(self, free: Sequence[int], request: GenerationRequest) -> int:
        return min(free)

    def begin(self, slot: int, request: GenerationRequest) -> int:
        if slot in self._live or slot in self._begun:
            raise ValueError(f"slot {slot} is in use")
        length = len(request.prompt_ids)
        if length > self._longest_prompt:
            raise PromptTooLong(f"The prompt has {length} tokens; this model was compiled to read {self._longest_prompt}.")
        image_position(request, self._image_token_id)
        self._begun[slot] = request
        return 0

    @torch.no_grad()
    def read_piece(self, slot: int) -> Sampled:
        """Reads the whole prompt, because the compiled graph does."""
        request = self._begun.pop(slot)
        prompt = request.prompt_ids
        state = _Slot(
            TokenSampler(request.sampling, trace=request.trace, skip=request.answered),
            device_sampling(request.sampling, self.global_topk),
            length=len(prompt),
            last_token=prompt[-1],
            has_image=request.image is not None,
        )
        image = None if request.image is None else request.image.pixels
        vision = vision_inputs(self._config, image, full_canvas=self.full_canvas)
        image_at = image_position(request, self._image_token_id)
        output, row = self._read_prompt(slot, prompt, state, vision, image_at), 0
        if len(prompt) < MIN_PREFILL_TOKENS:
            # The cache is right, the logits are not. Feeding the last prompt token again at its position gives the right logits.
            state.length -= 1
            output, row = self._step({**self._live, slot: state}), slot
            state.length += 1
        [sampled] = self._next_tokens([state], output, [row])
        self._live[slot] = state
        return sampled

    @torch.no_grad()
    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        for slot in slots:
            if self._live[slot].length >= self.max_seq_len:
                raise ValueError(f"slot {slot} holds {self.max_seq_len} tokens already, which is all it was compiled for")
        output = self._step(self._live)
        states = [self._live[slot] for slot in slots]
        for state in states:
            state.length += 1
        return self._next_tokens(states, output, slots)

    def release(self, slot: int) -> None:
        self._begun.pop(slot, None)
        self._live.pop(slot, None)

    def replace_last_token(self, slot: int, token_id: int) -> None:
        """The next decode step feeds this token instead of the last one that was sampled for the slot."""
        self._live[slot].last_token = token_id

    # --- the two forwards -----------------------------------------------------------------------------------------------

    def _read_prompt(self, slot: int, prompt: Sequence[int], state: _Slot, vision: VisionInputs, image_at: int) -> Any:
        """Fills the slot's caches. Returns the model's output for this row."""
        ids = torch.tensor([[*prompt, *[prompt[-1]] * (MIN_PREFILL_TOKENS - len(prompt))]])
        return self._forward(
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
        """Runs one decode step. Returns the model's output for all rows, in slot order.

        Each row writes a key and a value into its cache, also a row whose output is not needed. Such a row gets the token and
        position of its own next step, so the write does no harm. A full row writes at its last position, which is not read again.
        A free row writes at position 0, which the next prefill overwrites.
        """
        ids, positions, images = [0] * self.slots, [0] * self.slots, [0] * self.slots
        sampling = [device_sampling(SamplingParams(temperature=0.0), self.global_topk)] * self.slots
        for slot, state in live.items():
            ids[slot], positions[slot] = state.last_token, min(state.length, self.max_seq_len - 1)
            images[slot], sampling[slot] = int(state.has_image), state.device_sampling
        return self._forward(
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

    def _forward(self, **inputs: Any) -> Any:
        with _explained_errors():
            return self._model.forward(**inputs)

    def _next_tokens(self, states: Sequence[_Slot], output: Any, rows: Sequence[int]) -> list[Sampled]:
        """Returns the next token of each row, chosen by the device or sampled here from the row's logits."""
        if self.global_topk is not None:
            result = [Sampled(int(output.tokens[row])) for row in rows]
        else:
            logits = output.logits[list(rows), -1].float()
            result = [Sampled(*sampled) for sampled in sample_rows([state.sampler for state in states], logits)]
        for state, sampled in zip(states, result, strict=True):
            if sampled.error is None:
                state.last_token = sampled.token_id
        return result


def device_sampling(params: SamplingParams, global_topk: int | None) -> tuple[float, float, float]:
    """Returns top_k, top_p and temperature for the on-device sampler of NxDI 0.9, which does not check them.

    - Greedy decoding becomes top_k 1, because the sampler divides by the temperature.
    - top_k 0 (off) and values above global_topk become global_topk: with 0 the sampler would draw almost evenly.
    - The sampler leaves out the token that reaches top_p, unless it is the likeliest. The host's sampler includes that token.
    """
    if params.greedy:
        return 1.0, 1.0, 1.0
    return float(params.top_k_within(global_topk)), params.top_p, params.temperature


@contextlib.contextmanager
def _explained_errors() -> Iterator[None]:
    """Adds to an error of the Neuron runtime what it means and what to do.

    Raises:
        RunnerDown: The runtime of this process cannot compute any more, so that a new process is needed.
        RuntimeError: The runtime reported another error.
    """
    try:
        yield
    except RuntimeError as error:
        text, status = str(error), runtime_status(str(error))
        explained = with_advice(text)
        if status is not None and status.ends_process:
            raise RunnerDown(explained) from error
        if explained == text:
            raise
        raise RuntimeError(explained) from error


def _check_compiled(compiled: Any) -> None:
    """Checks a NeuronConfig. Raises ConfigError with the first setting that this runner cannot use."""
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
