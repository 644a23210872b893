"""An answer ends at the end of its turn, also where the checkpoint's files do not name that token."""

from __future__ import annotations

import json
import shutil
from contextlib import aclosing
from pathlib import Path

from mllama_demo.backends import make_backend
from mllama_demo.chat.conversation import Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import FinishEvent, GenerationRequest
from mllama_demo.engine.readiness import until_ready
from mllama_demo.sampling import SamplingParams


async def test_a_checkpoint_that_names_the_end_of_text_alone_still_ends_at_the_end_of_its_turn(tmp_path, embedded):
    folder = Path(shutil.copytree(embedded, tmp_path / "checkpoint"))
    tokenizer = Tokenizer(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.special_id("<|end_of_text|>")}))
    backend, _ = make_backend(Settings(model_path=folder, device="cpu", threads=1))
    question = Message("user", "What is the capital of Italy?")
    request = GenerationRequest(tuple(encode_chat((question,), tokenizer)), SamplingParams(temperature=0.0, max_tokens=60))
    try:
        backend.start()
        await until_ready(backend)
        async with aclosing(backend.generate(request)) as events:
            finish = [event async for event in events][-1]
    finally:
        backend.close()
    assert isinstance(finish, FinishEvent)
    assert (finish.reason, finish.error) == ("end_of_turn", None)
    assert finish.completion_tokens < 60
