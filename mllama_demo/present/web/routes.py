"""The routes of present mode. Its pages play a scenario: prepared questions, which the backend and queue of the chat answer.

This module has the routes and the JSON that they send. present/presenter.py has the logic and knows no web. Neither module knows
Gradio or torch.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from mllama_demo.config.branding import Brand
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Backend
from mllama_demo.errors import BackendUnavailable, DemoError
from mllama_demo.generation.service import Answer
from mllama_demo.present.presenter import Presenter, RehearsalStatus
from mllama_demo.present.recording import INCOMPLETE, Recording
from mllama_demo.present.spec import Scenario, names
from mllama_demo.sampling import SamplingParams
from mllama_demo.web.auth.login import signed_in_user
from mllama_demo.web.errors import INTERNAL_ERROR, ApiError
from mllama_demo.web.requests import StaticAssets, notice_page, require_same_origin
from mllama_demo.web.streaming import NdjsonStream
from mllama_demo.web.templating import render

log = logging.getLogger(__name__)
FOLDER = Path(__file__).resolve().parent
_NO_STORE = {"Cache-Control": "no-store"}


def add_present(app: FastAPI, settings: Settings, presenter: Presenter, backend: Backend, brand: Brand) -> None:
    """Adds the routes of present mode to the application."""
    router = APIRouter(include_in_schema=False, dependencies=[Depends(require_same_origin)])

    def page(template: str, **values: Any) -> HTMLResponse:
        return HTMLResponse(render(f"present/{template}", brand, **values), headers=_NO_STORE)

    def require_ready() -> None:
        status = backend.status()
        if status.state != "ready":
            raise BackendUnavailable(f"The model is not ready: {status.detail or status.state}")

    @router.get("/present")
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
            return notice_page(brand, "This demo cannot be played", str(error), error.status, (f"{root}/present", "All demos"))
        return page(template, root=root, name=name, scenario=scenario, too_small=presenter.model_warning(scenario), **values)

    @router.get("/present/{name}")
    def play(name: str, request: Request) -> HTMLResponse:
        may_rehearse = presenter.may_rehearse(signed_in_user(request))
        return scenario_page("stage", name, "..", run=secrets.token_urlsafe(24), may_rehearse=may_rehearse)

    @router.get("/present/{name}/notes")
    def notes(name: str) -> HTMLResponse:
        return scenario_page("notes", name, "../..")

    @router.get("/present/{name}/rehearsal")
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
        return await _ndjson_response(_rehearsal_events(presenter.rehearse(name)))

    @router.get("/present/{name}/scenario.json")
    def scenario_json(name: str) -> JSONResponse:
        scenario = presenter.scenario(name)
        return JSONResponse(_scenario_json(scenario, presenter.rehearsal_status(scenario), settings), headers=_NO_STORE)

    @router.get("/present/{name}/images/{digest}")
    def image(name: str, digest: str) -> Response:
        scenario = presenter.scenario(name)
        data = scenario.image_bytes(digest)
        kind = next(image.format for image in scenario.images if image is not None and image.digest == digest)
        return Response(data, media_type=f"image/{kind.lower()}", headers={"Cache-Control": "private, max-age=3600"})

    @router.post("/present/{name}/steps/{number}/{run}")
    async def ask(name: str, number: int, run: str, fingerprint: str = "") -> Response:
        """Streams NDJSON, one event a line. The last event has `done` or `error`.

        Args:
            number: The number of the step, from 1.
            run: The id that the page of the presentation was given.
            fingerprint: The step's fingerprint in scenario.json.
        """
        require_ready()
        return await _ndjson_response(_answer_events(presenter.ask(name, number - 1, run, fingerprint)))

    app.include_router(router)


async def _ndjson_response(events: AsyncGenerator[dict[str, Any], None]) -> Response:
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
                yield {"error": str(error)}
            except Exception:
                log.exception("a presentation or a rehearsal failed")
                yield {"error": INTERNAL_ERROR}

    return NdjsonStream(lines())


_INCOMPLETE_REASONS = {
    "time_limit": "The answer took longer than the step's time limit.",
    "cancelled": "The answer was ended from elsewhere.",
}


def _scenario_json(scenario: Scenario, rehearsal: RehearsalStatus, settings: Settings) -> dict[str, Any]:
    """Returns all that the page needs to play the scenario without the server."""
    recording, steps = rehearsal.recording, []
    for index, step in enumerate(scenario.steps):
        recorded = None
        if recording is not None and (answer := recording.step(scenario, index)) is not None:
            recorded = {"text": answer.answer, "total_s": answer.total_s, "date": recording.date, "model": recording.model}
        image = scenario.images[index]
        steps.append(
            {
                "title": step.title,
                "prompt": step.prompt.strip(),
                "continues": step.continues,
                "notes": step.notes.strip(),
                "image": None if image is None else f"{scenario.name}/images/{image.digest}",
                "parameters": _sampling_text(scenario.samplings[index]),
                "limit_s": min(scenario.time_limit_s(index), settings.request_time_limit_s),
                "recorded": recorded,
                "fingerprint": scenario.fingerprint(index),
            }
        )
    return {"title": scenario.script.title, "rehearsed": rehearsal.state, "sentence": rehearsal.sentence, "steps": steps}


async def _rehearsal_events(
    events: AsyncGenerator[Scenario | Recording | RehearsalStatus, None],
) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Scenario):
                yield {"steps": [event.fingerprint(index) for index in range(len(event.steps))]}
            elif isinstance(event, Recording):
                yield _step_result(event)
            else:
                yield {"kept": event.recording is not None, "state": event.state, "sentence": event.sentence}


def _step_result(recording: Recording) -> dict[str, Any]:
    """Returns the result of the last step in the recording, which is the step that just ended."""
    index = len(recording.steps) - 1
    step = recording.steps[index]
    figures = {"ttft_s": step.ttft_s, "total_s": step.total_s, "tokens": step.completion_tokens}
    figures["tokens_per_second"] = step.tokens_per_second
    return {"step": index + 1, "answer": step.answer, "problems": step.problems, **figures}


async def _answer_events(answers: AsyncGenerator[Answer, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Yields the phase and the new text for each state of an answer."""
    sent = ""
    async with aclosing(answers):
        async for answer in answers:
            yield _answer_event(answer, sent)
            sent = answer.text


def _answer_event(answer: Answer, sent: str) -> dict[str, Any]:
    finish = answer.finish
    if finish is not None and finish.reason in INCOMPLETE:
        return {"error": finish.error or _INCOMPLETE_REASONS.get(finish.reason, "The answer failed.")}
    event: dict[str, Any] = {"phase": answer.phase, "text": answer.text[len(sent) :]}
    if answer.position is not None:
        event |= {"position": answer.position, "wait_s": answer.estimated_wait_s}
    if finish is not None:
        speed = finish.timings.tokens_per_second(finish.completion_tokens)
        event["done"] = {"tokens": finish.completion_tokens, "total_s": finish.timings.total_s, "tokens_per_second": speed}
    return event


def _sampling_text(sampling: SamplingParams) -> str:
    """Returns the sampling values of a step as text."""
    if sampling.greedy:
        return f"greedy · at most {sampling.max_tokens} tokens"
    seed = "" if sampling.seed is None else f" · seed {sampling.seed}"
    return (
        f"temperature {sampling.temperature:g} · top_p {sampling.top_p:g} · top_k {sampling.top_k}"
        f" · at most {sampling.max_tokens} tokens{seed}"
    )
