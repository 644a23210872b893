"""The demo with a model that takes its time, as a large one on a busy machine does. Options as for app.py.

A test of Stop or of the queue needs an answer that is still being written many clicks later, however slow those are: the
embedded model alone would have filled its context within seconds.

While a file named `dictated` lies in the working folder, the model writes the text of the file as the answer to every new
question. A file named `pause` makes a dictated answer wait after its text until the file is gone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import app
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.runner import Sampled
from mllama_demo.engine.torch.runner import TorchRunner

SECONDS_PER_STEP = 0.1  # a full context lasts over three minutes
TIME_LIMIT_S = 600
DICTATED, PAUSE = Path("dictated"), Path("pause")

decode, read_piece = TorchRunner.decode, TorchRunner.read_piece
left: dict[int, list[int]] = {}  # the tokens that each slot has still to write


def read_as_dictated(self: TorchRunner, slot: int) -> Sampled | None:
    sampled = read_piece(self, slot)
    left.pop(slot, None)
    if sampled is not None and DICTATED.exists():
        tokenizer = Tokenizer(EMBEDDED_CHECKPOINT)
        left[slot] = [*tokenizer.encode(DICTATED.read_text(encoding="utf-8")), tokenizer.special_id("<|eot_id|>")]
        return next_token(slot, sampled)
    return sampled


def next_token(slot: int, sampled: Sampled) -> Sampled:
    if not left.get(slot):
        return sampled
    while len(left[slot]) == 1 and PAUSE.exists():
        time.sleep(0.02)
    return replace(sampled, token_id=left[slot].pop(0))


def decode_slowly(self: TorchRunner, slots: Sequence[int]) -> list[Sampled]:
    if not any(left.get(slot) for slot in slots):
        time.sleep(SECONDS_PER_STEP)
    return [next_token(slot, sampled) for slot, sampled in zip(slots, decode(self, slots), strict=True)]


# The process of the model imports this module, as every process that Python starts anew imports the main one.
TorchRunner.decode, TorchRunner.read_piece = decode_slowly, read_as_dictated

if __name__ == "__main__":
    sys.exit(app.main(["--request-time-limit-s", str(TIME_LIMIT_S), *sys.argv[1:]]))
