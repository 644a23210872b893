"""Measures what the prefix cache saves, and how long a running answer waits while a long prompt is read.

    python -m benchmarks follow-ups [--model-path FOLDER] [--turns 10] [--rounds 3] [--threads 0] [--json FILE]

First token: milliseconds from a question to its first token, for each turn of a conversation about an image, with the prefix
cache on and off. The two take turns, so that noise of the machine affects both; their answers must be equal. Gap: the longest
time between two tokens of three running answers while a prompt of --long tokens is read, in their usual decode steps.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.record import write
from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams

QUESTION = "Number {}: what else do you see in this picture, what colour is it, and where is it? Please name each thing once."
SLOTS = 4
USUAL_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model-path", type=Path, default=EMBEDDED_CHECKPOINT)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", type=int, default=1500, help="tokens of the long prompt")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the number to PyTorch")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()

    import torch

    from mllama_demo.engine.torch.runner import TorchRunner

    if args.threads:
        torch.set_num_threads(args.threads)

    def load(megabytes: int) -> Any:
        return TorchRunner.load(args.model_path, slots=SLOTS, max_seq_len=2048, prefix_cache_mb=megabytes)

    tokenizer = Tokenizer(args.model_path)
    runners = {"on": load(512), "off": load(0)}
    image = load_image((EXAMPLES_FOLDER / "dog.png").read_bytes(), "dog.png")
    first_token: dict[str, list[list[float]]] = {"on": [], "off": []}
    lengths: list[int] = []
    for round_ in range(args.rounds):
        texts = [f"{round_}."]  # another conversation in each round
        lengths = []
        for name in first_token:
            first_token[name].append([])
        for turn in range(args.turns):
            texts[-1] = f"{texts[-1]} {QUESTION.format(turn)}".strip()
            request = question(tokenizer, texts, image)
            lengths.append(len(request.prompt_ids))
            answers = []
            for name, runner in runners.items():
                seconds, ids = answer(runner, request, args.tokens)
                first_token[name][-1].append(1000 * seconds)
                answers.append(ids)
            if answers[0] != answers[1]:
                raise SystemExit(f"turn {turn + 1}: the answers with and without the prefix cache differ")
            texts += [tokenizer.decode(answers[0]).strip() or "Yes.", ""]
    print("turn  prompt tokens  first token, cache on (ms)  off (ms)  on / off")
    for turn, length in enumerate(lengths):
        on, off = (statistics.median(round_[turn] for round_ in first_token[name]) for name in ("on", "off"))
        print(f"{turn + 1:4} {length:14} {on:27.1f} {off:9.1f} {on / off:9.2f}")
    gaps = [longest_gap(runners["off"], args.long, seed) for seed in range(args.rounds)]
    step, gap = (statistics.median(values) for values in zip(*gaps, strict=True))
    print(f"decode step of {SLOTS - 1} answers {step:.1f} ms, longest gap while {args.long} tokens are read {gap:.1f} ms")
    print(f"longest gap in decode steps: {statistics.median(gap / step for step, gap in gaps):.2f}")
    figures = {"prompt_tokens": lengths, "first_token_ms": first_token, "step_and_longest_gap_ms": gaps}
    write(args.json, figures)


def question(tokenizer: Tokenizer, texts: list[str], image: LoadedImage) -> GenerationRequest:
    """The last of the texts, which are by turns the user's and the model's. The image is in the first."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[at % 2], text, None if at else ImageRef.of(image)) for at, text in enumerate(texts))
    return GenerationRequest(tuple(encode_chat(messages, tokenizer)), SamplingParams(temperature=0.0), image)


def answer(runner: Any, request: GenerationRequest, tokens: int) -> tuple[float, list[int]]:
    """Seconds to the first token, and the tokens."""
    began, first = time.perf_counter(), None
    slot = runner.choose_slot(range(SLOTS), request)
    runner.begin(slot, request)
    while first is None:
        first = runner.read_piece(slot)
    seconds = time.perf_counter() - began
    ids = [first.token_id, *(runner.decode([slot])[0].token_id for _ in range(tokens - 1))]
    runner.release(slot)
    return seconds, ids


def longest_gap(runner: Any, length: int, seed: int) -> tuple[float, float]:
    """Milliseconds of a usual decode step, and of the longest gap between two tokens while the long prompt is read.

    The scheduler runs a piece and a decode step by turns, as here.
    """
    chance = random.Random(seed)

    def prompt(tokens: int) -> GenerationRequest:
        return GenerationRequest(tuple(chance.randrange(1000) for _ in range(tokens)), SamplingParams(temperature=0.0))

    running = list(range(SLOTS - 1))
    for slot in running:
        runner.begin(slot, prompt(40))
        while runner.read_piece(slot) is None:
            pass
    times = [time.perf_counter()]
    for _ in range(USUAL_STEPS):
        runner.decode(running)
        times.append(time.perf_counter())
    usual = 1000 * statistics.median(after - before for before, after in itertools.pairwise(times))
    runner.begin(SLOTS - 1, prompt(length))
    times, read = [time.perf_counter()], None
    while read is None:
        read = runner.read_piece(SLOTS - 1)
        runner.decode(running)
        times.append(time.perf_counter())
    for slot in range(SLOTS):
        runner.release(slot)
    return usual, 1000 * max(after - before for before, after in itertools.pairwise(times))
