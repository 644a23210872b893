"""The servers of the OpenAI protocol that this demo knows, and what each of them ignores, lacks or does differently.

Pure facts. A server that silently ignores a value looks as if it obeyed: here it is said, so that the page can say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

NO_SEED = "The Neuron device draws by a chance of its own; no seed repeats it."
NO_TOP_K = "This server speaks the plain OpenAI protocol, which has no top_k."
NO_IGNORE_EOS = "This server speaks the plain OpenAI protocol, which has no ignore_eos."
WRONG_LOGPROBS = "This server sends token ids in the place of probabilities."


@dataclass(frozen=True)
class Provider:
    """capabilities, ignored, max_top_k, tile_size, max_tiles: as in base.BackendInfo. concurrency: requests at the same time
    where the server does not tell its slots. takes_top_k: the protocol has none. greedy_as_top_k: its temperature may not
    be 0. reads_markup: `<|eot_id|>` in what somebody typed would end the turn there."""

    label: str
    capabilities: frozenset[str]
    concurrency: int
    ignored: Mapping[str, str] = field(default_factory=dict)
    takes_top_k: bool = True
    greedy_as_top_k: bool = False
    reads_markup: bool = True
    max_top_k: int | None = None
    tile_size: int = 0
    max_tiles: int = 0


PROVIDERS: dict[str, Provider] = {
    # Seed, penalties and min_p never reach the device, and its logprobs are token ids. It serves one family of models with
    # images, Llama 3.2 Vision, whose tiles are known. The tutorial's server has four slots.
    "vllm_neuron": Provider(
        "vLLM on Neuron",
        frozenset({"images"}),
        concurrency=4,
        ignored={"seed": NO_SEED},
        greedy_as_top_k=True,
        tile_size=560,
        max_tiles=4,
    ),
    "vllm": Provider("vLLM", frozenset({"images", "seed", "logprobs"}), concurrency=16),
    "mllama_demo": Provider("mllama_demo", frozenset({"images", "seed", "logprobs"}), concurrency=4, reads_markup=False),
    "other": Provider(
        "OpenAI protocol",
        frozenset({"images", "seed"}),
        concurrency=8,
        ignored={"top_k": NO_TOP_K, "ignore_eos": NO_IGNORE_EOS},
        takes_top_k=False,
    ),
}
