"""What `ray-deploy` says of replicas that do not start."""

from __future__ import annotations

import pytest

from mllama_demo.engine.ray.command import sentence_of

FAILED = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
ray::ServeReplica:mllama-demo:engine.initialize_and_get_metadata() (pid=1, ip=10.0.0.1, repr=<ServeReplica object at 0x1>)
  File "_base.py", line 456, in result
RuntimeError: Traceback (most recent call last):
  File "validate.py", line 303, in _read_header
    raise CheckpointError("…")
mllama_demo.errors.CheckpointError: model.safetensors has a header that cannot be read; download it again.
"""


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("", ""),
        ("Deployment 'engine' has 1 replicas that have\ntaken more than 30s to start.",
         "Deployment 'engine' has 1 replicas that have taken more than 30s to start."),
        (FAILED, "model.safetensors has a header that cannot be read; download it again."),
        ("Error:\nTraceback (most recent call last):\n  File\nRuntimeError: no device (NRT_INIT)", "no device (NRT_INIT)"),
    ],
    ids=["nothing", "a warning", "an exception", "an exception that ends with a parenthesis"],
)  # fmt: skip
def test_a_message_of_ray_is_a_sentence(message: str, sentence: str) -> None:
    assert sentence_of(message) == sentence
