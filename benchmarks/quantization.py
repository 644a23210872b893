"""How far a quantized model is from its checkpoint: python -m benchmarks quantization [FOLDER]

The unquantized model answers questions about the example images, and some without an image, by the most probable tokens. Then
each quantized model is given these answers, and its probabilities at every token of them are compared with those of the
unquantized model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoImageProcessor

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.torch.loading import Quantization, load_model
from mllama_demo.engine.torch.meta_mllama import restore_meta_computation
from mllama_demo.images.examples import EXAMPLES_FOLDER
from mllama_demo.images.loading import LoadedImage, load_image

QUESTIONS = ("What is in this picture?", "Describe this image.", "How many things are there?", "What is the background?")
TEXTS = ("What is the capital of Italy?", "Tell me a short story about a dog.", "What can you do?", "What is 3 plus 4?")
ANSWER_TOKENS = 24


class Model:
    """A checkpoint that computes the probabilities of given tokens."""

    def __init__(self, folder: Path, quantization: Quantization) -> None:
        self._model = load_model(folder, quantization=quantization)
        restore_meta_computation(self._model)
        self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def logits(self, ids: list[int], image: LoadedImage | None) -> torch.Tensor:
        """[tokens, vocabulary] after each of the ids."""
        inputs = {}
        if image is not None:
            inputs = dict(self._processor(images=[[image.pixels]], return_tensors="pt"))
            inputs.pop("num_tiles", None)
            sees = torch.arange(len(ids)) >= ids.index(self._model.config.image_token_index)
            inputs["cross_attention_mask"] = sees[None, :, None, None] * inputs["aspect_ratio_mask"][:, None]
        return self._model(input_ids=torch.tensor([ids]), use_cache=False, **inputs).logits[0]

    def answer(self, prompt: list[int], image: LoadedImage | None) -> list[int]:
        """The most probable tokens."""
        ids = list(prompt)
        for _ in range(ANSWER_TOKENS):
            ids.append(int(self.logits(ids, image)[-1].argmax()))
        return ids[len(prompt) :]


def divergence(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The mean Kullback-Leibler divergence of logits [tokens, vocabulary] in nats."""
    return functional.kl_div(found.log_softmax(-1), expected.log_softmax(-1), reduction="batchmean", log_target=True).item()


def prompts(folder: Path, images: int = 100) -> list[tuple[list[int], LoadedImage | None]]:
    """Questions about the first `images` example images, and those without an image."""
    tokenizer = Tokenizer(folder)
    found: list[tuple[list[int], LoadedImage | None]] = []
    for file in sorted(EXAMPLES_FOLDER.glob("*.png"))[:images]:
        image = load_image(file.read_bytes(), file.name)
        found += [(encode_chat((Message("user", text, ImageRef.of(image)),), tokenizer), image) for text in QUESTIONS]
    return found + [(encode_chat((Message("user", text),), tokenizer), None) for text in TEXTS]


def main() -> None:
    parser = argparse.ArgumentParser(description="How far a quantized model is from its checkpoint.")
    parser.add_argument("folder", type=Path, nargs="?", default=EMBEDDED_CHECKPOINT)
    folder = parser.parse_args().folder
    original = Model(folder, "none")
    cases = [(prompt, original.answer(prompt, image), image) for prompt, image in prompts(folder)]
    expected = [original.logits(prompt + answer, image)[len(prompt) - 1 : -1] for prompt, answer, image in cases]
    for quantization in ("int8", "int4"):
        model = Model(folder, quantization)
        found = [model.logits(prompt + answer, image)[len(prompt) - 1 : -1] for prompt, answer, image in cases]
        same = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in zip(found, expected, strict=True)])
        print(
            f"{quantization}: divergence {divergence(torch.cat(found), torch.cat(expected)):.5f} nats, "
            f"the same most probable token at {same.float().mean():.1%} of {len(same)} tokens"
        )
