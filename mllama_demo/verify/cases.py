"""The requests of a verification. They depend on the configuration and the checkpoint only, so that every machine makes the same.

Each request is greedy and records its candidates. The engine is led along the tokens of the reference, so that both compute every
step from the same tokens, whatever the engine would have chosen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.base import BackendInfo, GenerationRequest
from mllama_demo.engine.neuron.images import on_full_canvas
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams

STEPS = 4  # tokens that are compared after a prompt
SAMPLED_STEPS = 16  # of the story, whose candidates the drawn tokens are compared with
STORY = "a story"  # many tokens are likely in it
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)
_QUESTION = "What is in this image?"
_TEXTS = {"a short question": ("What is the capital of Italy famous for?", STEPS), STORY: ("Tell me a story.", SAMPLED_STEPS)}
_PASSAGE = (
    "A ship leaves the harbour in the morning. The sea is calm, and three white birds follow the ship. In the afternoon the wind "
    "turns. The captain reads the map, counts the hours, and decides to wait for the night. "
)
_COLOURS = (
    (200, 30, 40),
    (30, 80, 200),
    (240, 200, 40),
    (40, 150, 60),
    (130, 60, 170),
    (240, 130, 30),
    (90, 90, 90),
    (230, 120, 180),
)


@dataclass(frozen=True)
class Case:
    """A prompt, and how many tokens of its answer are compared.

    Attributes:
        group: "text", "aspect ratio", "bucket" or "empty tiles".
        key: Names the case in a recorded reference. Cases with the same key have the same prompt, image and steps.
    """

    group: str
    name: str
    request: GenerationRequest
    steps: int
    key: str


def make_cases(
    tokenizer: Tokenizer,
    info: BackendInfo,
    context_buckets: Sequence[int],
    token_buckets: Sequence[int],
) -> list[Case]:
    """All cases: two texts, an image of every aspect ratio, and prompts that end just below the length of each bucket.

    Args:
        info: Of the engine. With full_canvas, the images are drawn on the canvas that the engine places them on.
        context_buckets, token_buckets: Lengths that the engine was compiled for, ascending.
    """
    cases = [_case("text", name, _chat(tokenizer, text), steps) for name, (text, steps) in _TEXTS.items()]
    if "images" in info.capabilities and info.tile_size:
        for rows, columns in layouts(info.max_tiles):
            image = picture(rows, columns, info, full_canvas=info.full_canvas)
            cases.append(_case("aspect ratio", f"{rows} × {columns} tiles", _chat(tokenizer, _QUESTION, image), STEPS))
        if info.full_canvas:
            image = picture(1, 1, info, full_canvas=False)
            cases.append(_case("empty tiles", "1 × 1 tile, the others empty", _chat(tokenizer, _QUESTION, image), STEPS))
    for length in prompt_lengths(context_buckets, token_buckets, info.context_length):
        cases.append(_case("bucket", f"a prompt of {length} tokens", passage(tokenizer, length), STEPS))
    return cases


def layouts(max_tiles: int) -> list[tuple[int, int]]:
    """Rows and columns of every arrangement of at most max_tiles tiles."""
    return [(rows, columns) for rows in range(1, max_tiles + 1) for columns in range(1, max_tiles // rows + 1)]


def prompt_lengths(context_buckets: Sequence[int], token_buckets: Sequence[int], context: int) -> list[int]:
    """Lengths of prompts that fill each bucket, and whose answers cross from one bucket of decode steps into the next."""
    longest = min(context_buckets[-1], context - STEPS)
    wanted = {bucket - 2 for bucket in (*context_buckets, *token_buckets)} | {longest}
    return sorted(length for length in wanted if 3 <= length <= longest)


def picture(rows: int, columns: int, info: BackendInfo, *, full_canvas: bool) -> LoadedImage:
    """Coloured rectangles on rows × columns tiles. Every arrangement has other colours."""
    size = info.tile_size
    width, height, number = columns * size, rows * size, rows * 7 + columns
    image = Image.new("RGB", (width, height), _COLOURS[number % len(_COLOURS)])
    for part in range(3):
        colour = _COLOURS[(number + 1 + 2 * part) % len(_COLOURS)]
        x, y = width * (1 + 2 * part) // 8, height * (1 + part * rows) // (3 + 2 * rows)
        image.paste(colour, (x, y, x + width // 4, y + height // 4))
    if full_canvas:
        image = on_full_canvas(image, size, info.max_tiles)
    name = f"{rows} × {columns}{' on the full canvas' if full_canvas else ''}"
    return LoadedImage(image, b"", "PNG", hashlib.sha256(f"{name}, {size}".encode()).hexdigest(), name)


def _chat(tokenizer: Tokenizer, text: str, image: LoadedImage | None = None) -> GenerationRequest:
    message = Message("user", text, None if image is None else ImageRef.of(image))
    return GenerationRequest(tuple(encode_chat((message,), tokenizer)), GREEDY, image, trace=True)


def passage(tokenizer: Tokenizer, length: int, start: int = 0) -> GenerationRequest:
    """A text request of exactly `length` tokens, which begins at a token of the passage."""
    ids = [tokenizer.special_id("<|begin_of_text|>")]
    words = tokenizer.encode(_PASSAGE)
    words = words[start % len(words) :] + words[: start % len(words)]
    while len(ids) < length:
        ids += words
    return GenerationRequest(tuple(ids[:length]), GREEDY, trace=True)


def _case(group: str, name: str, request: GenerationRequest, steps: int) -> Case:
    image = "" if request.image is None else request.image.digest
    content = json.dumps([request.prompt_ids, image, steps])
    return Case(group, name, request, steps, hashlib.sha256(content.encode()).hexdigest()[:16])


def of_group(cases: Sequence[Case], *groups: str) -> Iterator[Case]:
    """The cases of these groups, in order."""
    return (case for case in cases if case.group in groups)
