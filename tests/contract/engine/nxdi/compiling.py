"""The process that compiles, with NxDI's own `compile`. Only the tracing is left out, which the Neuron compiler does.

    python -m tests.contract.engine.nxdi.compiling JOB

JOB is the input of mllama_demo/checkpoint/compilation/worker.py, as JSON. NxDI writes its configuration and cuts the weights for
each core, as on an instance; the file of the graphs is an empty model.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from mllama_demo.checkpoint.compilation.worker import compile_model
from tests.contract.engine.nxdi import cpu_device


class Graphs(torch.nn.Module):
    def forward(self) -> int:
        return 0


def main(job: dict) -> None:
    os.environ["NXD_CPU_MODE"] = "0"  # an instance compiles for its device; the tests around this process compute on the CPU
    cpu_device.make_importable([os.environ["NXDI_SRC"], os.environ["NXD_SRC"]])
    from neuronx_distributed.trace.model_builder import ModelBuilder

    ModelBuilder.trace = lambda self, *arguments, **options: torch.jit.script(Graphs())
    compile_model(Path(job["model_path"]), job["values"], Path(job["folder"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
