"""Answers many questions with a checkpoint, for the evaluation.

The answers come from the demo's own runner, image processor and prompt format. All slots of the runner are kept busy.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import prefill
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams

SLOTS, MAX_SEQ_LEN, MAX_TOKENS = 16, 512, 110
GREEDY = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)


@dataclass(frozen=True)
class Prompt:
    """A conversation whose last question the model is to answer.

    Attributes:
        turns: Questions and answers in turn; the first and the last are questions.
        file: Bytes of the image file that belongs to the first turn; None without an image.
    """

    turns: Sequence[str]
    file: bytes | None = None
    sampling: SamplingParams = GREEDY


def png(image: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


class Answerer:
    """A loaded checkpoint that answers prompts."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer(folder)
        self._end = self.tokenizer.special_id("<|eot_id|>")
        self._runner = TorchRunner.load(folder, slots=SLOTS, max_seq_len=MAX_SEQ_LEN, vision_cache_size=0)

    def answers(self, prompts: Iterator[Prompt]) -> list[str]:
        """The replies to the prompts, in the order of the prompts."""
        waiting = enumerate(prompts)
        replies: dict[int, str] = {}
        running: dict[int, tuple[int, list[int], int]] = {}  # slot: index, tokens, limit
        free = list(range(SLOTS))
        exhausted = False
        while running or not exhausted:
            while free and not exhausted:
                index, prompt = next(waiting, (-1, None))
                if prompt is None:
                    exhausted = True
                    break
                slot = free.pop()
                first = prefill(self._runner, slot, self._request(prompt)).token_id
                running[slot] = (index, [first], prompt.sampling.max_tokens)
            for slot, (index, tokens, limit) in list(running.items()):
                if tokens[-1] == self._end or len(tokens) >= limit:
                    replies[index] = self.tokenizer.decode(tokens).strip()
                    self._runner.release(slot)
                    del running[slot]
                    free.append(slot)
            if running:
                slots = sorted(running)
                for slot, sampled in zip(slots, self._runner.decode(slots), strict=True):
                    running[slot][1].append(sampled.token_id)
        return [replies[index] for index in range(len(replies))]

    def _request(self, prompt: Prompt) -> GenerationRequest:
        image: LoadedImage | None = load_image(prompt.file) if prompt.file else None
        reference = image and ImageRef(image.digest, image.name, image.width, image.height)
        messages = tuple(
            Message("assistant" if index % 2 else "user", text, reference if index == 0 else None)
            for index, text in enumerate(prompt.turns)
        )
        return GenerationRequest(tuple(encode_chat(messages, self.tokenizer)), prompt.sampling, image)
