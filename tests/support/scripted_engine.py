"""A backend of scripted answers for a process of its own, which fails for real when a test wants it to.

A test writes the name of a fault into a file of the working folder of the engine; the process reads the file at its next step.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mllama_demo.engine.base import GenerationRequest, SteppedBackend
from mllama_demo.engine.process.backend import ProcessBackend
from mllama_demo.engine.runner import ModelRunner, RunnerDown, Sampled
from mllama_demo.engine.slot_backend import Progress
from mllama_demo.errors import CheckpointError
from tests.support.scripted_runner import ScriptedRunner
from tests.support.slot_backends import info, new_backend
from tests.support.waiting import wait_until

STEP_S = 0.005
CONTEXT_LENGTH = 4096
SCRIPTS = {name: f"the answer of {name}\0" for name in ("a", "b", "c", "d")}


class FaultyRunner(ScriptedRunner):
    """Answers as SCRIPTS say, and other requests without end, a token each STEP_S.

    Args:
        folder: Its file `prefill` or `decode` names a fault for the next step of that kind.
    """

    def __init__(self, folder: Path, slots: int) -> None:
        super().__init__(slots=slots, max_seq_len=CONTEXT_LENGTH, scripts=SCRIPTS)
        self._folder = folder

    def begin(self, slot: int, request: GenerationRequest) -> int:
        reused = super().begin(slot, request)
        with (self._folder / "images").open("a", encoding="utf-8") as file:
            if request.image is not None:
                print(request.id, request.image.pixels.getpixel((0, 0)), request.image.digest, file=file)
        return reused

    def read_piece(self, slot: int) -> Sampled | None:
        self._fail_in("prefill")
        return super().read_piece(slot)

    def decode(self, slots: Sequence[int]) -> list[Sampled]:
        self._fail_in("decode")
        time.sleep(STEP_S)
        return super().decode(slots)

    def _fail_in(self, kind: str) -> None:
        file = self._folder / kind
        if not file.exists():
            return
        fault = file.read_text(encoding="utf-8")
        (self._folder / "reached").touch()
        if fault == "wait":
            while file.exists():
                time.sleep(0.002)
            return
        file.unlink()
        if fault == "segfault":
            ctypes.string_at(0)
        elif fault == "hang":
            threading.Event().wait()
        elif fault == "hang without the interpreter":
            ctypes.PyDLL(None).sleep(3600)  # keeps the lock of the interpreter, so that no other thread of the process runs
        elif fault.startswith(("abort: ", "hang: ")):  # as the Neuron runtime does, after a line on standard error
            os.write(2, f"{fault}\n".encode())
            if fault.startswith("abort: "):
                signal.raise_signal(signal.SIGABRT)
            threading.Event().wait()
        elif fault == "down":
            raise RunnerDown("the device is gone")
        else:
            raise RuntimeError(fault)


def make_engine(
    folder: Path, slots: int, max_waiting: int, on_ready: Callable[[], None], on_down: Callable[[str], None]
) -> SteppedBackend:
    """A file `broken` or `crash` in the folder makes loading fail with its text, or end the process."""

    def load(progress: Progress) -> ModelRunner:
        progress("reading the script")
        (folder / "loading").touch()
        while (folder / "hold").exists():
            time.sleep(0.002)
        if (folder / "broken").exists():
            raise CheckpointError((folder / "broken").read_text(encoding="utf-8"))
        if (folder / "crash").exists():
            signal.raise_signal(signal.SIGABRT)
        return FaultyRunner(folder, slots)

    return new_backend(load, slots=slots, max_waiting=max_waiting, on_ready=on_ready, on_down=on_down)


class Engine:
    """A ProcessBackend of scripted answers, and the folder that its faults stand in.

    Attributes:
        down: The reasons that on_down was called with.
    """

    def __init__(self, folder: Path, slots: int = 2, max_waiting: int = 64, **options: Any) -> None:
        self.folder = folder
        self.down: list[str] = []
        self.ready = threading.Event()
        make = functools.partial(make_engine, folder, slots, max_waiting)
        self.backend = ProcessBackend(
            info(slots), make, max_waiting=max_waiting, on_ready=self.ready.set, on_down=self.down.append, **options
        )

    def start(self) -> Engine:
        self.backend.start()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        wait_until(lambda: self.backend.status().state == "ready", lambda: f"the engine is ready: {self.backend.status()}", 30)

    def fail_in(self, kind: str, fault: str) -> None:
        """The next step of this kind, prefill or decode, has the fault."""
        (self.folder / "fault").write_text(fault, encoding="utf-8")
        (self.folder / "fault").rename(self.folder / kind)

    def mend(self, kind: str) -> None:
        (self.folder / kind).unlink(missing_ok=True)
