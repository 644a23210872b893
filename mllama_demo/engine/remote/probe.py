"""A look at the server behind remote_url: is it up, what does it serve, and which program is it?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from mllama_demo.config.settings import Settings
from mllama_demo.engine.remote.errors import RemoteTimeout, RemoteUnreachable, explained, server_message
from mllama_demo.engine.remote.providers import NO_SEED, PROVIDERS, Provider
from mllama_demo.errors import BackendUnavailable, ConfigError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class RemoteServer:
    """What a server told of itself. context_length: in tokens, None where it did not. slots: of another copy of this demo,
    whose own abilities are in kind."""

    kind: Provider
    model: str
    context_length: int | None
    slots: int | None


def new_client(settings: Settings) -> Any:
    """The openai client for the settings; takes a second to import. Belongs to the event loop that uses it first.

    Nothing of the environment goes to the server: not the key of another one, nor the organisation it belongs to.
    """
    import openai

    url = settings.remote_url
    timeout = openai.Timeout(settings.remote_silence_timeout_s, connect=settings.remote_connect_timeout_s)
    proxies = urlsplit(url).hostname not in _LOOPBACK  # no proxy reaches this machine's own address
    try:
        client = openai.AsyncOpenAI(
            base_url=url,
            api_key=settings.remote_api_key or "none",
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, trust_env=proxies),
        )
    except Exception as error:  # of another library with each version of the client
        raise ConfigError(f"remote_url cannot be used: {error}.") from error
    client.organization = client.project = None
    return client


async def probe(client: Any, settings: Settings) -> RemoteServer:
    """Raises BackendUnavailable, in words for the people who wait, when no question could be answered now."""
    url = settings.remote_url
    health = await _health(client, url, settings.remote_connect_timeout_s)
    try:
        listed = await client.models.list(timeout=settings.remote_connect_timeout_s)
        models = [model for model in getattr(listed, "data", None) or () if getattr(model, "id", None)]
    except Exception as error:
        raise explained(error, url, settings.remote_api_key) from error
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
        _kind(settings.remote_kind, health, model),
        model.id,
        length if isinstance(length, int) and length > 0 else None,
        slots if isinstance(slots, int) and slots > 0 else None,
    )


async def _health(client: Any, url: str, timeout_s: float) -> dict[str, Any]:
    """What /health tells beside the protocol's folder. A server without it is taken for healthy; the list of its models comes
    next, and has the other failures."""
    parts = urlsplit(url)
    try:
        told = await client.get(f"{parts.scheme}://{parts.netloc}/health", cast_to=object, options={"timeout": timeout_s})
    except Exception as error:
        if getattr(error, "status_code", None) == 503:
            said = server_message(error) or "it says that its engine is dead"
            raise BackendUnavailable(f"The server at {url} is not ready: {said}.") from error
        found = explained(error, url)
        if isinstance(found, (RemoteUnreachable, RemoteTimeout)):
            raise found from error
        return {}
    return told if isinstance(told, dict) else {}


def _kind(named: str, health: dict[str, Any], model: Any) -> Provider:
    """auto: another copy of this demo tells its slots, and vLLM owns its models. The copy also tells what its backend can."""
    if named == "auto":
        owner = getattr(model, "owned_by", None)
        named = "mllama_demo" if "slots" in health and "running" in health else "vllm" if owner == "vllm" else "other"
    kind, told = PROVIDERS[named], getattr(model, "capabilities", None)
    if named != "mllama_demo" or not isinstance(told, dict):
        return kind
    able = frozenset(name for name in kind.capabilities if told.get(name) is not False)
    return replace(kind, capabilities=able, ignored={} if "seed" in able else {"seed": NO_SEED})
