"""Requests with what came of them, run together in the slots of a TorchRunner and held to Meta's computation."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field

import torch
from PIL import Image, ImageDraw

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import Sampled, prefill
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams
from tests.support.meta_reference import MetaReference

TILE = 84
# Of logits up to 52: transformers in float32 is itself up to 1.1e-4 from transformers in float64, by the CPU's order of sums.
TOLERANCE = 3e-4
GREEDY = SamplingParams(temperature=0.0)


def picture(columns: float, rows: float, seed: int) -> LoadedImage:
    """Coloured shapes on a canvas of columns × rows tiles."""
    rng = random.Random(seed)
    width, height = round(columns * TILE), round(rows * TILE)
    image = Image.new("RGB", (width, height), tuple(rng.randint(0, 255) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for shape in (draw.ellipse, draw.rectangle, draw.ellipse, draw.rectangle):
        x, y, size = rng.randint(0, width - 30), rng.randint(0, height - 30), rng.randint(20, 60)
        shape((x, y, x + size, y + size), fill=tuple(rng.randint(0, 255) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return load_image(file.getvalue(), f"{seed}.png")


def ask(
    tokenizer: Tokenizer,
    *texts: str,
    image: LoadedImage | None = None,
    image_turn: int = 0,
    sampling: SamplingParams = GREEDY,
) -> GenerationRequest:
    """A request whose texts are by turns the user's and the assistant's; the image belongs to turn image_turn."""
    ref = None if image is None else ImageRef(image.digest, image.name, image.width, image.height)
    messages = tuple(
        Message("assistant" if turn % 2 else "user", text, ref if turn == image_turn else None) for turn, text in enumerate(texts)
    )
    return GenerationRequest(tuple(encode_chat(messages, tokenizer)), sampling, image, trace=True)


def raw_text(tokenizer: Tokenizer, length: int, sampling: SamplingParams = GREEDY, seed: int = 0) -> GenerationRequest:
    """A text-only request of exactly `length` tokens."""
    rng = random.Random(seed)
    words = ["red", "green", "circle", "square", "dog", "what", "where", "seven", "the", "picture"]
    ids = tokenizer.encode(" ".join(rng.choice(words) for _ in range(length)))[: length - 1]
    return GenerationRequest((tokenizer.special_id("<|begin_of_text|>"), *ids), sampling, trace=True)


@dataclass
class Case:
    """A request, how many tokens to make of it, and what came out."""

    name: str
    request: GenerationRequest
    count: int
    arrives: int = 0
    made: list[Sampled] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [sampled.token_id for sampled in self.made]

    @property
    def finished(self) -> bool:
        return len(self.made) >= self.count


def decode(runner: TorchRunner, cases: dict[int, Case]) -> None:
    """One step of the given slots, in the order given."""
    if cases:
        for case, sampled in zip(cases.values(), runner.decode(list(cases)), strict=True):
            case.made.append(sampled)


def answer_in(runner: TorchRunner, slot: int, case: Case) -> None:
    """The whole answer in one slot, nobody else being served meanwhile."""
    case.made.append(prefill(runner, slot, case.request))
    while not case.finished:
        decode(runner, {slot: case})
    runner.release(slot)


def assert_as_meta(reference: MetaReference, case: Case) -> None:
    """Greedy tokens, the recorded candidates and the mass of the whole vocabulary are those of the reference."""
    image = None if case.request.image is None else case.request.image.pixels
    tokens, logits = reference.greedy(case.request.prompt_ids, image, case.count)
    assert case.tokens == tokens, case.name
    for step, (sampled, expected) in enumerate(zip(case.made, logits, strict=True)):
        trace, where = sampled.trace, f"{case.name}, token {step}"
        assert trace is not None, where
        recorded = torch.tensor(trace.logits)
        assert (recorded - expected[list(trace.token_ids)]).abs().max() < TOLERANCE, where
        assert abs(trace.log_mass - float(expected.logsumexp(0))) < TOLERANCE, where
        others = expected.clone()
        others[list(trace.token_ids)] = float("-inf")
        assert others.max() < recorded.min() + 2 * TOLERANCE, f"{where}: a likelier candidate is not on record"
