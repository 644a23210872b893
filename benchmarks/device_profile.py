"""Measures the device profile of the PyTorch engine on this machine, over the scheduler that serves requests."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from benchmarks.machine_speed import Reference
from mllama_demo.capacity.simulation import NoText
from mllama_demo.checkpoint.validate import check_checkpoint
from mllama_demo.config.loader import load_settings
from mllama_demo.engine.base import GenerationRequest, TokenEvent
from mllama_demo.engine.runner import ModelRunner
from mllama_demo.engine.scheduler import Scheduler
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.torch.kv_cache import KEY_BUCKET
from mllama_demo.engine.torch.prompt_pieces import PIECE_TOKENS
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams

PROMPTS = (16, 32, 64, 128, 256, 512)  # tokens of the prompts that are read
WITH_IMAGE = (32, 256)  # tokens of those with an image
SLOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
STEPS = 40
WORKS = 4  # parts of the steps that are measured, and repetitions of a prompt
# Tokens of the sequences in the middle of a measurement of steps. Attention reads a multiple of KEY_BUCKET keys, and both lengths
# are in the middle of a bucket.
SHORT, LONG = KEY_BUCKET // 2, KEY_BUCKET // 2 + 3 * KEY_BUCKET


class Engine:
    """The PyTorch engine of the embedded checkpoint, and prompts for it that no other prompt shares a beginning with."""

    def __init__(self, slots: int) -> None:
        settings = load_settings([])
        self.runner = TorchRunner.load(settings.model_path, slots=slots, max_seq_len=settings.seq_len)
        self.runner.choose_threads()  # as the program does
        self.slots, self.max_seq_len = slots, settings.seq_len
        self.image_token = check_checkpoint(settings.model_path).image_token_id
        pictures = sorted(EXAMPLES_FOLDER.glob("*.png"))
        self._picture = load_image(pictures[0].read_bytes(), pictures[0].name)
        self._draw = random.Random(1)
        self._count = itertools.count()

    def request(self, tokens: int, has_image: bool = False, max_tokens: int = 1) -> GenerationRequest:
        ids = [self._draw.randrange(10, 1000) for _ in range(tokens)]
        if has_image:
            ids[0] = self.image_token
        sampling = SamplingParams(temperature=0.8, max_tokens=max_tokens, ignore_eos=True)
        return GenerationRequest(tuple(ids), sampling, self._new_picture() if has_image else None)

    def scheduler(self, runner: ModelRunner | None = None) -> Scheduler:
        """A scheduler with nothing in it, over the engine or another runner."""
        return Scheduler(
            runner or self.runner,
            new_text_stream=lambda sampling: NoText(),
            end_of_turn_ids=frozenset(),
            max_waiting=10_000,
            clock=time.perf_counter,
        )

    def _new_picture(self) -> LoadedImage:
        """The same pixels under another digest, so that nothing of an earlier image is used again."""
        return dataclasses.replace(self._picture, digest=f"{next(self._count):064x}")


class DecodeSteps:
    """One decode step of one short sequence, again and again, in an engine of its own."""

    def __init__(self) -> None:
        self._engine = Engine(slots=1)
        self._scheduler = self._engine.scheduler()
        self._left = 0

    def __call__(self) -> None:
        if not self._left:
            self._scheduler.shutdown("next sequence")
            self._scheduler = self._engine.scheduler()
            self._scheduler.submit(self._engine.request(PROMPTS[0], max_tokens=2 * STEPS))
            self._scheduler.step()
            self._left = STEPS
        self._left -= 1
        self._scheduler.step()


class Measurement:
    """The times of an engine, as means of rounds, each of which measures everything once.

    A machine is not equally fast at all times. Rounds may therefore be measured before, between and after what the profile is
    compared with, and a time is measured as a multiple of what the reference took at that moment.
    """

    def __init__(self, engine: Engine, reference: Reference) -> None:
        self._engine, self._reference = engine, reference
        self._reference_s: list[float] = []
        self._rounds: list[tuple[float, float]] = []  # when each began and ended
        self._samples: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self._draw = random.Random(2)
        self._counts = sorted({count for count in SLOTS if count < engine.slots} | {engine.slots})
        for _ in range(2):  # the first steps are slow
            self._prefill(64, has_image=True)

    def round(self) -> None:
        """Measures everything once more."""
        began = self._reference.now()
        for tokens in PROMPTS:
            self._add("prefill", tokens, self._prefill(tokens))
        for tokens in WITH_IMAGE:
            self._add("image", tokens, self._prefill(tokens, has_image=True))
        for slots in self._counts:
            self._add("step", slots, self._step(slots))
            self._add("image step", slots, self._step(slots, images=(slots + 1) // 2))
        self._add("long step", self._engine.slots, self._step(self._engine.slots, tokens=LONG))
        self._rounds.append((began, self._reference.now()))

    @property
    def reference_s(self) -> float:
        """Seconds of the reference where the times of the profile hold."""
        return statistics.fmean(self._reference_s)

    def profile(self) -> DeviceProfile:
        """The profile by all rounds until now."""
        prefill, image, step, image_step, long_step = map(self._means, ("prefill", "image", "step", "image step", "long step"))
        short, long = WITH_IMAGE
        added = {tokens: image[tokens] - prefill[tokens] for tokens in WITH_IMAGE}
        image_token_s = max(0.0, (added[long] - added[short]) / (long - short))
        slots = self._engine.slots
        context_step_s = max(0.0, (long_step[slots] - step[slots]) / (LONG - SHORT) / slots)
        return DeviceProfile(
            name="The embedded checkpoint on a CPU",
            source=f"measured on a machine with {os.cpu_count()} cores by: python -m benchmarks capacity",
            estimated=False,
            prefill_s=_rising(prefill),
            image_s=round(max(0.0, added[short] - image_token_s * short), 5),
            image_token_s=round(image_token_s, 7),
            decode_s=_rising({count: seconds - context_step_s * count * SHORT for count, seconds in step.items()}),
            image_step_s=_rising({count: max(0.0, image_step[count] - step[count]) for count in self._counts}),
            context_step_s=round(context_step_s, 9),
            piece_tokens=PIECE_TOKENS,
            slowness=[
                round(factor, 2)
                for began, ended in self._rounds
                for factor in self._reference.slowness(began, ended, self.reference_s)
            ],
        )

    def _add(self, kind: str, size: int, multiple: float) -> None:
        self._samples[kind, size].append(multiple)

    def _means(self, kind: str) -> dict[int, float]:
        """Seconds, by size."""
        return {
            size: self.reference_s * statistics.fmean(values) for (known, size), values in self._samples.items() if known == kind
        }

    def _multiple(self, work: Callable[[], None]) -> float:
        """How many times as long as the reference the work takes, which is done WORKS times.

        The reference comes after each work, because it takes longer then than right after itself.
        """
        took_s, beside = 0.0, []
        for _ in range(WORKS):
            began = time.perf_counter()
            work()
            took_s += time.perf_counter() - began
            beside.append(self._reference.take())
        self._reference_s += beside
        return took_s / sum(beside)

    def _prefill(self, tokens: int, has_image: bool = False) -> float:
        """The time from the request to its first token, as a multiple of the reference."""
        scheduler = self._engine.scheduler()

        def answer() -> None:
            scheduler.submit(self._engine.request(tokens, has_image))
            while scheduler.has_work():
                scheduler.step()

        return self._multiple(answer)

    def _step(self, slots: int, images: int = 0, tokens: int = SHORT) -> float:
        """The time of a step with so many slots of the engine, as a multiple of the reference. The slots are drawn.

        Args:
            images: How many of the slots have an image.
            tokens: Of the sequences, in the middle of the measurement.
        """
        scheduler, everyone = self._engine.scheduler(), self._engine.slots
        kept = self._draw.sample(range(everyone), slots)
        begin = tokens - STEPS // 2
        requests = [self._engine.request(begin, index in kept[:images], self._engine.max_seq_len) for index in range(everyone)]
        for request in requests:
            scheduler.submit(request)
        read: set[str] = set()
        while len(read) < everyone:
            read |= {request_id for request_id, event in scheduler.step() if isinstance(event, TokenEvent)}
        for index in set(range(everyone)) - set(kept):
            scheduler.cancel(requests[index].id)
        scheduler.step()

        def steps() -> None:
            for _ in range(STEPS // WORKS):
                scheduler.step()

        multiple = self._multiple(steps) / (STEPS // WORKS)
        scheduler.shutdown("measured")
        return multiple


def _rising(table: Mapping[int, float]) -> dict[int, float]:
    """The table with rounded values none of which is below the one before, which two measured ones may be by chance."""
    sizes = sorted(table)
    values = itertools.accumulate((table[size] for size in sizes), max)
    return {size: round(value, 5) for size, value in zip(sizes, values, strict=True)}
