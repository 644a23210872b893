"""Recognises the installed vLLM, and makes the engine, prompts and sampling parameters of vLLM's legacy Neuron fork.

Three versions of the fork (github.com/aws-neuron/upstreaming-to-vllm) serve Llama 3.2 Vision through NxDI: v0.6.x, v0.7.2 and one
based on v0.9. The fork derives its version number from git tags, so the versions are recognised by their files. vLLM is imported
inside the functions that need it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.vllm.arguments import engine_arguments, engine_environment
from mllama_demo.engine.vllm.corrections import install
from mllama_demo.errors import ConfigError
from mllama_demo.sampling import SamplingParams

if TYPE_CHECKING:
    from PIL import Image

_INSTALL_HINT = (
    "install the fork of vLLM for Neuron (github.com/aws-neuron/upstreaming-to-vllm, v0.6.x to 0.9) in the environment of the "
    "AWS Neuron SDK, or choose backend neuron, which needs no vLLM."
)
VLLM_MISSING = f"The vLLM backend needs vLLM, which is not installed here: {_INSTALL_HINT}"
VLLM_UNSUITABLE = f"The vLLM that is installed here cannot run Llama 3.2 Vision on Neuron: {_INSTALL_HINT}"
HOST_SAMPLING_UNSUPPORTED = (
    "on_device_sampling_config is none, but vLLM samples this model on the device only; leave the option out, or choose backend "
    "neuron."
)


@dataclass(frozen=True)
class VllmFork:
    """The installed version of the fork.

    Attributes:
        needs_empty_image: Whether a prompt without an image must carry an empty image. v0.6.x and v0.7.2 match images to the rows
            of a batch by position, so a row without an image would shift the images of the others. The version based on v0.9
            stores for each slot whether it has an image.
    """

    needs_empty_image: bool


def installed_fork() -> VllmFork:
    """Recognises the installed fork by its files, without importing vLLM. Raises ConfigError when there is no such fork."""
    found = importlib.util.find_spec("vllm")
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
    if not folders:
        raise ConfigError(VLLM_MISSING)
    if not any((folder / "worker" / "neuronx_distributed_model_runner.py").is_file() for folder in folders):
        raise ConfigError(VLLM_UNSUITABLE)
    return VllmFork(any((folder / "multimodal" / "neuron_multimodal_image_utils.py").is_file() for folder in folders))


def check_vllm(settings: Settings) -> None:
    """Checks, without importing vLLM, that vLLM can run these settings. Raises ConfigError when it cannot."""
    installed_fork()
    check_sampling(settings)


def check_sampling(settings: Settings) -> None:
    """Raises ConfigError for a configuration that samples on the host."""
    if settings.on_device_sampling_config is None:
        raise ConfigError(HOST_SAMPLING_UNSUPPORTED)


def prepare_environment(settings: Settings) -> None:
    """Sets the environment variables that vLLM reads when it is imported, and corrects how it prepares images."""
    install()
    os.environ.update(engine_environment(settings))
    os.environ["VLLM_NO_USAGE_STATS"] = "1"  # vLLM would send usage statistics to its makers
    os.environ.setdefault("VLLM_USE_V1", "0")  # the V1 engine does not serve this model
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def new_engine(settings: Settings) -> Any:
    """Returns a vllm.AsyncLLMEngine with the model loaded. A model that is not compiled yet is compiled first."""
    from vllm import AsyncEngineArgs, AsyncLLMEngine  # type: ignore[import-not-found]  # exists on Neuron instances only

    # Without disable_log_requests vLLM would log every prompt.
    return AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**engine_arguments(settings), disable_log_requests=True))


def engine_prompt(request: GenerationRequest, fork: VllmFork, image: Image.Image | None = None) -> dict[str, Any]:
    """Returns vLLM's TokensPrompt: token ids, because vLLM would put a second begin-of-text token before a text."""
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_ids)}
    if image is not None:
        prompt["multi_modal_data"] = {"image": image}
    elif fork.needs_empty_image:
        import torch

        prompt["multi_modal_data"] = {"image": torch.empty((0, 0))}
    return prompt


def sampling_values(sampling: SamplingParams, max_top_k: int | None, end_of_turn_ids: Iterable[int]) -> dict[str, Any]:
    """Returns the keyword arguments of vllm.SamplingParams.

    Stop strings are left out and vLLM makes no text, because the demo makes text and finds stop strings itself in every backend.
    """
    greedy = sampling.greedy
    return {
        # NxDI 0.9 has no greedy mode and divides by the temperature. top_k 1 at temperature 1 chooses the likeliest token.
        "temperature": 1.0 if greedy else sampling.temperature,
        "top_p": 1.0 if greedy else sampling.top_p,
        "top_k": 1 if greedy else sampling.top_k_within(max_top_k),
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": [] if sampling.ignore_eos else sorted(end_of_turn_ids),
        "ignore_eos": sampling.ignore_eos,
        "detokenize": False,
    }


def new_sampling_params(sampling: SamplingParams, max_top_k: int | None, end_of_turn_ids: Iterable[int]) -> Any:
    """Returns a vllm.SamplingParams. Each request needs its own object, because the engine writes into it."""
    vllm = importlib.import_module("vllm")  # exists on Neuron instances only
    return vllm.SamplingParams(**sampling_values(sampling, max_top_k, end_of_turn_ids))
