"""What visitors read of a remote server's refusal: its words, unless they tell internals."""

from __future__ import annotations

import pytest

from mllama_demo.engine.remote.errors import to_demo_error
from mllama_demo.errors import cause_of


class Refusal(Exception):
    """An exception of the openai client, as far as it is read."""

    status_code = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.body = {"error": {"message": message}}


@pytest.mark.parametrize(
    "message",
    [
        r"cannot open C:\Users\anna\models\llama.gguf",
        r"cannot open \\nas\models",
        "cannot open ~/.ollama/models/blobs",
        "cannot open ~anna/models",
        "cannot open /.cache/llama",
        "cannot open /srv/models/llama.gguf",
        "no route to fe80::1ff:fe23:4567:890a",
        "no route to fe80::1%eth0",
        "cannot bind [::1]",
        "no route to 2001:0db8:0000:0000:0000:ff00:0042:8329",
        "no route to 10.0.0.7",
        "gpu1.corp.example does not answer",
        "gpu1.local does not answer",
        "GPU1.Internal does not answer",
        "ip-10-0-0-7.ec2.internal is gone",
        "localhost is gone",
        "gpu1:8000 is gone",
        "see https://gpu1/docs",
        "torch.OutOfMemoryError in step 3",
    ],
)
def test_internals_are_not_quoted_to_visitors(message: str) -> None:
    error = to_demo_error(Refusal(message), "http://gpu1:8000/v1")
    assert str(error) == "The server that runs the model refused this request."
    assert message in cause_of(error)


@pytest.mark.parametrize(
    "message",
    [
        "top_k must be at least 1.",
        "model e.g. llama3.2",
        "The model llama3.2-vision:latest is not pulled, i.e. it is not here",
        "Use a model such as meta-llama/Llama-3.2-11B-Vision-Instruct.",
        "temperature must be between 0.0 and 2.0, got 3.5",
        "Field messages.0.content is required",
        "Send png/jpeg and/or text; the ratio 16:9 is fine",
        "the file picture.png is broken. Please send another one",
        "use std::vector",
    ],
)
def test_harmless_words_are_quoted_to_visitors(message: str) -> None:
    assert message.rstrip(".") in str(to_demo_error(Refusal(message), "http://gpu1:8000/v1"))


def test_the_cause_does_not_repeat_the_conversation() -> None:
    asked = "The password of the garden gate is xylophone."
    message = f"cannot read messages[0].content: {asked[:30]}... at position 7"
    error = to_demo_error(Refusal(message), "http://gpu1:8000/v1", asked=["Hello", asked])
    assert cause_of(error).endswith("(400: cannot read messages[0].content: …... at position 7)")
    assert "garden" not in cause_of(error)
