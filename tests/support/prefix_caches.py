"""Dialogues of a TorchRunner with a prefix cache, and what was read of their prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import Sampled
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams
from tests.support.torch_runner_cases import GREEDY, ask

CONTEXT = 512
WARM_SAMPLING = SamplingParams(temperature=1.2, seed=5)


@dataclass
class Reply:
    """An answer, how many tokens of its prompt were not read, and how often read_piece was called."""

    made: list[Sampled]
    reused: int
    calls: int


@dataclass
class Dialogue:
    """A conversation about one image, or about none."""

    tokenizer: Tokenizer
    image: LoadedImage | None = None
    image_turn: int = 0
    texts: list[str] = field(default_factory=list)

    def ask(self, question: str, sampling: SamplingParams = GREEDY) -> GenerationRequest:
        self.texts.append(question)
        return ask(self.tokenizer, *self.texts, image=self.image, image_turn=self.image_turn, sampling=sampling)

    def answered(self, made: list[Sampled]) -> None:
        self.texts.append(self.tokenizer.decode([sampled.token_id for sampled in made]) or "Yes.")


def load(embedded: Path, slots: int = 2, **options) -> TorchRunner:
    return TorchRunner.load(embedded, slots=slots, max_seq_len=CONTEXT, **options)


def begin(runner: TorchRunner, request: GenerationRequest, free: list[int]) -> tuple[int, Reply]:
    """Reads the prompt in the slot of the runner's choice. Returns the slot and the answer so far."""
    slot = runner.choose_slot(free, request)
    reply, first = Reply([], runner.begin(slot, request), 0), None
    while first is None:
        first, reply.calls = runner.read_piece(slot), reply.calls + 1
    reply.made.append(first)
    return slot, reply


def answer(runner: TorchRunner, request: GenerationRequest, count: int = 4) -> Reply:
    slot, reply = begin(runner, request, list(range(runner.slots)))
    for _ in range(count - 1):
        reply.made += runner.decode([slot])
    runner.release(slot)
    return reply


def assert_same(cached: TorchRunner, uncached: TorchRunner, request: GenerationRequest, count: int = 4) -> Reply:
    """Both runners answer in the same way, to the last bit of each recorded logit. Returns the answer of the first."""
    expected, reply = answer(uncached, request, count), answer(cached, request, count)
    assert expected.reused == 0
    assert reply.made == expected.made
    return reply


def long(topic: str) -> str:
    """A question of more than a piece."""
    return f"Tell me about the {topic}, please. " + "What colour is it, and where is it in the picture? " * 4
