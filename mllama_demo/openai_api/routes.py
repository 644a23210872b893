"""The OpenAI-compatible routes: chat completions, models, health, version and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive

import mllama_demo
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend, QueueEvent
from mllama_demo.errors import DemoError
from mllama_demo.openai_api.completion import Completion, CompletionService
from mllama_demo.openai_api.logprobs import LOGPROB_CAPABILITIES
from mllama_demo.openai_api.response_schema import Capabilities, ChatChunk, ChatCompletion, Health, Model, Models, Version
from mllama_demo.openai_api.schema import ChatRequest
from mllama_demo.runtime.failures import log_bug
from mllama_demo.runtime.json_input import unusable_json
from mllama_demo.web.errors import CLIENT_CLOSED_REQUEST, INTERNAL_CODE, INTERNAL_ERROR, LOADING_RETRY_S, ApiError, ErrorResponse
from mllama_demo.web.metrics import MeasuredBackend, Metrics
from mllama_demo.web.middleware import CALLER, ApiKeys, ApiMiddleware
from mllama_demo.web.streaming import KEEP_ALIVE_S, ClientDisconnected, EventStream, while_connected

log = logging.getLogger(__name__)

_SHOWN = 80  # characters of a request that an error repeats
IGNORED = "X-Ignored-Fields"  # the header of an answer that names what had no effect
_HEADER_NAME = re.compile(r"[\w.-]{1,40}", re.ASCII)
_MAX_IGNORED = 20
DONE = "data: [DONE]"  # the last event of a stream
# The method that each endpoint takes, for the errors 404 and 405.
_METHOD_OF = {"/v1/chat/completions": "POST", "/v1/models": "GET", "/v1/explore": "POST"}
# FastAPI's detail for an exception of the JSON parser other than a malformed text.
_UNPARSED = "There was an error parsing the body"
_ALL_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the descriptions of error responses for /openapi.json."""
    return {status: {"model": ErrorResponse} for status in statuses}


class ServedModels:
    """The names that requests may use for the model. A server has one model."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self._backend = backend
        self._own_names = settings.served_model_name
        # Requests may name the model by its path, as with vLLM. The path is not listed, because it shows folders of this machine.
        self._unlisted = () if settings.served_model_name else (str(settings.model_path),)
        self._created = int(time.time())

    @property
    def names(self) -> Sequence[str]:
        """The names that are served now. A remote server that answers for this one can change its model at any time."""
        return self._own_names or [self._backend.info.model]

    def resolve(self, name: str | None) -> str:
        """Returns the name that the response has.

        Raises:
            ApiError: 404, the name is not served.
        """
        if name is None:
            return self.names[0]
        if name in self.names or name.rstrip("/") in self._unlisted:
            return name
        served = " and ".join(self.names)
        raise ApiError(404, f"The model {name[:_SHOWN]!r} does not exist; this server has {served}.", "model", "model_not_found")

    def describe(self, name: str) -> Model:
        info = self._backend.info
        capabilities = Capabilities(
            images="images" in info.capabilities,
            images_per_prompt=int("images" in info.capabilities),
            seed="seed" in info.capabilities,
            logprobs=bool(LOGPROB_CAPABILITIES & info.capabilities),
        )
        return Model(
            id=name,
            created=self._created,
            owned_by="mllama_demo",
            root=info.model,
            max_model_len=info.told_context,
            capabilities=capabilities,
        )


def add_api(
    app: FastAPI,
    settings: Settings,
    backend: MeasuredBackend,
    tokenizer: Tokenizer | TokenEstimate,
    metrics: Metrics,
    database_failure: Callable[[], str | None] = lambda: None,
) -> None:
    """Adds the routes, the handlers of errors, and the middleware that checks the key and the size of a request.

    Args:
        database_failure: Returns why the database of conversations does not answer; None while it does.
    """
    models = ServedModels(settings, backend)
    app.include_router(_monitoring_routes(backend, metrics, database_failure))
    app.include_router(_v1_routes(backend, models, CompletionService(settings, backend, tokenizer), metrics))
    app.add_middleware(ApiMiddleware, keys=ApiKeys(settings.api_keys or ()), max_request_bytes=settings.max_request_bytes)
    _add_error_handlers(app, backend)
    _remove_422_from_openapi(app)


# --- health, version and metrics -----------------------------------------------------------------------------------------


def _monitoring_routes(backend: Backend, metrics: Metrics, database_failure: Callable[[], str | None]) -> APIRouter:
    router = APIRouter()

    # A coroutine: it is answered also while every thread is busy.
    @router.get("/health", response_model=Health, responses={503: {"model": Health}})
    async def health() -> JSONResponse:
        """200 when a question could be answered and stored now, 503 with the reason otherwise."""
        status = backend.status()
        body: dict[str, Any] = {name: getattr(status, name) for name in ("running", "waiting", "slots")} | {
            "status": status.state
        }
        if status.replicas:
            body["replicas"] = [
                {"name": one.name, "status": one.state, "running": one.running, "waiting": one.waiting, "slots": one.slots}
                for one in status.replicas
            ]
        reason = status.detail if status.state != "ready" else database_failure()
        if reason is None:
            return JSONResponse(body)
        headers = {"Retry-After": str(LOADING_RETRY_S)}
        return JSONResponse({**body, "reason": reason}, status_code=503, headers=headers)

    @router.get("/version")
    async def version() -> Version:
        return Version(version=mllama_demo.__version__)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def render_metrics() -> Response:
        """For Prometheus: vLLM's names, and mllama_demo_… for what vLLM does not have."""
        content, content_type = metrics.render()
        return Response(content, media_type=content_type)

    return router


# --- the API -------------------------------------------------------------------------------------------------------------


def _v1_routes(backend: MeasuredBackend, models: ServedModels, completer: CompletionService, metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/models", responses=_errors(401))
    def list_models() -> Models:
        return Models(data=[models.describe(name) for name in models.names])

    @router.get("/v1/models/{model:path}", responses=_errors(401, 404))
    def one_model(model: str) -> Model:
        return models.describe(models.resolve(model))

    @router.post(
        "/v1/chat/completions",
        response_model=ChatCompletion,
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **_errors(400, 401, 404, 413, 429, 500, 503),
        },
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """The model's next turn; with stream: true as server-sent events."""
        model = models.resolve(body.model)
        backend.require_capacity()
        try:
            completion = await while_connected(request.receive, completer.begin(body, model, request.scope[CALLER]))
            ignored = _ignored_header(body)
            if body.stream:
                streamed = await _streamed(completion, request.receive)
                streamed.headers.update(ignored)
                return streamed
            response = await while_connected(request.receive, completion.whole())
        except ClientDisconnected:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(response.model_dump_json(), media_type="application/json", headers=ignored)

    @router.api_route("/v1/{path:path}", methods=_ALL_METHODS, include_in_schema=False)
    def unknown_endpoint(path: str, request: Request) -> Response:
        method = _METHOD_OF.get(f"/v1/{path}") or ("GET" if path.startswith("models/") else None)
        if method is None:
            known = ", ".join(_METHOD_OF)
            return ApiError(404, f"There is no /v1/{path[:_SHOWN]} here; there are {known}.", code="not_found").response()
        error = ApiError(405, f"/v1/{path[:_SHOWN]} takes {method} requests, not {request.method}.", code="method_not_allowed")
        return error.response({"Allow": method})

    return router


def _ignored_header(body: ChatRequest) -> dict[str, str]:
    """The header with the names of the ignored fields, of those that a header can hold."""
    names = [name for name in body.ignored if _HEADER_NAME.fullmatch(name)]
    return {IGNORED: ", ".join(names[:_MAX_IGNORED])} if names else {}


async def _streamed(completion: Completion, receive: Receive) -> Response:
    """The answer as a stream. A refusal that comes within KEEP_ALIVE_S has its own status; a later one is an event.

    Raises:
        ApiError, DemoError: the refusal.
        ClientDisconnected: nobody reads the answer.
    """
    chunks = completion.chunks()
    first = asyncio.ensure_future(anext(chunks))
    try:
        await while_connected(receive, asyncio.wait((first,), timeout=KEEP_ALIVE_S))
        if first.done():
            first.result()
    except BaseException:
        first.cancel()
        await asyncio.wait((first,))
        await chunks.aclose()
        raise
    return EventStream(_events(first, chunks, completion))


async def _events(
    first: asyncio.Future[ChatChunk | QueueEvent], rest: AsyncGenerator[ChatChunk | QueueEvent, None], completion: Completion
) -> AsyncGenerator[str, None]:
    """Yields server-sent events. An error after the first event becomes an event, because the status 200 was sent before."""
    async with aclosing(rest):
        try:
            yield _event(await first)
            async for chunk in rest:
                yield _event(chunk)
        except ApiError as error:
            yield _error_event(error)
        except DemoError as error:
            yield _error_event(ApiError.from_demo_error(error))
        except Exception:
            log_bug(log, "completion %s failed", completion.id)
            yield _error_event(_internal_error(reason=""))
    yield DONE


def _event(item: ChatChunk | QueueEvent) -> str:
    if isinstance(item, QueueEvent):  # a comment line: clients skip it, and proxies do not close an idle connection
        wait = "" if item.estimated_wait_s is None else f", about {item.estimated_wait_s:.0f} s"
        return f": waiting, number {item.position} in line{wait}"
    return f"data: {item.model_dump_json(exclude_unset=True)}"


def _error_event(error: ApiError) -> str:
    return f"data: {json.dumps(error.body())}"


# --- OpenAPI -----------------------------------------------------------------------------------------------------------------


def _remove_422_from_openapi(app: FastAPI) -> None:
    """Removes the response 422 from /openapi.json. FastAPI adds it, but this server answers a bad request with 400."""
    describe = app.openapi

    def without_422() -> dict[str, Any]:
        description = describe()
        for path in description["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return description

    app.openapi = without_422  # type: ignore[method-assign]  # the way that FastAPI documents


# --- errors --------------------------------------------------------------------------------------------------------------


def _internal_error(reason: str | None = None) -> ApiError:
    return ApiError(500, INTERNAL_ERROR, code=INTERNAL_CODE, reason=reason)


def _add_error_handlers(app: FastAPI, backend: Backend) -> None:
    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def demo_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, DemoError)
        return ApiError.from_demo_error(error, wait_s=backend.status().estimated_wait_s).response()

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return ApiError.from_validation(error.errors()).response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "bad_request")
        sentence = str(error.detail)
        if sentence == _UNPARSED:
            sentence, code = f"The body {unusable_json(error.__cause__ or error)}.", "invalid_json"
        sentence = sentence if sentence.endswith(".") else f"{sentence}."
        converted = ApiError(error.status_code, sentence, code=code, reason=getattr(error, "reason", None))
        if isinstance(error.__cause__, UnicodeDecodeError):  # FastAPI could not read the body
            converted = ApiError.from_encoding(error.__cause__)
        return converted.response(error.headers)

    async def unexpected(request: Request, error: Exception) -> Response:
        return _internal_error().response()  # Starlette logs the traceback

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(DemoError, demo_error)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)
