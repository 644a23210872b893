"""The simulated runner reads a prompt in as many pieces as the PyTorch runner, between which the scheduler decodes."""

from __future__ import annotations

import pytest

from benchmarks.device_profile import Engine
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import ModelRunner
from mllama_demo.engine.simulated.profile import DeviceProfile
from mllama_demo.engine.simulated.runner import SimulatedRunner
from mllama_demo.engine.torch.prompt_pieces import PIECE_TOKENS


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(slots=2)


def pieces(runner: ModelRunner, request: GenerationRequest) -> int:
    runner.begin(0, request)
    count = 1
    while runner.read_piece(0) is None:
        count += 1
    runner.release(0)
    return count


@pytest.mark.parametrize("has_image", [False, True])
@pytest.mark.parametrize("tokens", [1, 32, 33, 100])
def test_a_prompt_has_as_many_pieces(engine: Engine, tokens: int, has_image: bool) -> None:
    device = DeviceProfile("a device", "a test", True, {1: 0.0}, {1: 0.01}, piece_tokens=PIECE_TOKENS)
    simulated = SimulatedRunner(device, slots=2, max_seq_len=engine.max_seq_len, take_time=lambda seconds: None)
    request = engine.request(tokens, has_image)
    assert pieces(simulated, request) == pieces(engine.runner, request)
