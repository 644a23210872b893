"""Asks the server at remote_url whether it is up, which model it serves and which program it is."""

from __future__ import annotations

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


@dataclass(frozen=True)
class RemoteServer:
    """What a server tells about itself.

    Attributes:
        provider: The program. For another copy of this demo, with the capabilities of that copy's backend.
        model: Name of the model in requests.
        context_length: In tokens; None when the server does not tell it.
        slots: Requests that the server answers at the same time; None when the server does not tell it.
    """

    provider: Provider
    model: str
    context_length: int | None
    slots: int | None


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
    try:
        listed = await client.models.list(timeout=settings.remote_connect_timeout_s)
        models = [model for model in getattr(listed, "data", None) or () if getattr(model, "id", None)]
    except Exception as error:
        raise to_demo_error(error, url, settings.remote_api_key) from error
    fetch = _fetcher(client, url, settings.remote_connect_timeout_s)
    kind = await _kind(settings.remote_kind, health, models, fetch)
    model = await _choose(models, settings, kind, fetch)
    details = await local_servers.model_details(kind, fetch, model.id)
    length, slots = getattr(model, "max_model_len", None), health.get("slots")
    return RemoteServer(
        _provider(kind, model, details),
        model.id,
        length if isinstance(length, int) and length > 0 else details.context_length,
        slots if isinstance(slots, int) and slots > 0 else details.slots,
    )


async def _choose(models: list[Any], settings: Settings, kind: str, fetch: local_servers.Fetch) -> Any:
    """The listed model that remote_model names, or the best one. Ollama lists `NAME:latest` for what people call NAME.

    Raises:
        BackendUnavailable: There is no such model. The message says how to get it, where the program is known.
    """
    url, wanted, provider = settings.remote_url, settings.remote_model, PROVIDERS[kind]
    if not models:
        get_model = provider.get_model.format(model=wanted or "llama3.2-vision")
        cause = f"The server at {url} names no model under /models; {get_model or 'check remote_url'}."
        advice = get_model and f"; {get_model}"
        raise BackendUnavailable(Failure(f"{SERVER} has no model{advice}.", cause))
    wanted = wanted or await local_servers.preferred_model(kind, fetch, [model.id for model in models])
    if not wanted:
        return models[0]
    for name in (wanted, f"{wanted}:latest"):
        if (model := next((model for model in models if model.id == name), None)) is not None:
            return model
    names = ", ".join(sorted(model.id for model in models)[:5])
    get_model = f"{provider.get_model.format(model=wanted)}, or " if provider.get_model else ""
    cause = f"The server at {url} does not serve the model {wanted}; {get_model}set remote_model to one of: {names}."
    advice = get_model and "; " + get_model.removesuffix(", or ")
    sentence = f"{SERVER} does not have the model of this demo{advice}."
    raise BackendUnavailable(Failure(sentence, cause))


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


def _provider(kind: str, model: Any, details: local_servers.ModelDetails) -> Provider:
    """The provider, with the capabilities that the server tells of its model."""
    provider, reported = PROVIDERS[kind], getattr(model, "capabilities", None)
    if details.reads_images is False:
        return replace(provider, capabilities=provider.capabilities - {"images"})
    if kind != "mllama_demo" or not isinstance(reported, dict):
        return provider
    capabilities = frozenset(name for name in provider.capabilities if reported.get(name) is not False)
    return replace(provider, capabilities=capabilities, ignored={} if "seed" in capabilities else {"seed": SEED_UNSUPPORTED})
