"""What Ollama, LM Studio and llama-server tell about a model outside of the OpenAI protocol.

Each of them has routes of its own that say whether a model reads images, how long its context is, and how many requests it
answers at the same time. A route that is missing, or answers something else, leaves the fact unknown. LM Studio answers unknown
routes with status 200 and {"error": "…"}.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Fetch(Protocol):
    """Asks one route of the server. Returns the JSON object of the answer, or {} for anything else."""

    async def __call__(self, path: str, body: dict[str, Any] | None = None) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class ModelDetails:
    """What a server tells about its model. None: unknown.

    Attributes:
        context_length: In tokens.
        slots: Requests that the server answers at the same time.
        reads_images: Whether the model has a vision part.
    """

    context_length: int | None = None
    slots: int | None = None
    reads_images: bool | None = None


async def recognise(fetch: Fetch, owner: str | None) -> str | None:
    """Returns the name of the program in PROVIDERS, or None when the server is none of the three.

    Args:
        fetch: Asks the server.
        owner: `owned_by` of a model in /models.
    """
    if owner == "llamacpp":
        return "llama_server"
    if isinstance((await fetch("/api/version")).get("version"), str):
        return "ollama"
    if _lm_studio_models(await fetch("/api/v0/models")):
        return "lm_studio"
    return None


async def preferred_model(kind: str, fetch: Fetch, names: Iterable[str]) -> str | None:
    """The model to use when the operator names none: of LM Studio's downloaded models a loaded one that reads images first.

    Returns None when the order of /models is as good as any.
    """
    if kind != "lm_studio":
        return None
    known = {model["id"]: model for model in _lm_studio_models(await fetch("/api/v0/models"))}
    ranked = [name for name in names if known.get(name, {}).get("type") != "embeddings"]
    ranked.sort(key=lambda name: (known.get(name, {}).get("type") != "vlm", known.get(name, {}).get("state") != "loaded"))
    return ranked[0] if ranked else None


async def lacks(kind: str, fetch: Fetch, model: str) -> bool:
    """Whether the server certainly has no such model. False where it cannot be told: a server may answer to unlisted names."""
    if kind == "ollama":
        return not await fetch("/api/show", {"model": model})
    return kind == "lm_studio" and model not in {entry["id"] for entry in _lm_studio_models(await fetch("/api/v0/models"))}


async def model_details(kind: str, fetch: Fetch, model: str) -> ModelDetails:
    """Asks the server about the model. `kind`: a name in PROVIDERS; nothing is known about other programs than the three."""
    if kind == "ollama":
        return await _ollama(fetch, model)
    if kind == "lm_studio":
        return await _lm_studio(fetch, model)
    if kind == "llama_server":
        return await _llama_server(fetch)
    # Any other server may be one of these behind a proxy, or text-generation-inference.
    return ModelDetails(context_length=(await _llama_server(fetch)).context_length or await _tgi_context(fetch))


async def _ollama(fetch: Fetch, model: str) -> ModelDetails:
    """/api/show has the capabilities, and the context where the model's file sets one. /api/ps has the context of a loaded model.

    Else Ollama chooses the context by the memory when it loads the model.
    """
    shown = await fetch("/api/show", {"model": model})
    capabilities, parameters = shown.get("capabilities"), shown.get("parameters")
    chosen = re.search(r"^num_ctx\s+(\d+)\s*$", parameters, re.MULTILINE) if isinstance(parameters, str) else None
    running = (await fetch("/api/ps")).get("models")
    loaded = next((entry for entry in _objects(running) if entry.get("model") == model), {})
    return ModelDetails(
        context_length=_positive(loaded.get("context_length")) or (int(chosen[1]) if chosen else None),
        reads_images="vision" in capabilities if isinstance(capabilities, list) else None,
    )


async def _lm_studio(fetch: Fetch, model: str) -> ModelDetails:
    """A model that is not loaded is loaded by its first request, with a context that only LM Studio knows."""
    found = next((entry for entry in _lm_studio_models(await fetch("/api/v0/models")) if entry["id"] == model), {})
    return ModelDetails(
        context_length=_positive(found.get("loaded_context_length")),
        reads_images=found["type"] == "vlm" if isinstance(found.get("type"), str) else None,
    )


async def _llama_server(fetch: Fetch) -> ModelDetails:
    properties = await fetch("/props")
    settings, modalities = properties.get("default_generation_settings"), properties.get("modalities")
    vision = modalities.get("vision") if isinstance(modalities, Mapping) else None
    return ModelDetails(
        context_length=_positive(settings.get("n_ctx")) if isinstance(settings, Mapping) else None,
        slots=_positive(properties.get("total_slots")),
        reads_images=vision if isinstance(vision, bool) else None,
    )


async def _tgi_context(fetch: Fetch) -> int | None:
    information = await fetch("/info")
    return _positive(information.get("max_total_tokens")) or _positive(information.get("max_input_tokens"))


def _lm_studio_models(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models of /api/v0/models, which have a state; those of /v1/models have none."""
    return [entry for entry in _objects(answer.get("data")) if isinstance(entry.get("id"), str) and "state" in entry]


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
