"""How fast the embedded checkpoint answers in plain transformers, with nothing of the demo around it but Meta's computation.

    python -m benchmarks embedded [--runs 9] [--threads 2] [--model-path FOLDER]

Prefill: from the start of prefill to the first token of an image question, image processing included. Decode: tokens per
second after that, batch 1, transformers' own generate(). Medians over runs, with the smallest and largest beside them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.first_light import show
from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import load_image

QUESTION = "What is in this image? Tell me a story"
TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model-path", type=Path, default=EMBEDDED_CHECKPOINT)
    args = parser.parse_args()

    import torch
    from transformers import AutoImageProcessor, MllamaForConditionalGeneration

    from mllama_demo.engine.torch.meta_mllama import restore_meta_computation

    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    model = MllamaForConditionalGeneration.from_pretrained(args.model_path, dtype=torch.float32).eval()
    restore_meta_computation(model)
    processor = AutoImageProcessor.from_pretrained(args.model_path)
    tokenizer = Tokenizer(args.model_path)
    loading = time.perf_counter() - began
    image = load_image((EXAMPLES_FOLDER / "dog.png").read_bytes(), "dog.png")
    message = Message("user", QUESTION, ImageRef(image.digest, image.name, image.width, image.height))
    ids = torch.tensor([encode_chat((message,), tokenizer)])
    tiles = model.model.vision_model.max_num_tiles

    def generate(tokens: int) -> float:
        started = time.perf_counter()
        inputs = processor(images=[[image.pixels]], return_tensors="pt")
        inputs.pop("num_tiles")
        sees = (torch.arange(ids.shape[1]) >= ids[0].tolist().index(model.config.image_token_index)).long()
        with torch.inference_mode():
            model.generate(  # type: ignore[attr-defined]  # transformers' protocol declares attributes that no model has
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                cross_attention_mask=sees[None, :, None, None] * inputs["aspect_ratio_mask"][:, None, :, :tiles],
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                **inputs,
            )
        return time.perf_counter() - started

    generate(TOKENS)
    first, rest = [], []
    for _ in range(args.runs):
        prefill = generate(1)
        first.append(1000 * prefill)
        rest.append((TOKENS - 1) / (generate(TOKENS) - prefill))
    figures: dict[str, list[float]] = {}
    show(figures, "load (s)", [loading])
    show(figures, f"prefill with an image to the first token (ms), {args.threads} threads", first)
    show(figures, f"tokens per second, batch 1, {args.threads} threads", rest)
