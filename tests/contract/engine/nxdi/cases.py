"""Requests for the runner, and their answers held against Meta's computation, one request at a time."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw

from mllama_demo.backends import make_backend
from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import GenerationRequest, StartedBackend
from mllama_demo.engine.neuron.images import on_full_canvas
from mllama_demo.engine.neuron.runner import NeuronRunner
from mllama_demo.engine.runner import Sampled, prefill
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams

if TYPE_CHECKING:
    from tests.support.meta_reference import MetaReference

TOLERANCE = 1e-4
GREEDY = SamplingParams(temperature=0.0)


def picture(width: float, height: float, seed: int) -> LoadedImage:
    """Coloured shapes on width × height pixels."""
    rng = random.Random(seed)
    image = Image.new("RGB", (round(width), round(height)), tuple(rng.randint(0, 255) for _ in range(3)))
    draw, size = ImageDraw.Draw(image), 0.6 * min(width, height)
    for shape in (draw.ellipse, draw.rectangle):
        x, y = rng.uniform(0, width - size), rng.uniform(0, height - size)
        shape((x, y, x + size, y + size), fill=tuple(rng.randint(0, 255) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return load_image(file.getvalue(), f"{seed}.png")


def ask(tokenizer: Tokenizer, *texts: str, image: LoadedImage | None = None, image_turn: int = 0) -> GenerationRequest:
    """A greedy request whose texts are by turns the user's and the assistant's; the image belongs to turn image_turn."""
    ref = None if image is None else ImageRef(image.digest, image.name, image.width, image.height)
    messages = tuple(
        Message("assistant" if turn % 2 else "user", text, ref if turn == image_turn else None) for turn, text in enumerate(texts)
    )
    return GenerationRequest(tuple(encode_chat(messages, tokenizer)), GREEDY, image, trace=True)


def noise(tokenizer: Tokenizer, length: int, seed: int) -> GenerationRequest:
    """A greedy text request of exactly `length` tokens."""
    rng = random.Random(seed)
    ids = [rng.randrange(256) for _ in range(length - 1)]
    return GenerationRequest((tokenizer.special_id("<|begin_of_text|>"), *ids), GREEDY, trace=True)


@dataclass
class Case:
    """A request, how many tokens to make of it, and what came out."""

    request: GenerationRequest
    count: int
    made: list[Sampled] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [sampled.token_id for sampled in self.made]

    @property
    def finished(self) -> bool:
        return len(self.made) >= self.count


def start(runner: NeuronRunner, slot: int, case: Case) -> None:
    case.made.append(prefill(runner, slot, case.request))


def step(runner: NeuronRunner, cases: dict[int, Case]) -> None:
    """One decode step of the given slots, in the order given."""
    for case, sampled in zip(cases.values(), runner.decode(list(cases)), strict=True):
        case.made.append(sampled)


def finish(runner: NeuronRunner, cases: dict[int, Case]) -> None:
    while going := {slot: case for slot, case in cases.items() if not case.finished}:
        step(runner, going)


def as_seen(reference: MetaReference, image: LoadedImage | None) -> Image.Image | None:
    """The picture that goes through Meta's computation: the one on all tiles."""
    return None if image is None else on_full_canvas(image.pixels, reference.eyes["image_size"], reference.eyes["max_num_tiles"])


def assert_as_meta(reference: MetaReference, case: Case) -> None:
    """Greedy tokens, the recorded candidates and the mass of the whole vocabulary are those of the reference."""
    assert len(case.made) == case.count
    tokens, logits = reference.greedy(case.request.prompt_ids, as_seen(reference, case.request.image), case.count)
    assert case.tokens == tokens
    assert max(differences(case.made, logits)) < TOLERANCE


def differences(made: Sequence[Sampled], logits: torch.Tensor) -> list[float]:
    """How far each step's recorded candidates, and the logarithm of the whole mass, are from the logits [steps, vocabulary]."""
    found = []
    for sampled, expected in zip(made, logits, strict=True):
        assert sampled.trace is not None
        recorded = torch.tensor(sampled.trace.logits)
        candidates = (recorded - expected[list(sampled.trace.token_ids)]).abs().max()
        found.append(max(float(candidates), abs(sampled.trace.log_mass - float(expected.logsumexp(0)))))
    return found


@asynccontextmanager
async def running_backend(settings: Settings) -> AsyncIterator[tuple[StartedBackend, Tokenizer]]:
    """The backend of a demo that comes up, and its tokenizer."""
    up, reasons = threading.Event(), []

    def down(why: str) -> None:
        reasons.append(why)
        up.set()

    backend, tokenizer = make_backend(settings, on_ready=up.set, on_down=down)
    assert isinstance(tokenizer, Tokenizer)
    backend.start()
    try:
        assert up.wait(240)
        assert reasons == []
        yield backend, tokenizer
    finally:
        backend.close()


async def answered(settings: Settings, request: GenerationRequest) -> list[Any]:
    """The events of one request to a demo that comes up for it."""
    async with running_backend(settings) as (backend, _):
        return [event async for event in backend.generate(request)]
