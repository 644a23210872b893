"""The demo with a model that takes its time, as a large one on a busy machine does. Options as for app.py.

A test of Stop or of the queue needs an answer that is still being written many clicks later, however slow those are: the
embedded model alone would have filled its context within seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import app
from mllama_demo.engine.runner import Sampled
from mllama_demo.engine.torch.runner import TorchRunner

SECONDS_PER_STEP = 0.1  # a full context lasts over three minutes
TIME_LIMIT_S = 600

decode = TorchRunner.decode


def decode_slowly(self: TorchRunner, slots: Sequence[int]) -> list[Sampled]:
    time.sleep(SECONDS_PER_STEP)
    return decode(self, slots)


if __name__ == "__main__":
    TorchRunner.decode = decode_slowly
    sys.exit(app.main(["--request-time-limit-s", str(TIME_LIMIT_S), *sys.argv[1:]]))
