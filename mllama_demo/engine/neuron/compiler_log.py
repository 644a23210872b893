"""How far compiling and loading are, read off what NxD and NxDI log: messages in, a stage and a share of the whole out.

The messages are those of logger "Neuron" at INFO in neuronx_distributed/trace/model_builder.py (0.18) and
neuronx_distributed_inference/models/application_base.py (0.9); a message that is none of them changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Each stage's share of the bar. By experience the compiler takes most of the time; nothing upstream says how much.
_SHARES = {"starting": 0.0, "tracing": 0.1, "compiling": 0.7, "building": 0.02, "weights": 0.18}
_STAGES = list(_SHARES)
_SHARDS = re.compile(r"Sharding weights for ranks: (\d+)\.\.\.(\d+)")


@dataclass(frozen=True)
class CompileProgress:
    """stage: of the keys of _SHARES. done, total: graphs traced or compiled, or cores whose weights are cut."""

    stage: str
    done: int
    total: int

    @property
    def fraction(self) -> float:
        """Of the whole, from 0 to 1."""
        before = sum(_SHARES[stage] for stage in _STAGES[: _STAGES.index(self.stage)])
        return before + _SHARES[self.stage] * (self.done / self.total if self.total else 0.0)

    def __str__(self) -> str:
        count = f"{self.done} of {self.total}"
        return {
            "starting": "starting the Neuron SDK",
            "tracing": f"tracing the model, {count} graphs done",
            "compiling": f"compiling, {count} graphs done",
            "building": "putting the graphs together",
            "weights": f"cutting the weights, {count} cores done" if self.done else "cutting the weights for the cores",
        }[self.stage]


class CompileLog:
    """Follows one compilation of `graphs` graphs, one for each bucket."""

    def __init__(self, graphs: int) -> None:
        self.progress = CompileProgress("starting", 0, graphs)
        self._graphs = graphs

    def read(self, message: str) -> None:
        """Takes the next log message."""
        if message.startswith("Generating HLOs for the following models"):
            self._to("tracing", 0, self._graphs)
        elif message.startswith("Finished generating HLO for"):
            self._to("tracing", self.progress.done + 1 if self.progress.stage == "tracing" else 1, self._graphs)
        elif message.startswith(("Starting compilation for the priority HLO", "Generated all HLOs")):
            self._to("compiling", 0, self._graphs)
        elif message.startswith("Done compilation for the priority HLO"):
            self._to("compiling", 1, self._graphs)
        elif message.startswith("Finished Compilation for all HLOs"):
            self._to("building", 0, 0)
        elif found := _SHARDS.match(message):
            self._to("weights", 0, int(found[2]) - int(found[1]) + 1)
        elif message.startswith("Done Sharding weights in"):
            self._to("weights", self.progress.total, self.progress.total)

    def count(self, compiled: int, sharded: int) -> None:
        """Takes what lies in the working folder, since between two messages there may be half an hour: graphs that are
        compiled, cores whose weights are written."""
        stage = self.progress.stage
        if stage in ("compiling", "weights"):
            self._to(stage, {"compiling": compiled, "weights": sharded}[stage], self.progress.total)

    def _to(self, stage: str, done: int, total: int) -> None:
        reached = CompileProgress(stage, min(done, total), total)
        if reached.fraction >= self.progress.fraction:  # a bar that runs back helps nobody
            self.progress = reached


def loading_stage(message: str) -> str | None:
    """What a compiled model that is being loaded does now, in words; None for a message that does not say."""
    for start, stage in (
        ("Loading presharded checkpoints", "loading the weights onto the device"),
        ("Sharding weights on load", "cutting the weights for the cores"),
        ("Warming up the model", "the device warms up"),
    ):
        if message.startswith(start):
            return stage
    return None


@contextlib.contextmanager
def telling_of_loading(tell: Callable[[str], None]) -> Iterator[None]:
    """Calls tell with each stage that is logged meanwhile."""

    class Stages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if stage := loading_stage(record.getMessage()):
                tell(stage)

    logger, handler = logging.getLogger("Neuron"), Stages(logging.INFO)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # what is below a warning is for tell alone
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
