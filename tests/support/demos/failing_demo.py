"""The demo with a model that fails when a test wants it to. Options as for app.py.

A file named hang, fail or down in the working folder makes decode steps stand still, raise, or take the model down, beginning
with the fourth after it appeared.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import app
from mllama_demo.engine.runner import RunnerDown, Sampled
from mllama_demo.engine.torch.runner import TorchRunner

GOOD_STEPS = 3
decode = TorchRunner.decode
good = 0


def decode_or_fail(self: TorchRunner, slots: Sequence[int]) -> list[Sampled]:
    global good
    if not any(Path(name).exists() for name in ("hang", "fail", "down")):
        good = 0
    elif good < GOOD_STEPS:
        good += 1
    else:
        while Path("hang").exists():
            time.sleep(0.05)
        if Path("fail").exists():
            raise ValueError("the device said no")
        if Path("down").exists():
            raise RunnerDown("the device is gone")
    return decode(self, slots)


if __name__ == "__main__":
    TorchRunner.decode = decode_or_fail
    sys.exit(app.main(sys.argv[1:]))
