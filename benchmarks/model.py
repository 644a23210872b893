"""The model alone: decode steps by slots, vocabulary and context, prompts by length, images by tiles, and memory.

    python -m benchmarks model [--checkpoint DIR …] [--slots 1 4 16] [--dtype bfloat16] [--steps 20] [--json FILE]

Measures the embedded checkpoint, and a random one of 70 million parameters with Llama's vocabulary, which it makes first. Times
are medians in milliseconds, with the smallest beside them. The floor of a decode step is the time to read its weights once, at
the speed at which this process reads memory.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import write
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.runtime.cpu import limit_spinning

ROOT = Path(__file__).resolve().parent.parent
CONTEXTS = (64, 1000, 1900)
PROMPTS = (16, 64, 256, 1024)
TILES = (1, 2, 4)
READ_BYTES = 2**29
FIRST_TOKENS = itertools.count(2)  # each prompt begins with another token, so that no cache has it


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, nargs="+", help="folders of checkpoints, instead of the two")
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--dtype", default="float32", help="as the option dtype of the demo")
    parser.add_argument("--steps", type=int, default=20, help="decode steps of each kind")
    parser.add_argument("--threads", type=int, default=0, help="0 measures, as the demo does")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    limit_spinning(quantized=False)  # before PyTorch is imported
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for folder in args.checkpoint or [EMBEDDED_CHECKPOINT, random_checkpoint(Path(scratch))]:
            for slots in args.slots:
                for figure in measure(folder, slots, args.dtype, args.steps, args.threads):
                    figures.append(figure)
                    show(figure)
    write(args.json, figures)


def random_checkpoint(scratch: Path) -> Path:
    """Makes the random checkpoint of 70 million parameters."""
    folder = scratch / "random-70m"
    subprocess.run(
        [sys.executable, ROOT / "scripts/make_random_checkpoint.py", "--shape", "70m", folder],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder


def show(figure: dict[str, Any]) -> None:
    floor = f"   floor {figure['floor_ms']:.2f}" if "floor_ms" in figure else ""
    where = f"{figure['checkpoint']}, {figure['slots']} slots"
    print(f"{where:30} {figure['what']:44} {figure['median_ms']:9.2f}   ({figure['least_ms']:.2f}){floor}", flush=True)


def measure(folder: Path, slots: int, dtype: str, steps: int, threads: int) -> Iterator[dict[str, Any]]:
    """Measures one checkpoint with one number of slots."""
    import torch

    from mllama_demo.engine.torch.runner import TorchRunner

    if threads:
        torch.set_num_threads(threads)
    before = resident_bytes()
    began = time.perf_counter()
    runner = TorchRunner.load(folder, slots=slots, max_seq_len=2048, dtype=getattr(torch, dtype), vision_cache_size=0)
    loaded_s = time.perf_counter() - began
    if not threads:
        runner.choose_threads()
    common = {"checkpoint": folder.name, "slots": slots, "dtype": dtype, "threads": torch.get_num_threads()}
    text, masks = runner._text, runner._tile_masks
    text_config: Any = runner._model.config.text_config  # transformers also declares it as a dict
    vocabulary = text_config.vocab_size
    floor = 1000 * text.step_bytes / read_bandwidth()
    with torch.inference_mode():
        for context in CONTEXTS:

            def step(context: int = context) -> None:
                text.logits(text.step(range(slots), [0] * slots, [context] * slots, [False] * slots, masks))

            what = f"decode step, vocabulary {vocabulary}, at {context} tokens"
            yield {**common, "what": what, **times(step, steps), "floor_ms": floor}
        if slots == 1:
            for length in PROMPTS:
                yield {**common, "what": f"prompt of {length} tokens", **times(lambda length=length: read(runner, length), 5)}
            for tiles in TILES:
                image = picture(runner, tiles)
                yield {**common, "what": f"image of {tiles} tiles", **times(lambda image=image: runner.vision_features(image), 3)}
    yield {**common, "what": "loading", "median_ms": 1000 * loaded_s, "least_ms": 1000 * loaded_s}
    memory = (resident_bytes() - before) / 1e6
    print(f"{'':30} resident memory more than before: {memory:.0f} MB; weights read in a step: {text.step_bytes / 1e6:.1f} MB")


def read(runner: Any, length: int) -> None:
    from mllama_demo.engine.base import GenerationRequest
    from mllama_demo.engine.runner import prefill
    from mllama_demo.sampling import SamplingParams

    ids = (next(FIRST_TOKENS), *range(100, 99 + length))
    prefill(runner, 0, GenerationRequest(ids, SamplingParams(temperature=0.0)))
    runner.release(0)


def picture(runner: Any, tiles: int) -> Any:
    """An image that takes `tiles` tiles."""
    from PIL import Image

    from mllama_demo.images.loading import LoadedImage

    side = runner._model.config.vision_config.image_size
    size = {1: (side, side), 2: (2 * side, side), 4: (2 * side, 2 * side)}[tiles]
    return LoadedImage(Image.new("RGB", size, "orange"), b"", "PNG", f"{tiles} tiles", f"{tiles}")


def times(run: Callable[[], object], count: int) -> dict[str, float]:
    """Returns the median and the least time of `count` runs, in milliseconds, after one run that is not measured."""
    run()
    found = []
    for _ in range(count):
        began = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - began))
    return {"median_ms": statistics.median(found), "least_ms": min(found)}


def read_bandwidth() -> float:
    """Returns bytes per second of a sum over memory, with PyTorch's threads."""
    import torch

    values = torch.ones(READ_BYTES // 4)
    return READ_BYTES / (times(values.sum, 5)["least_ms"] / 1000)


def resident_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
