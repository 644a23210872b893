"""The demo with a model that fails when a test wants it to. Options as for app.py.

A file named hang, fail or down in the working folder makes decode steps stand still, raise, or take the model down, beginning
with the fourth after it appeared. A file named kill or segfault ends the process of the model once, with SIGKILL or SIGSEGV. A
number in the file kill is a pause before it in seconds, in which the steps before reach the web process.
"""

from __future__ import annotations

import ctypes
import signal
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
    if not any(Path(name).exists() for name in ("hang", "fail", "down", "kill", "segfault")):
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
        if Path("kill").exists():
            time.sleep(float(Path("kill").read_text(encoding="utf-8") or 0))
            Path("kill").unlink()
            signal.raise_signal(signal.SIGKILL)
        if Path("segfault").exists():
            Path("segfault").unlink()
            ctypes.string_at(0)
    return decode(self, slots)


# The process of the model imports this module, as every process that Python starts anew imports the main one.
TorchRunner.decode = decode_or_fail

if __name__ == "__main__":
    sys.exit(app.main(sys.argv[1:]))
