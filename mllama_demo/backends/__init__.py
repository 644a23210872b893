"""Makes the backend that the settings name. No other module knows which backends exist.

The loaders import torch, transformers, the Neuron SDK and vLLM when the backend loads, not when this module is imported.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from mllama_demo.backends.neuron import NeuronLoader
from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import answer_ends, encode_chat
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint.compilation.shared_checkpoint import checkpoint_of
from mllama_demo.checkpoint.machine import check_devices, check_instance, check_sdk, this_machine
from mllama_demo.checkpoint.torch_plan import check_memory, weights_dtype
from mllama_demo.checkpoint.validate import CheckpointInfo
from mllama_demo.config.model_shape import read_shape
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo, GenerationRequest, StartedBackend, SteppedBackend
from mllama_demo.engine.loading_progress import LoadingProgress
from mllama_demo.engine.neuron.runtime_errors import advice
from mllama_demo.engine.process.backend import ProcessBackend
from mllama_demo.engine.remote.providers import SEED_UNSUPPORTED
from mllama_demo.engine.runner import ModelRunner
from mllama_demo.engine.slot_backend import Progress, SlotBackend
from mllama_demo.engine.vllm.engine import check_vllm, installed_fork
from mllama_demo.errors import CheckpointError, ConfigError
from mllama_demo.images.loading import LoadedImage
from mllama_demo.runtime.cpu import limit_spinning
from mllama_demo.sampling import SamplingParams

log = logging.getLogger(__name__)
Load = Callable[[Settings, CheckpointInfo, Progress], ModelRunner]


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
    if settings.backend == "ray":
        from mllama_demo.backends.ray import replicas

        return replicas(settings, on_ready, on_down)
    if settings.backend == "vllm":
        check_vllm(settings)
    checkpoint, tokenizer = checked_model(settings)
    if settings.backend == "vllm":
        return _vllm(settings, checkpoint, tokenizer, on_ready, on_down), tokenizer
    load: Load = _load_torch_runner
    if settings.backend == "neuron":
        loader = NeuronLoader()
        load, on_ready = loader.load, partial(loader.share_after, on_ready)
    backend = SlotBackend(
        runner_info(settings, checkpoint),
        lambda progress: load(settings, checkpoint, progress),
        tokenizer,
        answer_ends(tokenizer, checkpoint.eos_token_ids),
        warm_up=_warm_up_request(tokenizer),
        max_waiting=settings.max_waiting,
        on_ready=on_ready,
        on_down=on_down,
    )
    return backend, tokenizer


def checked_model(settings: Settings) -> tuple[CheckpointInfo, Tokenizer]:
    """The checkpoint of a backend that computes on this machine. Raises CheckpointError and ConfigError as make_backend does."""
    checkpoint = checkpoint_of(settings)
    if settings.backend in ("neuron", "vllm"):
        check_sdk()
        if settings.backend == "neuron":
            from mllama_demo.checkpoint.neuron_sdks import check_release

            check_release(settings.instance_type)
        check_instance(settings.instance_type, settings.tensor_parallel_size)
        check_devices(settings.tensor_parallel_size, settings.neuron.chip.cores)
    tokenizer = Tokenizer(settings.model_path)
    if settings.seq_len > checkpoint.max_position_embeddings:
        raise CheckpointError(
            f"seq_len is {settings.seq_len}, but the model in {settings.model_path} was made for at most "
            f"{checkpoint.max_position_embeddings} tokens; set seq_len to that or less."
        )
    return checkpoint, tokenizer


def runner_info(settings: Settings, checkpoint: CheckpointInfo) -> BackendInfo:
    """What the engine of backend torch or neuron can do, without loading it and without looking at this machine's devices."""
    return (_neuron if settings.backend == "neuron" else _torch)(settings, checkpoint)


def load_runner(settings: Settings, progress: Progress) -> ModelRunner:
    """Loads the model of backend torch or neuron without a queue and a scheduler. Raises what make_backend raises."""
    checkpoint, _ = checked_model(settings)
    if settings.backend == "torch":
        runner_info(settings, checkpoint)  # refuses what cannot run here
        return _load_torch_runner(settings, checkpoint, progress)
    loader = NeuronLoader()
    try:
        return loader.load(settings, checkpoint, progress)
    finally:
        loader.release()


def make_served_backend(
    settings: Settings,
    *,
    on_ready: Callable[[], None] = lambda: None,
    on_down: Callable[[str], None] = lambda reason: None,
) -> tuple[StartedBackend, Tokenizer | TokenEstimate]:
    """Makes a backend that lives as long as a web server: its model runs in a process of its own, if the settings say so.

    Takes, returns and raises what make_backend does. on_ready is called once, and on_down when the model is not started again.
    """
    if not settings.engine_process or settings.backend in ("openai", "ray"):
        return make_backend(settings, on_ready=on_ready, on_down=on_down)
    backend, tokenizer = make_backend(settings)  # finds what cannot be used at once; the process makes its own
    served = ProcessBackend(
        backend.info,
        partial(make_engine, settings),
        max_waiting=settings.max_waiting,
        step_limit_s=step_limit_s(settings),
        max_restarts=settings.max_restarts,
        explain=advice if settings.backend in ("neuron", "vllm") else None,
        on_ready=on_ready,
        on_down=on_down,
    )
    return served, tokenizer


def step_limit_s(settings: Settings) -> float | None:
    """How long a step of the model may take, in seconds. One that takes longer than a request may helps no request."""
    return settings.request_time_limit_s if settings.step_time_limit_s is None else settings.step_time_limit_s


def make_engine(settings: Settings, on_ready: Callable[[], None], on_down: Callable[[str], None]) -> SteppedBackend:
    """The backend in the process of the model. Takes and raises what make_backend does."""
    return cast("SteppedBackend", make_backend(settings, on_ready=on_ready, on_down=on_down)[0])


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


def _torch(settings: Settings, checkpoint: CheckpointInfo) -> BackendInfo:
    _check_quantization(settings)
    # With auto, PyTorch says only when it is imported whether it can use the GPU.
    auto = ["cpu"] if _on_cpu(settings) else ["cuda", "cpu"]
    devices = auto if settings.device == "auto" else [settings.device]
    check_memory(settings, read_shape(settings.model_path / "config.json"), checkpoint.dtype, devices)
    capabilities = {"images", "seed", "probabilities", "continue"} | ({"fork"} if settings.prefix_cache_mb else set())
    return _info(settings, checkpoint, name="torch", device=settings.device, capabilities=frozenset(capabilities))


def _check_quantization(settings: Settings) -> None:
    if settings.quantization == "none" or not _on_cpu(settings):
        return
    if settings.dtype not in ("auto", "float32"):
        raise ConfigError(
            f"quantization is {settings.quantization} and dtype is {settings.dtype}, but on a CPU a quantized model computes in "
            "float32; set dtype to auto."
        )
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"quantization is {settings.quantization}, which on a CPU needs the package {missing[0]}, which is not installed; "
            "pip install onnx onnxruntime."
        )


def _on_cpu(settings: Settings) -> bool:
    """Whether the model will run on the CPU, told without torch."""
    return settings.device == "cpu" or (settings.device == "auto" and not this_machine().gpu)


def _load_torch_runner(settings: Settings, checkpoint: CheckpointInfo, progress: Progress) -> ModelRunner:
    progress("importing PyTorch and transformers")
    limit_spinning(quantized=settings.quantization != "none" and _on_cpu(settings))
    import torch

    from mllama_demo.engine.torch.runner import TorchRunner, choose_device

    device = choose_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    runner = TorchRunner.load(
        settings.model_path,
        slots=settings.batch_size,
        max_seq_len=settings.seq_len,
        device=device,
        dtype=getattr(torch, weights_dtype(settings, checkpoint.dtype, device.partition(":")[0])),
        quantization=settings.quantization,
        vision_cache_size=settings.vision_cache_size,
        report=LoadingProgress(progress, lambda text: log.info("loading the model: %s", text)),
        prefix_cache_mb=settings.prefix_cache_mb,
        prefix_cache_answers=settings.prefix_cache_answers,
    )
    if not settings.threads and device == "cpu":
        progress("choosing the number of threads")
        runner.choose_threads()
    return runner


# --- Neuron --------------------------------------------------------------------------------------------------------------


def _neuron(settings: Settings, checkpoint: CheckpointInfo) -> BackendInfo:
    """On-device sampling (NxDI) returns no probabilities and takes no seed."""
    options = settings.neuron
    sampling = options.on_device_sampling_config
    return _info(
        settings,
        checkpoint,
        name="neuron",
        device=f"{options.instance_type}, {options.tensor_parallel_size} NeuronCores",
        capabilities=frozenset({"images", "continue"} | ({"seed", "probabilities"} if sampling is None else set())),
        max_top_k=None if sampling is None else sampling.global_topk,
        max_prompt=options.max_context_length,
        full_canvas=True,
        ignored={} if sampling is None else {"seed": SEED_UNSUPPORTED},
    )


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
    ends = answer_ends(tokenizer, checkpoint.eos_token_ids)
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
