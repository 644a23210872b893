"""What the installed vLLM is, and the forms in which its legacy Neuron fork takes a request. Imports vLLM only to make these.

The fork had three generations that serve Llama 3.2 Vision through NxDI (github.com/aws-neuron/upstreaming-to-vllm): v0.6.x,
v0.7.2 and one based on v0.9. Their version numbers say little, as they are made from git's tags; their files tell them apart.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.vllm.arguments import engine_arguments, engine_environment
from mllama_demo.errors import ConfigError
from mllama_demo.sampling import SamplingParams

_HOW = (
    "install the fork of vLLM for Neuron (github.com/aws-neuron/upstreaming-to-vllm, v0.6.x to 0.9) in the environment of the "
    "AWS Neuron SDK, or choose backend neuron, which needs no vLLM."
)
NO_VLLM = f"The vLLM backend needs vLLM, which is not installed here: {_HOW}"
OTHER_VLLM = f"The vLLM that is installed here cannot run Llama 3.2 Vision on Neuron: {_HOW}"
HOST_SAMPLING = (
    "on_device_sampling_config is none, but vLLM samples this model on the device only; leave the option out, or choose backend "
    "neuron."
)


@dataclass(frozen=True)
class Fork:
    """The installed fork. empty_image: whether a prompt without an image must carry an empty one.

    v0.6.x and v0.7.2 line up what came with the images of a batch by its rows, so that one without would shift the others;
    since v0.9 the engine remembers for each slot whether it has an image, and a prompt without one leaves it out.
    """

    empty_image: bool


def installed_fork() -> Fork:
    """Looks at the files of the installed vLLM, without importing it. Raises ConfigError where it is not there or another."""
    found = importlib.util.find_spec("vllm")
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
    if not folders:
        raise ConfigError(NO_VLLM)
    if not any((folder / "worker" / "neuronx_distributed_model_runner.py").is_file() for folder in folders):
        raise ConfigError(OTHER_VLLM)
    return Fork(any((folder / "multimodal" / "neuron_multimodal_image_utils.py").is_file() for folder in folders))


def check_vllm(settings: Settings) -> None:
    """Raises ConfigError, before anything heavy is imported, where vLLM cannot run with these settings."""
    installed_fork()
    if settings.on_device_sampling_config is None:
        raise ConfigError(HOST_SAMPLING)


def prepare_environment(settings: Settings) -> None:
    """What must be set before vLLM is imported."""
    os.environ.update(engine_environment(settings))
    os.environ["VLLM_NO_USAGE_STATS"] = "1"  # vLLM would report on this machine to its makers
    os.environ.setdefault("VLLM_USE_V1", "0")  # only the older engine serves this model
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def new_engine(settings: Settings) -> Any:
    """A vllm.AsyncLLMEngine, its model loaded and, if need be, compiled first."""
    from vllm import AsyncEngineArgs, AsyncLLMEngine  # type: ignore[import-not-found]  # only where Neuron is

    # Without disable_log_requests every prompt would be in the log.
    return AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**engine_arguments(settings), disable_log_requests=True))


def engine_prompt(request: GenerationRequest, fork: Fork, image: Any = None) -> dict[str, Any]:
    """vllm's TokensPrompt: ids, since text would be given a second begin-of-text. image: a PIL image, None for none."""
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_ids)}
    if image is not None:
        prompt["multi_modal_data"] = {"image": image}
    elif fork.empty_image:
        import torch

        prompt["multi_modal_data"] = {"image": torch.empty((0, 0))}
    return prompt


def sampling_values(sampling: SamplingParams, max_top_k: int | None, end_of_turn_ids: Iterable[int]) -> dict[str, Any]:
    """The keyword arguments of vllm.SamplingParams, of which each request needs one of its own: the engine writes into it.

    Stop strings are not among them, and neither is text: both are made from the tokens as for every other backend.
    """
    greedy = sampling.greedy
    return {
        # NxDI has no greedy mode: the likeliest of one candidate, at a temperature that divides by nothing small.
        "temperature": 1.0 if greedy else sampling.temperature,
        "top_p": 1.0 if greedy else sampling.top_p,
        "top_k": 1 if greedy else sampling.top_k_within(max_top_k),
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": [] if sampling.ignore_eos else sorted(end_of_turn_ids),
        "ignore_eos": sampling.ignore_eos,
        "detokenize": False,
    }


def new_sampling_params(sampling: SamplingParams, max_top_k: int | None, end_of_turn_ids: Iterable[int]) -> Any:
    """vllm.SamplingParams for one request."""
    vllm = importlib.import_module("vllm")  # exists on Neuron instances only
    return vllm.SamplingParams(**sampling_values(sampling, max_top_k, end_of_turn_ids))
