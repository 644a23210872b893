"""The demo with a model that fails on one seed while a file named `broken` lies in its folder. Options as for app.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import app
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.torch.runner import TorchRunner

FAILING_SEED = 13
BROKEN = Path("broken")

begin = TorchRunner.begin


def begin_or_fail(self: TorchRunner, slot: int, request: GenerationRequest) -> int:
    if request.sampling.seed == FAILING_SEED and BROKEN.exists():
        raise RuntimeError("no luck with 13")
    return begin(self, slot, request)


# The process of the model imports this module, as every process that Python starts anew imports the main one.
TorchRunner.begin = begin_or_fail

if __name__ == "__main__":
    sys.exit(app.main(sys.argv[1:]))
