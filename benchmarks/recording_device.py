"""Replicas of a simulated device that write down which requests they have computed to their end."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.base import BackendInfo, Event, FinishEvent, GenerationRequest
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import SimulatedRunner
from mllama_demo.engine.slot_backend import SlotBackend

DEVICE = DeviceProfile("a simulated device", "round numbers", True, {1: 0.05}, {1: 0.03})
WAITING = 64  # places to wait in at a replica


class RecordingBackend(SlotBackend):
    """Writes down which requests it has computed to their end."""

    finished: Path

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        async with aclosing(super().generate(request)) as events:
            async for event in events:
                if isinstance(event, FinishEvent) and event.reason == "max_tokens":
                    with self.finished.open("a") as file:
                        file.write(f"{request.id}\n")
                yield event


def make_recording(finished: Path, slots: int, on_ready: Callable[[], None], on_down: Callable[[str], None]) -> RecordingBackend:
    """A replica's backend: a device that sleeps."""

    def load(progress: Callable[[str], None]) -> SimulatedRunner:
        return SimulatedRunner(DEVICE, slots=slots, max_seq_len=2048, take_time=time.sleep)

    info = BackendInfo("simulated", EMBEDDED_CHECKPOINT.name, "a simulated device", slots, 2048, 0, 0)
    made = RecordingBackend(
        info, load, Tokenizer(EMBEDDED_CHECKPOINT), frozenset(), max_waiting=WAITING, on_ready=on_ready, on_down=on_down
    )
    made.finished = finished
    return made
