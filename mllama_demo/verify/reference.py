"""What the engine's results are compared with: answers of PyTorch on the CPU, computed here or recorded on another machine.

The reference reads one request at a time. It also computes what two known faults of NxD Inference would give, so that a result
can be told to be that of a fault.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mllama_demo.checkpoint.compilation.fingerprint import weights_digest
from mllama_demo.checkpoint.torch_memory import torch_memory
from mllama_demo.checkpoint.torch_plan import free_memory, torch_options
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.model_shape import read_shape
from mllama_demo.config.settings import Settings
from mllama_demo.engine.runner import Sampled, prefill
from mllama_demo.engine.token_sampler import TokenTrace
from mllama_demo.engine.torch.image_processor import load_image_processor
from mllama_demo.engine.torch.linear import has_half_kernels
from mllama_demo.engine.torch.loading import load_model
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.errors import ConfigError
from mllama_demo.runtime.words import parameter_count
from mllama_demo.verify.cases import Case, of_group

FORMAT = 1
FROZEN_IDS = "frozen ids"  # the ids of the aspect ratio are those of an image of one tile, whatever the image is
ALL_TILES = "all tiles"  # decode steps attend to the empty tiles of the image, too
GB = 10**9


@dataclass(frozen=True)
class Step:
    """The candidates of one step.

    Attributes:
        token_ids: The likeliest tokens, descending.
        logits: [tokens] of token_ids.
        log_mass: Logarithm of the sum of exp(logit) over the vocabulary.
    """

    token_ids: tuple[int, ...]
    logits: tuple[float, ...]
    log_mass: float

    @classmethod
    def of(cls, trace: TokenTrace) -> Step:
        return cls(trace.token_ids, trace.logits, trace.log_mass)


@dataclass(frozen=True)
class Expected:
    """The greedy answer of one case: a token and its candidates for each step."""

    tokens: tuple[int, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Reference:
    """The answers of a checkpoint.

    Attributes:
        weights: The digest of the checkpoint's weights.
        computed: How the answers were computed, for people.
        answers: By the key of the case, or the key, a slash and the name of a fault.
    """

    weights: str
    computed: str
    answers: Mapping[str, Expected]

    def of(self, case: Case, fault: str = "") -> Expected:
        return self.answers[_name(case, fault)]

    def has(self, case: Case, fault: str = "") -> bool:
        return _name(case, fault) in self.answers

    def save(self, file: Path) -> None:
        """Raises OSError."""
        content = {"format": FORMAT, "weights": self.weights, "computed": self.computed}
        content["answers"] = {name: asdict(answer) for name, answer in self.answers.items()}
        file.write_text(json.dumps(content) + "\n", encoding="utf-8")


def load_reference(file: Path, weights: str, cases: Sequence[Case]) -> Reference:
    """Reads a recorded reference. Raises ConfigError if it is none, or one of another checkpoint or of other cases."""
    try:
        content = json.loads(file.read_bytes())
        answers = {
            name: Expected(
                tuple(answer["tokens"]),
                tuple(Step(tuple(s["token_ids"]), tuple(s["logits"]), float(s["log_mass"])) for s in answer["steps"]),
            )
            for name, answer in content["answers"].items()
        }
        reference = Reference(str(content["weights"]), str(content["computed"]), answers)
    except OSError as error:
        raise ConfigError(f"The reference {file} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{file} is no reference; verify --record writes one.") from None
    if reference.weights != weights:
        raise ConfigError(f"The reference {file} is of a checkpoint with other weights; record it with this one.")
    missing = [case for case in cases if not reference.has(case)]
    if missing:
        raise ConfigError(
            f"The reference {file} lacks {missing[0].group}, {missing[0].name}; record it with the options of this configuration."
        )
    return reference


def compute_reference(
    settings: Settings, checkpoint: CheckpointInfo, cases: Sequence[Case], report: Callable[[str], None]
) -> Reference:
    """Loads the checkpoint with PyTorch on the CPU and answers the cases. Frees the model again.

    Raises:
        ConfigError: The memory of this machine is too small for the checkpoint, or the weights are not here.
    """
    if checkpoint.identity is not None:
        raise ConfigError(
            f"The weights of {checkpoint.name} are not on this machine, and the CPU reference needs them; record it on a machine "
            "that has them with --record FILE and give it here with --reference FILE, or compare the engine with itself only "
            "(--reference none)."
        )
    dtype = _choose_dtype(settings, checkpoint)
    report(f"loading the reference: {parameter_count(checkpoint.parameters)} in {dtype} on the CPU")
    processor = _Processor.load(checkpoint.path)
    model = load_model(checkpoint.path, dtype=getattr(torch, dtype))
    longest = max(len(case.request.prompt_ids) + case.steps for case in cases)
    runner = _ReferenceRunner(
        model,
        processor,
        checkpoint.image_token_id,
        slots=1,
        max_seq_len=longest + 1,
        vision_cache_size=0,
        prefix_cache_mb=0,
        compute_dtype=torch.float32 if has_half_kernels() else model.dtype,
    )
    answers: dict[str, Expected] = {}
    for number, case in enumerate(cases, 1):
        report(f"reference {number} of {len(cases)}: {case.group}, {case.name}")
        answers[_name(case)] = right = runner.answer(case)
        if case.group == "aspect ratio":
            processor.frozen_ids = True
            answers[_name(case, FROZEN_IDS)] = runner.answer(case, right.tokens)
            processor.frozen_ids = False
    for case in of_group(cases, "empty tiles"):
        answers[_name(case, ALL_TILES)] = runner.answer(case, answers[_name(case)].tokens, all_tiles=True)
    del runner, model
    gc.collect()
    how = f"PyTorch {torch.__version__.partition('+')[0]} on the CPU, weights in {dtype}, arithmetic in {_arithmetic(dtype)}"
    return Reference(weights_digest(checkpoint), how, answers)


class _ReferenceRunner(TorchRunner):
    """Answers cases in slot 0."""

    def answer(self, case: Case, tokens: Sequence[int] | None = None, *, all_tiles: bool = False) -> Expected:
        """Answers greedily, or along given tokens. all_tiles: decode steps attend to the empty tiles, too."""
        made: list[Sampled] = [prefill(self, 0, case.request)]
        try:
            if all_tiles:
                self._tile_masks[0] = True
            while True:
                if tokens is not None:
                    self.replace_last_token(0, tokens[len(made) - 1])
                if len(made) == case.steps:
                    break
                made += self.decode([0])
        finally:
            self.release(0)
        steps = tuple(Step.of(sampled.trace) for sampled in made if sampled.trace is not None)
        return Expected(tuple(sampled.token_id for sampled in made), steps)


class _Processor:
    """The checkpoint's image processor. frozen_ids: it gives the id of one tile for every image."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.frozen_ids = False

    @classmethod
    def load(cls, path: Path) -> _Processor:
        return cls(load_image_processor(path))

    def __call__(self, **arguments: Any) -> Any:
        inputs = self._processor(**arguments)
        if self.frozen_ids:
            inputs["aspect_ratio_ids"] = torch.ones_like(inputs["aspect_ratio_ids"])
        return inputs


def _choose_dtype(settings: Settings, checkpoint: CheckpointInfo) -> str:
    """float32 where the memory allows it, else the type of the checkpoint."""
    shape = read_shape(checkpoint.path / "config.json")
    one_slot = settings.model_copy(update={"quantization": "none", "batch_size": 1, "vision_cache_size": 0, "prefix_cache_mb": 0})
    free = free_memory("cpu")
    # A CPU with kernels for 16-bit weights computes in float32 with them; without, its results would be no reference.
    stored = [checkpoint.dtype] if has_half_kernels() and checkpoint.dtype in ("bfloat16", "float16") else []
    needed = 0
    for dtype in ("float32", *stored):
        options = torch_options(one_slot.model_copy(update={"dtype": dtype}), checkpoint.dtype, "cpu")
        needed = torch_memory(shape, options).needed
        if free is None or needed <= free:
            return dtype
    raise ConfigError(
        f"The CPU reference of this checkpoint needs {needed / GB:.0f} GB of memory, but {(free or 0) / GB:.0f} GB are free; "
        "record it on a larger machine with --record FILE and give it here with --reference FILE, or compare the engine with "
        "itself only (--reference none)."
    )


def _arithmetic(dtype: str) -> str:
    return "float32" if dtype == "float32" or has_half_kernels() else dtype


def _name(case: Case, fault: str = "") -> str:
    return f"{case.key}/{fault}" if fault else case.key
