"""/v1/explore: one image and prompt under every combination of some sampling values, as newline-delimited JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from mllama_demo.config.settings import Settings
from mllama_demo.errors import BadRequest, DemoError, ImageError
from mllama_demo.explore.grid import MAX_CELLS, MAX_TOKENS, Grid, make_grid
from mllama_demo.explore.results import Run
from mllama_demo.explore.runner import Explorer, GridRun
from mllama_demo.explore.stream import WENT_WRONG, Line, first_line, lines_of
from mllama_demo.images.fetch import fetch_image
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import BOUNDS
from mllama_demo.web.errors import ApiError, ErrorResponse, of_demo_error
from mllama_demo.web.middleware import CALLER
from mllama_demo.web.streaming import ClientDisconnected, NdjsonStream, while_connected

log = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody reads it
EXAMPLE = {
    "prompt": "What is the capital of Italy?",
    "temperature": [0.5, 1.5],
    "top_k": [0, 10],
    "seed": [1, 2],
    "max_tokens": 32,
}


def explore_routes(explorer: Explorer, settings: Settings, refuse_early: Callable[[], None]) -> APIRouter:
    """refuse_early: raises when the backend would take no question now."""
    router = APIRouter()

    @router.post("/v1/explore", response_class=Response, openapi_extra=_request_body(), responses=_responses())
    async def explore(request: Request) -> Response:
        """Runs a grid. Answers with one JSON object a line: start, then a line for each change of a cell, then end with the whole
        run. A connection that closes stops the cells."""
        values = read_object(await request.body())
        grid, source, traces = read_grid(values, settings)
        refuse_early()
        try:
            image = None if source is None else await while_connected(request.receive, fetched(source, settings))
            run = await explorer.start(grid, image, request.scope[CALLER])
        except ClientDisconnected:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return NdjsonStream(_lines(explorer, run, traces))

    return router


async def _lines(explorer: Explorer, run: GridRun, traces: bool) -> AsyncGenerator[Line, None]:
    async with run:
        kept = run.run()
        yield first_line(run.grid, explorer.estimate(run.grid), kept.id)
        try:
            async with aclosing(lines_of(run)) as lines:
                async for line in lines:
                    yield line
            kept = run.run()
            yield {"event": "end", "run": (kept if traces else without_traces(kept)).model_dump(mode="json")}
        except Exception:
            log.exception("a grid could not be run")
            yield {"event": "error", "error": WENT_WRONG}


def without_traces(run: Run) -> Run:
    """The run with its tokens, but nothing of what else each of them could have been."""
    bare = lambda cell: cell.model_copy(  # noqa: E731
        update={"tokens": tuple(token.model_copy(update={"trace": None}) for token in cell.tokens)}
    )
    return run.model_copy(update={"cells": tuple(map(bare, run.cells))})


# --- what comes in -------------------------------------------------------------------------------------------------------


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises ApiError 400."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or "it cannot be read"
        raise ApiError(400, f"The body is not valid JSON: {reason}.", code="invalid_json") from None
    if not isinstance(values, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    return values


def read_grid(values: dict[str, Any], settings: Settings) -> tuple[Grid, str | None, bool]:
    """The grid, the image's address, and whether the records of tokens are wanted. What is left out has the deployment's value.

    Raises BadRequest naming what is wrong.
    """
    values = {key: value for key, value in values.items() if value is not None}
    image, traces = values.pop("image", None), values.pop("traces", False)
    if image is not None and (not isinstance(image, str) or not image.lower().startswith(("http://", "https://", "data:"))):
        raise BadRequest(f"image must be an http, https or data URL, got {image!r:.80}.")
    if not isinstance(traces, bool):
        raise BadRequest(f"traces must be true or false, got {traces!r:.80}.")
    sampling = settings.sampling
    defaults = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return make_grid({**defaults, **values}), image, traces


async def fetched(source: str, settings: Settings) -> LoadedImage:
    """The image behind an address that a stranger wrote. Raises ApiError."""
    try:
        return await asyncio.to_thread(fetch_image, source, settings.image_limits, allowed_hosts=settings.allowed_media_hosts)
    except ImageError as error:
        raise of_demo_error(error, param="image") from None
    except DemoError as error:
        raise of_demo_error(error) from None


# --- description ---------------------------------------------------------------------------------------------------------


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
