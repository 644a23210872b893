"""/v1/explore: runs a grid and streams its progress as newline-delimited JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendInfo
from mllama_demo.errors import BadRequest, DemoError, ImageError
from mllama_demo.explore.grid import MAX_CELLS, MAX_TOKENS, Grid, make_grid
from mllama_demo.explore.results import Cell, Run
from mllama_demo.explore.runner import Explorer, GridTasks
from mllama_demo.explore.stream import JsonEvent, cell_events, start_event
from mllama_demo.images.loading import LoadedImage
from mllama_demo.images.threads import image_at
from mllama_demo.runtime.failures import log_bug
from mllama_demo.runtime.json_input import half_surrogate, unusable_json
from mllama_demo.sampling import BOUNDS
from mllama_demo.web.errors import CLIENT_CLOSED_REQUEST, INTERNAL_ERROR, ApiError, ErrorResponse
from mllama_demo.web.middleware import CALLER
from mllama_demo.web.streaming import ClientDisconnected, NdjsonStream, while_connected

log = logging.getLogger(__name__)

TOKEN_CAPABILITIES = frozenset({"probabilities", "logprobs"})
EXAMPLE = {
    "prompt": "What is the capital of Italy?",
    "temperature": [0.5, 1.5],
    "top_k": [0, 10],
    "seed": [1, 2],
    "max_tokens": 32,
}


def explore_routes(explorer: Explorer, settings: Settings, refuse_early: Callable[[], None]) -> APIRouter:
    """The route of the API. refuse_early: raises an error when the backend would refuse a request now."""
    router = APIRouter()

    @router.post("/v1/explore", response_class=Response, openapi_extra=_request_body(), responses=_responses())
    async def explore(request: Request) -> Response:
        """Runs a grid. Answers with one JSON object a line: start, then a line for each change of a cell, then end with the whole
        run. A connection that closes stops the cells."""
        values = read_object(await request.body())
        info = explorer.backend.info
        if values.get("seed") is not None and "seed" not in info.capabilities:
            raise ApiError.unsupported("seed", "the backend that runs the model draws without one, so nothing could be repeated")
        grid, source, traces = read_grid(values, settings, info)
        refuse_early()
        try:
            image = None if source is None else await while_connected(request.receive, _fetch(source, settings))
            tasks = await explorer.start(grid, image, request.scope[CALLER])
        except ClientDisconnected:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return NdjsonStream(_events(explorer, tasks, traces))

    return router


async def _events(explorer: Explorer, tasks: GridTasks, traces: bool) -> AsyncGenerator[JsonEvent, None]:
    async with tasks:
        yield start_event(tasks.grid, explorer.estimate(tasks.grid), tasks.run().id)
        try:
            async with aclosing(cell_events(tasks)) as events:
                async for event in events:
                    yield event
            run = tasks.run() if traces else without_traces(tasks.run())
            yield {"event": "end", "run": run.model_dump(mode="json")}
        except Exception:
            log_bug(log, "a grid could not be run")
            yield {"event": "error", "error": INTERNAL_ERROR}


def without_traces(run: Run) -> Run:
    """The run without the recorded candidates of its tokens."""

    def bare(cell: Cell) -> Cell:
        return cell.model_copy(update={"tokens": tuple(token.model_copy(update={"trace": None}) for token in cell.tokens)})

    return run.model_copy(update={"cells": tuple(map(bare, run.cells))})


# --- request body --------------------------------------------------------------------------------------------------------


def read_object(body: bytes) -> dict[str, Any]:
    """Parses a JSON object. Raises ApiError 400."""
    try:
        values = json.loads(body)
    except UnicodeDecodeError as error:
        raise ApiError.from_encoding(error) from None
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body {unusable_json(error)}.", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    if found := half_surrogate(values):
        place, problem = found
        raise ApiError(400, f"{place}: {problem}.", place, "invalid_value")
    return values


def read_grid(values: dict[str, Any], settings: Settings, info: BackendInfo) -> tuple[Grid, str | None, bool]:
    """Returns the grid, the URL of the image, and whether the client wants the records of tokens.

    Sampling values that are missing have the defaults of the settings, or none where the backend does not read them.

    Raises:
        BadRequest, ApiError: a value is wrong, or the backend would not read it. The message names the value.
    """
    values = {key: value for key, value in values.items() if value is not None}
    image, traces = values.pop("image", None), values.pop("traces", False)
    if image is not None and (not isinstance(image, str) or not image.lower().startswith(("http://", "https://", "data:"))):
        raise BadRequest(f"image must be an http, https or data URL, got {image!r:.80}.")
    if not isinstance(traces, bool):
        raise BadRequest(f"traces must be true or false, got {traces!r:.80}.")
    if traces and not TOKEN_CAPABILITIES & info.capabilities:
        raise ApiError.unsupported("traces", "the backend that runs the model tells no probabilities")
    for axis in ("temperature", "top_p", "top_k"):
        if axis in info.ignored and _has_effect(axis, values.get(axis)):
            raise ApiError.unsupported(axis, "the backend that runs the model does not read it")
    sampling = settings.sampling
    top_k = 0 if "top_k" in info.ignored else sampling.top_k
    defaults = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": top_k}
    return make_grid({**defaults, **values}), image, traces


def _has_effect(axis: str, value: Any) -> bool:
    """Whether a backend that reads the axis would do something with a value of it, which may be of any type."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    return any(one != 0 for one in values) if axis == "top_k" else bool(values)


async def _fetch(source: str, settings: Settings) -> LoadedImage:
    """Loads the image of an untrusted URL. Raises ApiError."""
    try:
        return await image_at(source, settings.image_limits, settings.allowed_media_hosts)
    except ImageError as error:
        raise ApiError.from_demo_error(error, param="image") from None
    except DemoError as error:
        raise ApiError.from_demo_error(error) from None


# --- OpenAPI description -------------------------------------------------------------------------------------------------


def _request_body() -> dict[str, Any]:
    def axis(name: str, kind: str) -> dict[str, Any]:
        bound = BOUNDS[name]
        one = {"type": kind, "minimum": bound.minimum, "maximum": bound.maximum}
        return {"anyOf": [{"type": "array", "items": one, "minItems": 1, "uniqueItems": True}, one], "description": bound.help}

    limit = BOUNDS["max_tokens"]
    properties = {
        "prompt": {"type": "string"},
        "image": {"type": "string", "description": "an http, https or data URL"},
        "temperature": axis("temperature", "number"),
        "top_p": axis("top_p", "number"),
        "top_k": axis("top_k", "integer"),
        "seed": axis("seed", "integer"),
        "max_tokens": {"type": "integer", "minimum": limit.minimum, "maximum": limit.maximum, "default": 64},
        "stop": {"type": "array", "items": {"type": "string"}},
        "title": {"type": "string"},
        "history": {
            "type": "array",
            "description": "the conversation before the prompt, oldest message first",
            "items": {
                "type": "object",
                "required": ["role", "text"],
                "properties": {
                    "role": {"enum": ["user", "assistant"]},
                    "text": {"type": "string"},
                    "image": {"type": "boolean", "description": "whether the image belongs to this message, not to the prompt"},
                },
            },
        },
        "traces": {"type": "boolean", "default": False, "description": "record each token's candidates in the last line"},
    }
    schema = {
        "type": "object",
        "required": ["prompt"],
        "additionalProperties": False,
        "properties": properties,
        "description": f"At most {MAX_CELLS} cells, and {MAX_TOKENS} tokens of all cells together.",
        "example": EXAMPLE,
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _responses() -> dict[int | str, dict[str, Any]]:
    errors: dict[int | str, dict[str, Any]] = {s: {"model": ErrorResponse} for s in (400, 401, 404, 413, 429, 500, 503)}
    lines = {
        "description": "One JSON object a line: start, cell, …, end.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
    return {200: lines, **errors}
