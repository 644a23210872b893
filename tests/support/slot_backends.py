# pyright: reportArgumentType=false
"""Slot backends on a scripted runner, and what a test reads off their streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from mllama_demo.engine.base import Backend, BackendInfo, Event, FinishEvent, GenerationRequest, TokenEvent
from mllama_demo.engine.runner import ModelRunner
from mllama_demo.engine.slot_backend import Progress, SlotBackend
from mllama_demo.errors import BackendUnavailable
from mllama_demo.sampling import SamplingParams
from tests.support.code_points import CodePoints
from tests.support.scripted_runner import END_IDS, ScriptedRunner

PATIENCE_S = 20.0
MOST_TOKENS = 4096


class StepControl:
    """Makes each decode step of the runner wait until the test allows it."""

    def __init__(self, runner: ScriptedRunner) -> None:
        self._steps = threading.Semaphore(0)
        self._free = False
        runner.on_decode = lambda request_ids: self._wait()

    def allow(self, steps: int) -> None:
        self._steps.release(steps)

    def run_free(self) -> None:
        self._free = True
        self._steps.release()

    def _wait(self) -> None:
        if not self._free:
            assert self._steps.acquire(timeout=PATIENCE_S), "the test never allowed the next step"


def info(slots: int = 2) -> BackendInfo:
    return BackendInfo("scripted", "a model", "cpu", slots=slots, context_length=64, tile_size=32, max_tiles=4)


def new_backend(
    load: ModelRunner | Callable[[Progress], ModelRunner], tokenizer: Any = None, slots: int = 2, **options: Any
) -> SlotBackend:
    """A backend that is not started yet. load: a loader, or the runner that is there at once."""
    loader = load if callable(load) else lambda progress: load
    return SlotBackend(info(slots), loader, tokenizer or CodePoints(), END_IDS, **options)


class Backends:
    """Makes started backends that are ready, and keeps them with their runners."""

    def __init__(self) -> None:
        self.made: list[tuple[SlotBackend, ScriptedRunner, StepControl | None]] = []

    def __call__(
        self, runner: ScriptedRunner, control: StepControl | None = None, tokenizer: Any = None, **options: Any
    ) -> SlotBackend:
        ready = threading.Event()
        backend = new_backend(runner, tokenizer, runner.slots, on_ready=ready.set, **options)
        backend.start()
        self.made.append((backend, runner, control))
        assert ready.wait(PATIENCE_S)
        return backend


def request(name: str, prompt: int = 3, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(tuple(range(1000, 1000 + prompt)), SamplingParams(**sampling), id=name)


async def read(backend: Backend, *requests: GenerationRequest) -> list[list[Event]]:
    """All events of each request, which are sent at the same time."""

    async def one(request: GenerationRequest) -> list[Event]:
        async with aclosing(backend.generate(request)) as events:
            return [event async for event in events]

    return await asyncio.gather(*map(one, requests))


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, (TokenEvent, FinishEvent)))


def end(events: list[Event]) -> FinishEvent:
    assert isinstance(events[-1], FinishEvent)
    return events[-1]


def idle(backend: Backend) -> bool:
    status = backend.status()
    return status.running == 0 and status.waiting == 0


async def refused_with(backend: Backend) -> str:
    """Why a request is refused right now."""
    with pytest.raises(BackendUnavailable) as caught:
        await read(backend, request("refused"))
    return str(caught.value)
