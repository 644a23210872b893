"""Makes the backend that the settings name. No other module knows which backends exist.

The loaders import torch, transformers, the Neuron SDK and vLLM when the backend loads, not when this module is imported.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint.machine import check_devices, check_instance, check_sdk
from mllama_demo.checkpoint.validate import CheckpointInfo, check_checkpoint
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo, GenerationRequest, StartedBackend
from mllama_demo.engine.neuron.compiler_log import report_loading
from mllama_demo.engine.remote.providers import SEED_UNSUPPORTED
from mllama_demo.engine.runner import ModelRunner
from mllama_demo.engine.slot_backend import Progress, SlotBackend
from mllama_demo.engine.vllm.engine import check_vllm, installed_fork
from mllama_demo.errors import CheckpointError, ConfigError
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams

log = logging.getLogger(__name__)
Load = Callable[[Settings, CheckpointInfo, Progress], ModelRunner]

# A decode step of a smaller model is so short that threads mostly wait for each other. Two threads were no faster than one on two
# idle cores, and ten times slower on two busy cores (benchmarks/first_light.py --threads).
SMALL_MODEL_PARAMETERS = 50_000_000


def make_backend(
    settings: Settings,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_down: Callable[[str], None] = lambda reason: None,
) -> tuple[StartedBackend, Tokenizer | TokenEstimate]:
    """Makes a backend without starting it.

    Returns:
        The backend and its tokenizer. A remote server has the tokenizer itself; the second value is then a TokenEstimate.

    Raises:
        CheckpointError: The model folder cannot be used. Found in milliseconds, before the model is loaded.
        ConfigError: The backend cannot run on this machine.
    """
    if settings.backend == "openai":
        return _remote(settings, on_ready, on_down)
    if settings.backend == "vllm":
        check_vllm(settings)
    checkpoint = check_checkpoint(settings.model_path)
    if settings.backend in ("neuron", "vllm"):
        check_sdk()
        check_devices()
        check_instance(settings.instance_type, settings.tensor_parallel_size)
    tokenizer = Tokenizer(settings.model_path)
    context = settings.seq_len
    if context > checkpoint.max_position_embeddings:
        raise CheckpointError(
            f"seq_len is {context}, but the model in {settings.model_path} was made for at most "
            f"{checkpoint.max_position_embeddings} tokens; set seq_len to that or less."
        )
    if settings.backend == "vllm":
        return _vllm(settings, checkpoint, tokenizer, on_ready, on_down), tokenizer
    info, load = _neuron(settings, checkpoint) if settings.backend == "neuron" else _torch(settings, checkpoint)
    backend = SlotBackend(
        info,
        lambda progress: load(settings, checkpoint, progress),
        tokenizer,
        frozenset(checkpoint.eos_token_ids),
        warm_up=_warm_up_request(tokenizer),
        max_waiting=settings.max_waiting,
        on_ready=on_ready,
        on_down=on_down,
    )
    return backend, tokenizer


def _info(settings: Settings, checkpoint: CheckpointInfo, **special: Any) -> BackendInfo:
    return BackendInfo(
        model=checkpoint.name,
        slots=settings.batch_size,
        context_length=settings.seq_len,
        tile_size=checkpoint.tile_size,
        max_tiles=checkpoint.max_tiles,
        **special,
    )


# --- PyTorch -------------------------------------------------------------------------------------------------------------


def _torch(settings: Settings, checkpoint: CheckpointInfo) -> tuple[BackendInfo, Load]:
    capabilities = frozenset({"images", "seed", "probabilities", "fork"})
    return _info(settings, checkpoint, name="transformers", device=settings.device, capabilities=capabilities), _load_torch_runner


def _load_torch_runner(settings: Settings, checkpoint: CheckpointInfo, progress: Progress) -> ModelRunner:
    progress("importing PyTorch and transformers")
    import torch

    from mllama_demo.engine.torch.runner import TorchRunner, choose_device, choose_dtype

    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    elif checkpoint.parameters < SMALL_MODEL_PARAMETERS:
        torch.set_num_threads(1)
    progress(f"loading {checkpoint.parameters / 1e6:,.0f} million parameters")
    return TorchRunner.load(
        settings.model_path,
        slots=settings.batch_size,
        max_seq_len=settings.seq_len,
        device=device,
        dtype=choose_dtype(settings.dtype, device),
        vision_cache_size=settings.vision_cache_size,
    )


# --- Neuron --------------------------------------------------------------------------------------------------------------


def _neuron(settings: Settings, checkpoint: CheckpointInfo) -> tuple[BackendInfo, Load]:
    """On-device sampling (NxDI) returns no probabilities and takes no seed."""
    options = settings.neuron
    sampling = options.on_device_sampling_config
    info = _info(
        settings,
        checkpoint,
        name="neuron",
        device=f"{options.instance_type}, {options.tensor_parallel_size} NeuronCores",
        capabilities=frozenset({"images", "seed", "probabilities"} if sampling is None else {"images"}),
        max_top_k=None if sampling is None else sampling.global_topk,
        max_prompt=options.max_context_length,
        full_canvas=True,
        ignored={} if sampling is None else {"seed": SEED_UNSUPPORTED},
    )
    return info, _load_neuron_runner


def _load_neuron_runner(settings: Settings, checkpoint: CheckpointInfo, progress: Progress) -> ModelRunner:
    """Compiles the model first if no compiled model fits the settings."""
    from mllama_demo.checkpoint.compilation.compile import check_can_compile, describe_progress, ensure_compiled, plan_compilation

    progress("looking for the compiled model")
    compilation = plan_compilation(settings)
    check_can_compile(compilation)
    folder = ensure_compiled(
        compilation,
        lambda now, seconds: progress(f"compiling it first, {describe_progress(now, seconds)}"),
        report=log.info,
    )
    progress("importing the Neuron SDK")
    from mllama_demo.engine.neuron.runner import NeuronRunner

    progress("loading the compiled model")
    with report_loading(progress):
        return NeuronRunner.load(folder, checkpoint.image_token_id)


# --- vLLM ----------------------------------------------------------------------------------------------------------------


def _vllm(
    settings: Settings,
    checkpoint: CheckpointInfo,
    tokenizer: Tokenizer,
    on_ready: Callable[[], None],
    on_down: Callable[[str], None],
) -> StartedBackend:
    """The capabilities lack "logprobs", because the Neuron forks of vLLM return wrong ones."""
    from mllama_demo.engine.vllm.backend import VLLMBackend

    options = settings.neuron
    info = _info(
        settings,
        checkpoint,
        name="vllm",
        device=f"{options.instance_type}, {options.tensor_parallel_size} NeuronCores, through vLLM",
        capabilities=frozenset({"images"}),
        max_top_k=None if options.on_device_sampling_config is None else options.on_device_sampling_config.global_topk,
        max_prompt=options.max_context_length,
        full_canvas=True,
        ignored={"seed": SEED_UNSUPPORTED},
    )
    ends = frozenset(checkpoint.eos_token_ids)
    return VLLMBackend(
        settings, info, installed_fork(), tokenizer, ends, _warm_up_request(tokenizer), on_ready=on_ready, on_down=on_down
    )


# --- remote server -------------------------------------------------------------------------------------------------------


def _remote(
    settings: Settings, on_ready: Callable[[], None], on_down: Callable[[str], None]
) -> tuple[StartedBackend, TokenEstimate]:
    """Ignores settings.model_path, because the server has the model and the tokenizer."""
    if importlib.util.find_spec("openai") is None:
        raise ConfigError("Backend openai needs the package openai, which is not installed; pip install openai.")
    from mllama_demo.engine.remote.backend import OpenAIBackend

    backend = OpenAIBackend(settings, on_ready=on_ready, on_down=on_down)
    return backend, backend.estimate


def _warm_up_request(tokenizer: Tokenizer) -> GenerationRequest:
    """Returns a request with an image, for two tokens of any kind, so that every part of the model runs once."""
    from PIL import Image

    image = LoadedImage(Image.new("RGB", (64, 64)), b"", "PNG", "warm-up", "warm-up")
    question = Message("user", "Hello", ImageRef.of(image))
    sampling = SamplingParams(max_tokens=2, ignore_eos=True)
    return GenerationRequest(tuple(encode_chat((question,), tokenizer)), sampling, image=image)
