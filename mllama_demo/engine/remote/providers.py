"""The programs that serve the OpenAI protocol, and what each of them ignores, lacks or does differently.

The module holds facts only. A server may ignore a parameter silently, so the page must tell the user which ones have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SEED_UNSUPPORTED = "The Neuron device draws its own random numbers, so a seed has no effect."
TOP_K_UNSUPPORTED = "This server speaks the plain OpenAI protocol, which has no top_k."
IGNORE_EOS_UNSUPPORTED = "This server speaks the plain OpenAI protocol, which has no ignore_eos."
LOGPROBS_ARE_TOKEN_IDS = "This server sends token ids in the place of probabilities."
LOGPROBS_ARE_MISSING = "This server sends no probabilities, although they were requested."
SEED_IS_REFUSED = "This server refuses requests with a seed."
LOGPROBS_ARE_REFUSED = "This server refuses requests for probabilities."
OLLAMA_TOP_K = "Ollama's OpenAI endpoint has no top_k; the model's own value applies."
OLLAMA_IGNORE_EOS = "Ollama's OpenAI endpoint has no ignore_eos."
LM_STUDIO_IGNORE_EOS = "LM Studio's OpenAI endpoint has no ignore_eos."


@dataclass(frozen=True)
class Provider:
    """A program that serves the OpenAI protocol. Fields that are not listed here are those of base.BackendInfo.

    Attributes:
        label: Name of the program for the user.
        concurrency: Requests sent at the same time when the server does not tell its number of slots.
        takes_top_k: Whether the server reads top_k, which the OpenAI protocol does not have.
        greedy_as_top_k: Whether greedy decoding is requested as top_k 1, because the server divides by the temperature.
        parses_special_tokens: Whether the server reads `<|eot_id|>` in a user's text as a token, which would end the turn.
        sends_top_k_of_zero: Whether "all tokens" is sent as top_k 0, because the server takes another default without top_k.
        extra: Parameters of every request. They switch off what the server applies by default and the page does not show.
        max_top_k: Most candidates that the server chooses among; a larger top_k, and 0, have this effect. None: no limit.
        get_model: What the operator does when the server lacks the model; `{model}` is its name. "": unknown.
    """

    label: str
    capabilities: frozenset[str]
    concurrency: int
    ignored: Mapping[str, str] = field(default_factory=dict)
    takes_top_k: bool = True
    greedy_as_top_k: bool = False
    parses_special_tokens: bool = True
    max_top_k: int | None = None
    tile_size: int = 0
    max_tiles: int = 0
    full_canvas: bool = False
    sends_top_k_of_zero: bool = False
    extra: Mapping[str, float] = field(default_factory=dict)
    get_model: str = ""


PROVIDERS: dict[str, Provider] = {
    # vLLM's Neuron fork (0.6 to 0.9) does not send seed, penalties and min_p to the device, and returns token ids as logprobs.
    # Its only family of models with images is Llama 3.2 Vision, so the tiles are known. The server of AWS's tutorial has 4 slots.
    "vllm_neuron": Provider(
        "vLLM on Neuron",
        frozenset({"images"}),
        concurrency=4,
        ignored={"seed": SEED_UNSUPPORTED},
        greedy_as_top_k=True,
        tile_size=560,
        max_tiles=4,
        full_canvas=True,  # by the plugin of `vllm-command`, see engine/vllm/corrections.py
    ),
    "vllm": Provider("vLLM", frozenset({"images", "seed", "logprobs"}), concurrency=16),
    "mllama_demo": Provider("mllama_demo", frozenset({"images", "seed", "logprobs"}), concurrency=4, parses_special_tokens=False),
    # Ollama's /v1 (0.12 to 0.32) reads temperature, top_p, seed, stop, penalties and max_tokens, and drops every other parameter
    # silently. Logprobs are read since 0.12.11. OLLAMA_NUM_PARALLEL is 1 by default.
    "ollama": Provider(
        "Ollama",
        frozenset({"images", "seed", "logprobs"}),
        concurrency=1,
        ignored={"top_k": OLLAMA_TOP_K, "ignore_eos": OLLAMA_IGNORE_EOS},
        takes_top_k=False,
        get_model="run `ollama pull {model}`",
    ),
    # LM Studio's list of parameters has top_k and repeat_penalty, and neither logprobs nor min_p.
    "lm_studio": Provider(
        "LM Studio",
        frozenset({"images", "seed"}),
        concurrency=1,
        ignored={"ignore_eos": LM_STUDIO_IGNORE_EOS},
        extra={"repeat_penalty": 1.0},
        get_model="download it in LM Studio",
    ),
    # llama-server samples with top_k 40 and min_p 0.05 when a request does not name them.
    "llama_server": Provider(
        "llama-server",
        frozenset({"images", "seed", "logprobs"}),
        concurrency=1,
        sends_top_k_of_zero=True,
        extra={"min_p": 0.0, "repeat_penalty": 1.0},
        get_model="start llama-server with it",
    ),
    # A server that refuses logprobs, or sends none, is asked without them from then on.
    "other": Provider(
        "OpenAI protocol",
        frozenset({"images", "seed", "logprobs"}),
        concurrency=8,
        ignored={"top_k": TOP_K_UNSUPPORTED, "ignore_eos": IGNORE_EOS_UNSUPPORTED},
        takes_top_k=False,
    ),
}
