"""The demo with a model that fails on one seed while a file named `broken` lies in its folder. Options as for app.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import app
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.torch.runner import TorchRunner

FAILING_SEED = 13
BROKEN = Path("broken")

prefill = TorchRunner.prefill


def prefill_or_fail(self: TorchRunner, slot: int, request: GenerationRequest) -> Any:
    if request.sampling.seed == FAILING_SEED and BROKEN.exists():
        raise RuntimeError("no luck with 13")
    return prefill(self, slot, request)


if __name__ == "__main__":
    TorchRunner.prefill = prefill_or_fail
    sys.exit(app.main(sys.argv[1:]))
