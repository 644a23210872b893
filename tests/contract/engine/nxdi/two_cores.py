"""One of two processes that each stand for a NeuronCore, with tensor parallelism over both.

    python -m tests.contract.engine.nxdi.two_cores CHECKPOINT STORE RANK

Both processes run the same requests and compare the answers with Meta's computation. The exit code is not 0 when an answer
differs. Sampling is on the host, because NxDI's sampler on a CPU looks at one core's part of the vocabulary only.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.neuron.runner import NeuronRunner
from tests.contract.engine.nxdi import cpu_device
from tests.contract.engine.nxdi.cases import Case, ask, assert_as_meta, finish, noise, picture, start

CORES = 2


def main(checkpoint: Path, store: Path, rank: int) -> None:
    torch.set_num_threads(1)
    cpu_device.set_up([os.environ["NXDI_SRC"], os.environ["NXD_SRC"]], CORES, rank, store)
    from tests.support.meta_reference import MetaReference  # its image processor takes the torchvision of set_up

    tokenizer, reference = Tokenizer(checkpoint), MetaReference(checkpoint)
    tile, what = reference.eyes["image_size"], "What is in this image?"

    model = cpu_device.make_model(checkpoint)
    cpu_device.load(model)
    check_that_weights_are_divided(model)
    runner = NeuronRunner(model, model.config.image_token_index)
    cases = {
        0: Case(ask(tokenizer, "Hello!"), 12),
        1: Case(ask(tokenizer, what, image=picture(2 * tile, tile, 30)), 12),
        2: Case(noise(tokenizer, 100, 31), 12),
        3: Case(ask(tokenizer, what, image=picture(2 * tile, 2 * tile, 32)), 12),
    }
    for slot, case in cases.items():
        start(runner, slot, case)
    finish(runner, cases)
    for case in cases.values():
        assert_as_meta(reference, case)


def check_that_weights_are_divided(model: object) -> None:
    """Each core holds half of the heads, or the test shows nothing."""
    device = model.traced_model  # type: ignore[attr-defined]
    module = device._instances["token_generation_model"].module
    name, weight = next((n, p) for n, p in module.named_parameters() if n.endswith("q_proj.weight") and "vision" not in n)
    hidden = weight.shape[1]
    assert weight.shape[0] == hidden // CORES, (name, tuple(weight.shape))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
