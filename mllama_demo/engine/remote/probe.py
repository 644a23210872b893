"""Asks the server at remote_url whether it is up, which model it serves and which program it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from mllama_demo.config.settings import Settings
from mllama_demo.engine.remote import local_servers
from mllama_demo.engine.remote.errors import SERVER, RemoteTimeout, RemoteUnreachable, server_message, to_demo_error
from mllama_demo.engine.remote.providers import PROVIDERS, SEED_UNSUPPORTED, Provider
from mllama_demo.errors import BackendUnavailable, ConfigError, Failure

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
# The context in an entry of /models: of vLLM and SGLang; OpenRouter and Together; Groq; Mistral; proxies such as LiteLLM.
_CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window", "max_context_length", "max_input_tokens")
_OTHER_KINDS = {"embedding", "embeddings", "rerank", "reranker", "moderation", "image", "audio", "stt", "tts", "transcription"}
_OTHER_KINDS |= {
    "feature-extraction",
    "text-to-speech",
    "automatic-speech-recognition",
    "image_generation",
    "audio_transcription",
}
_OTHER_WORDS = {
    "embed",
    "embedding",
    "embeddings",
    "bge",
    "gte",
    "e5",
    "minilm",
    "rerank",
    "reranker",
    "colbert",
    "whisper",
    "tts",
    "moderation",
    "transcribe",
    "dall",
    "sora",
}


@dataclass(frozen=True)
class RemoteServer:
    """What a server tells about itself.

    Attributes:
        provider: The program. For another copy of this demo, with the capabilities of that copy's backend.
        model: Name of the model in requests.
        context_length: In tokens; None when the server does not tell it.
        slots: Requests that the server answers at the same time; None when the server does not tell it.
        note: What the operator should know of the choice of the model; empty when there is nothing to say.
    """

    provider: Provider
    model: str
    context_length: int | None
    slots: int | None
    note: str = ""


def new_client(settings: Settings) -> Any:
    """Makes the openai client for the settings. Importing openai takes a second.

    The client belongs to the event loop that uses it first. The client ignores OPENAI_API_KEY, OPENAI_ORG_ID and
    OPENAI_PROJECT_ID, because these belong to another server.

    Raises:
        ConfigError: The client does not accept remote_url.
    """
    import openai

    url = settings.remote_url
    timeout = openai.Timeout(settings.remote_silence_timeout_s, connect=settings.remote_connect_timeout_s)
    proxies = urlsplit(url).hostname not in _LOOPBACK  # a proxy cannot reach this machine's loopback address
    try:
        client = openai.AsyncOpenAI(
            base_url=url,
            api_key=settings.remote_api_key or "none",
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, trust_env=proxies),
        )
    except Exception as error:  # the class depends on the version of the client
        raise ConfigError(f"remote_url cannot be used: {error}.") from error
    client.organization = client.project = None
    return client


async def probe(client: Any, settings: Settings) -> RemoteServer:
    """Asks the server for its health and its models.

    Raises:
        BackendUnavailable: The server cannot answer requests now. The message is for the user.
    """
    url = settings.remote_url
    health = await _health(client, url, settings.remote_connect_timeout_s)
    models = await _listed_models(client, settings)
    fetch = _fetcher(client, url, settings.remote_connect_timeout_s)
    kind = await _kind(settings.remote_kind, health, models, fetch)
    name, model, note = await _choose(models, settings, kind, fetch)
    details = await local_servers.model_details(kind, fetch, name)
    slots = health.get("slots")
    return RemoteServer(
        _provider(kind, model, details, settings),
        name,
        _context_length(model) or details.context_length,
        slots if isinstance(slots, int) and slots > 0 else details.slots,
        note,
    )


async def _listed_models(client: Any, settings: Settings) -> list[Any]:
    """The entries of /models. A server that cannot list its models lists none, if remote_model names the model.

    Raises:
        BackendUnavailable: The server cannot be asked.
    """
    try:
        listed = await client.models.list(timeout=settings.remote_connect_timeout_s)
    except Exception as error:
        # transformers serve answers 500 while its cache is empty.
        if settings.remote_model and getattr(error, "status_code", None) in (400, 404, 405, 500, 501):
            return []
        raise to_demo_error(error, settings.remote_url, settings.remote_api_key) from error
    return [model for model in getattr(listed, "data", None) or () if getattr(model, "id", None)]


def _context_length(model: Any) -> int | None:
    """The context that an entry of /models tells, in tokens. Each program has a name of its own for it."""
    values = (getattr(model, name, None) for name in _CONTEXT_FIELDS)
    return next((value for value in values if type(value) is int and value > 0), None)


def _can_chat(model: Any) -> bool:
    """Whether a listed model may answer questions: false for embeddings, rerankers, speech and the like."""
    kinds = {str(getattr(model, name, "")).lower() for name in ("type", "task", "mode", "model_type")}
    words = set(re.split(r"[^a-z0-9]+", model.id.lower()))
    return not (kinds & _OTHER_KINDS or words & _OTHER_WORDS)


async def _choose(models: list[Any], settings: Settings, kind: str, fetch: local_servers.Fetch) -> tuple[str, Any, str]:
    """The model that remote_model names, or the best of those that are listed.

    A name that is not listed is tried all the same, because a server may answer to more names than it lists. Only Ollama and LM
    Studio tell for certain that a model is not there.

    Returns:
        The name for requests; the entry of /models, or None; and a note for the operator.

    Raises:
        BackendUnavailable: There is no such model. The message says how to get it, where the program is known.
    """
    url, wanted, provider = settings.remote_url, settings.remote_model, PROVIDERS[kind]
    if wanted:
        names = (wanted, f"{wanted}:latest")  # Ollama lists NAME:latest for what people call NAME
        if (model := next((model for model in models if model.id in names), None)) is not None:
            return model.id, model, ""
        if not await local_servers.lacks(kind, fetch, wanted):
            listed = ", ".join(sorted(model.id for model in models)[:5]) or "no model"
            return wanted, None, f"The server at {url} lists {listed}, and not {wanted}; it is asked for {wanted} all the same."
        get_model = f"{provider.get_model.format(model=wanted)}, or " if provider.get_model else ""
        listed = ", ".join(sorted(model.id for model in models)[:5])
        choice = f"set remote_model to one of: {listed}" if models else "check remote_url"
        cause = f"The server at {url} does not serve the model {wanted}; {get_model}{choice}."
        advice = get_model and "; " + get_model.removesuffix(", or ")
        raise BackendUnavailable(Failure(f"{SERVER} does not have the model of this demo{advice}.", cause))
    if not models:
        get_model = provider.get_model.format(model="llama3.2-vision") or "name one with remote_model, or check remote_url"
        cause = f"The server at {url} names no model under /models; {get_model}."
        advice = f"; {get_model}" if provider.get_model else ""
        raise BackendUnavailable(Failure(f"{SERVER} has no model{advice}.", cause))
    usable = [model for model in models if _can_chat(model)]
    if not usable:
        listed = ", ".join(sorted(model.id for model in models)[:5])
        cause = f"The server at {url} lists models that cannot chat ({listed}); set remote_model if one of them can."
        raise BackendUnavailable(Failure(f"{SERVER} has no model that can chat.", cause))
    best = await local_servers.preferred_model(kind, fetch, [model.id for model in usable])
    model = next((model for model in usable if model.id == best), usable[0])
    note = f"The server at {url} lists {len(usable)} models, and {model.id} is used; remote_model names another."
    return model.id, model, note if len(usable) > 1 else ""


def _fetcher(client: Any, url: str, timeout_s: float) -> local_servers.Fetch:
    parts = urlsplit(url)

    async def fetch(path: str, body: dict[str, Any] | None = None) -> Mapping[str, Any]:
        address, options = f"{parts.scheme}://{parts.netloc}{path}", {"timeout": timeout_s}
        try:
            if body is None:
                answer = await client.get(address, cast_to=object, options=options)
            else:
                answer = await client.post(address, cast_to=object, body=body, options=options)
        except Exception:  # the class depends on the version of the client; the facts stay unknown
            return {}
        return answer if isinstance(answer, Mapping) else {}

    return fetch


async def _health(client: Any, url: str, timeout_s: float) -> dict[str, Any]:
    """Returns the JSON of /health, or {} when the server has no such route or refuses the request.

    probe lists the models next, and reports any other failure then.

    Raises:
        BackendUnavailable: The server cannot be reached or says that it is not ready.
    """
    parts = urlsplit(url)
    try:
        health = await client.get(f"{parts.scheme}://{parts.netloc}/health", cast_to=object, options={"timeout": timeout_s})
    except Exception as error:
        if getattr(error, "status_code", None) == 503:
            message = server_message(error) or "it says that its engine is dead"
            raise BackendUnavailable(
                Failure(f"{SERVER} is not ready.", f"The server at {url} is not ready: {message}.")
            ) from error
        translated = to_demo_error(error, url)
        if isinstance(translated, (RemoteUnreachable, RemoteTimeout)):
            raise translated from error
        return {}
    return health if isinstance(health, dict) else {}


async def _kind(kind: str, health: dict[str, Any], models: list[Any], fetch: local_servers.Fetch) -> str:
    """Returns the name in PROVIDERS that remote_kind gives, or recognises the program when remote_kind is "auto".

    Another copy of this demo has "slots" and "running" in /health. vLLM is the owner of its models in /models.
    """
    if kind != "auto":
        return kind
    if "slots" in health and "running" in health:
        return "mllama_demo"
    owner = getattr(models[0], "owned_by", None) if models else None
    return "vllm" if owner == "vllm" else await local_servers.recognise(fetch, owner) or "other"


def _provider(kind: str, model: Any | None, details: local_servers.ModelDetails, settings: Settings) -> Provider:
    """The provider, with the capabilities that the server tells of its model."""
    provider, reported = PROVIDERS[kind], getattr(model, "capabilities", None)
    if kind == "vllm_neuron" and settings.on_device_sampling_config is not None:  # the server does not tell what it has
        provider = replace(provider, max_top_k=settings.on_device_sampling_config.global_topk)
    if details.reads_images is False:
        return replace(provider, capabilities=provider.capabilities - {"images"})
    if kind != "mllama_demo" or not isinstance(reported, dict):
        return provider
    capabilities = frozenset(name for name in provider.capabilities if reported.get(name) is not False)
    return replace(provider, capabilities=capabilities, ignored={} if "seed" in capabilities else {"seed": SEED_UNSUPPORTED})
