"""Asks the server at remote_url whether it is up, which model it serves and which program it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from mllama_demo.config.settings import Settings
from mllama_demo.engine.remote.errors import RemoteTimeout, RemoteUnreachable, server_message, to_demo_error
from mllama_demo.engine.remote.providers import PROVIDERS, SEED_UNSUPPORTED, Provider
from mllama_demo.errors import BackendUnavailable, ConfigError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class RemoteServer:
    """What a server tells about itself.

    Attributes:
        provider: The program. For another copy of this demo, with the capabilities of that copy's backend.
        model: Name of the model in requests.
        context_length: In tokens; None when the server does not tell it.
        slots: Requests that the server answers at the same time; None when it is not another copy of this demo.
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
    if not models:
        raise BackendUnavailable(f"The server at {url} names no model under /models; check remote_url.")
    wanted = settings.remote_model
    model = next((m for m in models if m.id == wanted), None) if wanted else models[0]
    if model is None:
        names = ", ".join(sorted(m.id for m in models)[:5])
        raise BackendUnavailable(f"The server at {url} does not serve the model {wanted}; set remote_model to one of: {names}.")
    length = getattr(model, "max_model_len", None)
    slots = health.get("slots")
    return RemoteServer(
        _provider(settings.remote_kind, health, model),
        model.id,
        length if isinstance(length, int) and length > 0 else None,
        slots if isinstance(slots, int) and slots > 0 else None,
    )


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
            raise BackendUnavailable(f"The server at {url} is not ready: {message}.") from error
        translated = to_demo_error(error, url)
        if isinstance(translated, (RemoteUnreachable, RemoteTimeout)):
            raise translated from error
        return {}
    return health if isinstance(health, dict) else {}


def _provider(kind: str, health: dict[str, Any], model: Any) -> Provider:
    """Returns the provider that remote_kind names, or recognises the provider when remote_kind is "auto".

    Another copy of this demo has "slots" and "running" in /health. vLLM is the owner of its models in /models.
    """
    if kind == "auto":
        owner = getattr(model, "owned_by", None)
        kind = "mllama_demo" if "slots" in health and "running" in health else "vllm" if owner == "vllm" else "other"
    provider, reported = PROVIDERS[kind], getattr(model, "capabilities", None)
    if kind != "mllama_demo" or not isinstance(reported, dict):
        return provider
    capabilities = frozenset(name for name in provider.capabilities if reported.get(name) is not False)
    return replace(provider, capabilities=capabilities, ignored={} if "seed" in capabilities else {"seed": SEED_UNSUPPORTED})
