"""Reads the progress of compiling and loading a model out of the log messages of NxD and NxDI.

Logger "Neuron" writes these messages at level INFO, in neuronx_distributed/trace/model_builder.py (NxD 0.13 to 0.18) and
neuronx_distributed_inference/models/application_base.py (NxDI 0.4 to 0.9). Other messages are ignored.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mllama_demo.engine.neuron.weights_progress import WeightsProgress

# Each stage's share of the progress bar: estimates, because upstream does not publish how long a stage takes.
_STAGE_SHARES = {"starting": 0.0, "tracing": 0.1, "compiling": 0.7, "building": 0.02, "weights": 0.18}
_STAGES = list(_STAGE_SHARES)
_SHARDS = re.compile(r"Sharding [Ww]eights for ranks: (\d+)\.\.\.(\d+)")  # "Weights" up to NxD 0.15


@dataclass(frozen=True)
class CompileProgress:
    """How far a compilation is.

    Attributes:
        stage: One of the keys of _STAGE_SHARES.
        done: Graphs traced or compiled, or cores whose weights are written, in this stage.
        total: All graphs or cores of this stage; 0 for a stage that counts nothing.
    """

    stage: str
    done: int
    total: int

    @property
    def fraction(self) -> float:
        """Share of the whole compilation that is done, 0 to 1."""
        before = sum(_STAGE_SHARES[stage] for stage in _STAGES[: _STAGES.index(self.stage)])
        return before + _STAGE_SHARES[self.stage] * (self.done / self.total if self.total else 0.0)

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
    """Follows one compilation of `graphs` graphs. NxDI compiles one graph for each bucket."""

    def __init__(self, graphs: int) -> None:
        self.progress = CompileProgress("starting", 0, graphs)
        self._graphs = graphs

    def read(self, message: str) -> None:
        """Updates progress from the next log message."""
        if message.startswith("Generating HLOs for the following models"):
            self._advance("tracing", 0, self._graphs)
        elif message.startswith("Finished generating HLO for"):
            self._advance("tracing", self.progress.done + 1 if self.progress.stage == "tracing" else 1, self._graphs)
        elif message.startswith(("Starting compilation for the priority HLO", "Generated all HLOs")):
            self._advance("compiling", 0, self._graphs)
        elif message.startswith("Done compilation for the priority HLO"):
            self._advance("compiling", 1, self._graphs)
        elif message.startswith("Finished Compilation for all HLOs"):
            self._advance("building", 0, 0)
        elif found := _SHARDS.match(message):
            self._advance("weights", 0, int(found[2]) - int(found[1]) + 1)
        elif message.startswith("Done Sharding weights in"):
            self._advance("weights", self.progress.total, self.progress.total)

    def update_counts(self, compiled: int, sharded: int) -> None:
        """Updates progress from the files that exist, because half an hour may pass between two log messages.

        Args:
            compiled: Graphs whose compiled file exists.
            sharded: Cores whose weights are written.
        """
        stage = self.progress.stage
        if stage in ("compiling", "weights"):
            self._advance(stage, {"compiling": compiled, "weights": sharded}[stage], self.progress.total)

    def _advance(self, stage: str, done: int, total: int) -> None:
        reached = CompileProgress(stage, min(done, total), total)
        if reached.fraction >= self.progress.fraction:  # progress never decreases
            self.progress = reached


WEIGHTS_BEGIN, WEIGHTS_END = "Loading presharded checkpoints", "Finished weights loading in"


def loading_stage(message: str) -> str | None:
    """Returns the stage of loading that a log message announces, as text for the user, or None."""
    for start, stage in (
        (WEIGHTS_BEGIN, "loading the weights onto the device"),  # from NxDI 0.7 on
        ("Sharding weights on load", "cutting the weights for the cores"),
        ("Warming up the model", "the device warms up"),
    ):
        if message.startswith(start):
            return stage
    return None


@contextlib.contextmanager
def report_loading(report: Callable[[str], None], weights: WeightsProgress | None = None) -> Iterator[None]:
    """Calls `report` with each stage of loading that is logged inside the with block, and follows the weights meanwhile."""

    class Stages(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if weights and message.startswith(WEIGHTS_END):
                weights.stop()
            if stage := loading_stage(message):
                report(stage)
            if weights and message.startswith(WEIGHTS_BEGIN):
                weights.start()

    logger, handler = logging.getLogger("Neuron"), Stages(logging.INFO)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # keeps NxDI's INFO messages out of the demo's log
    try:
        yield
    finally:
        if weights:
            weights.stop()
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
