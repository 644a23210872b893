"""The routes of present mode. Its pages play a scenario: prepared questions, which the backend and queue of the chat answer.

This module has the routes; events.py has the JSON that they send. present/presenter.py has the logic and knows no web. None of
them knows Gradio or torch.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend, BackendStatus, Client
from mllama_demo.errors import BackendUnavailable, DemoError, Failure, cause_of
from mllama_demo.generation.service import Answer
from mllama_demo.images.threads import image_route
from mllama_demo.present.presenter import AudienceQuestion, Presenter
from mllama_demo.present.spec import names
from mllama_demo.present.web.events import answer_events, cause_entry, rehearsal_events, scenario_json
from mllama_demo.runtime.failures import log_bug, report_failure
from mllama_demo.web.auth.identity import owner_of
from mllama_demo.web.auth.login import signed_in_user
from mllama_demo.web.errors import INTERNAL_ERROR, ApiError
from mllama_demo.web.requests import StaticAssets, client_of, notice_page, require_same_origin
from mllama_demo.web.streaming import NdjsonStream
from mllama_demo.web.templating import render

log = logging.getLogger(__name__)
FOLDER = Path(__file__).resolve().parent
_NO_STORE = {"Cache-Control": "no-store"}
_LOOPBACK = ("127.0.0.1", "::1")
_LOOPBACK_NAMES = ("localhost", *_LOOPBACK)
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def add_present(app: FastAPI, settings: Settings, presenter: Presenter, backend: Backend, brand: Brand) -> None:
    """Adds the routes of present mode to the application."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(require_same_origin)])

    def page(template: str, **values: Any) -> HTMLResponse:
        return HTMLResponse(render(f"present/{template}", brand, **values), headers=_NO_STORE)

    def require_ready() -> None:
        status = backend.status()
        if status.state != "ready":
            raise BackendUnavailable(Failure(*(f"The model is not ready: {why}" for why in _sentence_and_cause(status))))

    @router.get("/present")
    @image_route
    def all_scenarios(request: Request) -> HTMLResponse:
        listed: list[dict[str, Any]] = []
        for name in names(settings.scenarios_dir):
            try:
                scenario = presenter.scenario(name)
                statuses = {"rehearsal": presenter.rehearsal_status(scenario), "too_small": presenter.model_warning(scenario)}
                listed.append({"name": name, "script": scenario.script, **statuses})
            except DemoError as error:
                listed.append({"name": name, "script": None, "error": str(error)})
        return page("list", root=".", scenarios=listed, may_rehearse=presenter.may_rehearse(signed_in_user(request)))

    router.mount("/present/static", StaticAssets(directory=FOLDER / "static"))

    def scenario_page(template: str, name: str, root: str, **values: Any) -> HTMLResponse:
        """Returns a page about one scenario, or an error page if the scenario has a mistake.

        Args:
            root: The relative path from the page to /.
        """
        try:
            scenario = presenter.scenario(name)
        except DemoError as error:
            return notice_page(
                brand, "This demo cannot be played", report_failure(error), error.status, (f"{root}/present", "All demos")
            )
        return page(template, root=root, name=name, scenario=scenario, too_small=presenter.model_warning(scenario), **values)

    @router.get("/present/{name}")
    @image_route
    def play(name: str, request: Request) -> HTMLResponse:
        may_rehearse = presenter.may_rehearse(signed_in_user(request))
        return scenario_page("stage", name, "..", run=secrets.token_urlsafe(24), may_rehearse=may_rehearse)

    @router.get("/present/{name}/notes")
    @image_route
    def notes(name: str) -> HTMLResponse:
        return scenario_page("notes", name, "../..")

    @router.get("/present/{name}/rehearsal")
    @image_route
    def rehearsal(name: str, request: Request) -> HTMLResponse:
        if refusal := presenter.rehearsal_refusal(signed_in_user(request)):
            return notice_page(brand, "You cannot rehearse here", refusal, 403, ("../../present", "All demos"))
        return scenario_page("rehearsal", name, "../..")

    @router.post("/present/{name}/rehearsal")
    async def rehearse_now(name: str, request: Request) -> Response:
        """Streams NDJSON: the fingerprints of all steps, the result of each step, and whether the recording was saved.

        The rehearsal ends when the connection is closed.
        """
        if refusal := presenter.rehearsal_refusal(signed_in_user(request)):
            raise ApiError(403, refusal, code="not_allowed")
        require_ready()
        return await _ndjson_response(rehearsal_events(presenter.rehearse(name)))

    @router.get("/present/{name}/scenario.json")
    @image_route
    def script(name: str) -> JSONResponse:
        scenario = presenter.scenario(name)
        return JSONResponse(scenario_json(scenario, presenter.rehearsal_status(scenario), settings), headers=_NO_STORE)

    @router.get("/present/{name}/images/{digest}")
    @image_route
    def image(name: str, digest: str) -> Response:
        scenario = presenter.scenario(name)
        data = scenario.image_bytes(digest)
        kind = next(image.format for image in scenario.images if image is not None and image.digest == digest)
        return Response(data, media_type=f"image/{kind.lower()}", headers={"Cache-Control": "private, max-age=3600"})

    def asker(request: Request) -> Client:
        return client_of(request, owner_of(request.headers.get("cookie"), signed_in_user(request)) or "")

    async def answer(request: Request, answers: AsyncGenerator[Answer, None]) -> Response:
        """Streams an answer. Whoever may read causes gets the cause of a failure too, for the notes window."""
        with_cause = _may_read_causes(request, settings)
        try:
            require_ready()
            return await _ndjson_response(answer_events(answers, with_cause), with_cause)
        except DemoError as error:
            cause = cause_entry(error) if with_cause else {}
            if not cause:
                raise
            return JSONResponse({"error": {"message": report_failure(error), **cause}}, error.status, _NO_STORE)

    @router.post("/present/{name}/steps/{number}/{run}")
    async def ask(request: Request, name: str, number: int, run: str, fingerprint: str = "") -> Response:
        """Streams NDJSON, one event a line. The last event has `done` or `error`.

        Args:
            number: The number of the step, from 1.
            run: The id that the page of the presentation was given.
            fingerprint: The step's fingerprint in scenario.json.
        """
        return await answer(request, presenter.ask(name, number - 1, run, fingerprint, asker(request)))

    @router.post("/present/{name}/steps/{number}/{run}/question")
    async def ask_from_audience(
        request: Request, name: str, number: int, run: str, asked: AudienceQuestion, fingerprint: str = ""
    ) -> Response:
        """Streams the answer to a question from the audience at this step, as `ask` does."""
        answers = presenter.ask_from_audience(name, number - 1, run, fingerprint, asked, asker(request))
        return await answer(request, answers)

    app.include_router(router)


def _sentence_and_cause(status: BackendStatus) -> tuple[str, str]:
    detail = status.detail or status.state
    return str(detail), cause_of(detail)


def _may_read_causes(request: Request, settings: Settings) -> bool:
    """Whether the presenter may read addresses and exceptions: an admin, or, where nobody signs in, a browser on this machine."""
    if settings.users is not None:
        return signed_in_user(request) in (settings.admins or ())
    # Behind a proxy or a tunnel every client has a loopback address; the name that the browser asked for is another one then.
    client = request.client.host if request.client else ""
    forwarded = any(name in request.headers for name in _FORWARDED)
    return client in _LOOPBACK and _host_name(request) in _LOOPBACK_NAMES and not forwarded


def _host_name(request: Request) -> str:
    """The name in the header Host, without the port; empty for a header that cannot be read."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


async def _ndjson_response(events: AsyncGenerator[dict[str, Any], None], with_cause: bool = False) -> Response:
    """Returns a response with one event a line.

    An exception before the first event is raised here, so that the response has the status of the error. A later exception
    becomes an event, because the status 200 was sent before.
    """
    first = await anext(events)

    async def lines() -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(events):
            try:
                yield first
                async for event in events:
                    yield event
            except DemoError as error:
                yield {"error": report_failure(error), "status": error.status} | (cause_entry(error) if with_cause else {})
            except Exception:
                log_bug(log, "a presentation or a rehearsal failed")
                yield {"error": INTERNAL_ERROR, "status": 500}

    return NdjsonStream(lines())
