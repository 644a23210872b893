"""Present mode: light pages that play a scenario, with answers from the same backend and queue as the chat's.

Knows no Gradio and no torch. The answers so far of one run of a scenario are kept here, not in the browser.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from jinja2 import Environment, FileSystemLoader

import mllama_demo
from mllama_demo.answer import Answer, Answerer
from mllama_demo.backend.base import Backend
from mllama_demo.config import Settings
from mllama_demo.errors import BackendUnavailable, BadRequest, ConfigError, DemoError, NotFound
from mllama_demo.scenarios.recording import Recording, recording_of
from mllama_demo.scenarios.spec import NAME, Scenario, names, read_scenario
from mllama_demo.server.origin import refuse_other_sites
from mllama_demo.token_estimate import TokenEstimate
from mllama_demo.tokenizer import Tokenizer

log = logging.getLogger(__name__)
PAGES = Path(__file__).resolve().parents[1] / "scenarios" / "page"
ASSETS = {"present.js": "text/javascript", "present.css": "text/css"}
MAX_RUNS = 200
_RUN = re.compile(r"[A-Za-z0-9_-]{32}\Z")
_NO_STORE = {"Cache-Control": "no-store"}


@dataclass
class Runs:
    """The answers of the presentations under way, the longest untouched forgotten first."""

    _answers: OrderedDict[str, dict[int, str]] = field(default_factory=OrderedDict)

    def of(self, run: str, scenario: str) -> dict[int, str]:
        """The answers so far, by step. Raises BadRequest for what no page of ours would send."""
        if not _RUN.match(run):
            raise BadRequest("The run must be the one that the page was given; reload the page.")
        answers = self._answers.pop(f"{scenario}:{run}", {})
        self._answers[f"{scenario}:{run}"] = answers
        while len(self._answers) > MAX_RUNS:
            self._answers.popitem(last=False)
        return answers


class Presenter:
    """Reads scenarios anew for each page, so that one may be written while the demo runs."""

    def __init__(self, settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate) -> None:
        self._settings, self._backend, self._tokenizer = settings, backend, tokenizer
        self._runs = Runs()

    def scenario(self, name: str) -> Scenario:
        if not NAME.match(name) or name not in names(self._settings.scenarios_dir):
            known = ", ".join(names(self._settings.scenarios_dir)) or "none"
            raise NotFound(f"There is no scenario {name[:80]!r} here; there are: {known}.")
        return read_scenario(self._settings.scenarios_dir / f"{name}.yaml", self._settings)

    def recording(self, scenario: Scenario) -> Recording | None:
        try:
            return recording_of(scenario, self._settings)
        except ConfigError as error:
            log.warning("%s", error)
            return None

    def rehearsed(self, scenario: Scenario, recording: Recording | None) -> tuple[str, str]:
        """(state, sentence): whether it was rehearsed as it is now with the model that answers now."""
        if recording is None:
            return "no", "Not rehearsed"
        if recording.model != self._backend.info.model:
            return "other", f"Rehearsed on {recording.date} with another model ({recording.model})"
        steps = [recording.step(scenario, index) for index in range(len(scenario.steps))]
        if None in steps:
            return "old", f"Rehearsed on {recording.date}, but not all of its steps as they are now"
        failed = sum(bool(step and step.problems) for step in steps)
        if failed:
            return "failed", f"Rehearsed on {recording.date}: {failed} of {len(steps)} answers were not as expected"
        return "yes", f"Rehearsed with this model on {recording.date}"

    def plain(self, scenario: Scenario) -> dict[str, Any]:
        """All that the page needs, so that it can go on when the server is gone."""
        recording = self.recording(scenario)
        state, sentence = self.rehearsed(scenario, recording)
        steps = []
        for index, step in enumerate(scenario.steps):
            found = recording.step(scenario, index) if recording else None
            recorded = None
            if found is not None and recording is not None:
                recorded = {"text": found.answer, "total_s": found.total_s, "date": recording.date, "model": recording.model}
            image, sampling = scenario.images[index], scenario.samplings[index]
            steps.append(
                {
                    "title": step.title,
                    "prompt": step.prompt.strip(),
                    "continues": step.continues,
                    "notes": step.notes.strip(),
                    "image": None if image is None else f"{scenario.name}/images/{image.digest}",
                    "parameters": _shown(sampling),
                    "recorded": recorded,
                }
            )
        return {"title": scenario.script.title, "rehearsed": state, "sentence": sentence, "steps": steps}

    async def ask(self, name: str, index: int, run: str) -> AsyncGenerator[dict[str, Any], None]:
        """Events of one step's answer; errors before the first are raised, later ones are the last event."""
        scenario = self.scenario(name)
        if not 0 <= index < len(scenario.steps):
            raise NotFound(f"The scenario {name} has steps 1 to {len(scenario.steps)}.")
        answers = self._runs.of(run, name)
        known = dict(answers)
        recording = self.recording(scenario)
        for number in range(scenario.first_of(index), index):  # what the audience was shown instead of a live answer
            found = recording.step(scenario, number) if recording else None
            if number not in known and found is not None:
                known[number] = found.answer
        conversation = scenario.conversation(index, known)
        answerer = Answerer(self._backend, self._tokenizer, scenario, self._settings)
        sent = ""
        async with aclosing(answerer.answer(conversation, scenario.samplings[index], uuid.uuid4().hex)) as moments:
            async for answer in moments:
                yield _event(answer, sent)
                sent = answer.text
                if answer.finish is not None and answer.finish.reason != "error":
                    answers[index] = answer.text


def add_present(app: FastAPI, settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate) -> None:
    """The routes of present mode."""
    presenter = Presenter(settings, backend, tokenizer)
    pages = Environment(loader=FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    router = APIRouter(include_in_schema=False, dependencies=[Depends(refuse_other_sites)])

    def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
        text = pages.get_template(template).render(site=settings.title, version=mllama_demo.__version__, **values)
        return HTMLResponse(text, status, _NO_STORE)

    @router.get("/present")
    def all_scenarios() -> HTMLResponse:
        listed = []
        for name in names(settings.scenarios_dir):
            try:
                scenario = presenter.scenario(name)
                state, sentence = presenter.rehearsed(scenario, presenter.recording(scenario))
                listed.append({"name": name, "script": scenario.script, "state": state, "sentence": sentence, "error": ""})
            except DemoError as error:
                listed.append({"name": name, "script": None, "state": "no", "sentence": "", "error": str(error)})
        return page("list.html.jinja", scenarios=listed)

    @router.get("/present/assets/{name}")
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound(f"There is no file {name[:80]!r} here.")
        return Response((PAGES / name).read_bytes(), media_type=ASSETS[name], headers={"Cache-Control": "no-cache"})

    def stage(name: str, view: str) -> HTMLResponse:
        try:
            scenario = presenter.scenario(name)
        except DemoError as error:
            status = 404 if isinstance(error, NotFound) else 400
            return page("wrong.html.jinja", status, error=str(error))
        return page("stage.html.jinja", name=name, scenario=scenario, run=secrets.token_urlsafe(24), view=view)

    @router.get("/present/{name}")
    def play(name: str) -> HTMLResponse:
        return stage(name, "stage")

    @router.get("/present/{name}/notes")
    def notes(name: str) -> HTMLResponse:
        return stage(name, "notes")

    @router.get("/present/{name}/scenario.json")
    def scenario_json(name: str) -> JSONResponse:
        try:
            return JSONResponse(presenter.plain(presenter.scenario(name)), headers=_NO_STORE)
        except ConfigError as error:  # the operator's file, not the server, is what is wrong
            raise BadRequest(str(error)) from None

    @router.get("/present/{name}/images/{digest}")
    def image(name: str, digest: str) -> Response:
        scenario = presenter.scenario(name)
        data = scenario.image_bytes(digest)
        kind = next(image.format for image in scenario.images if image is not None and image.digest == digest)
        return Response(data, media_type=f"image/{kind.lower()}", headers={"Cache-Control": "private, max-age=3600"})

    @router.post("/present/{name}/steps/{number}/{run}")
    async def ask(name: str, number: int, run: str) -> Response:
        """NDJSON: one event a line, the last with `done` or `error`. number: from 1."""
        status = backend.status()
        if status.state != "ready":
            raise BackendUnavailable(status.detail or "The model is not ready.")
        events = presenter.ask(name, number - 1, run)
        try:
            first = await anext(events)
        except ConfigError as error:
            raise BadRequest(str(error)) from None
        return StreamingResponse(_lines(first, events), media_type="application/x-ndjson", headers=_NO_STORE)

    app.include_router(router)


async def _lines(first: dict[str, Any], rest: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[str, None]:
    async with aclosing(rest):
        try:
            yield json.dumps(first) + "\n"
            async for event in rest:
                yield json.dumps(event) + "\n"
        except DemoError as error:
            yield json.dumps({"error": str(error)}) + "\n"
        except Exception:
            log.exception("a step of a presentation failed")
            yield json.dumps({"error": "Something went wrong in the server; its log has the cause."}) + "\n"


def _event(answer: Answer, sent: str) -> dict[str, Any]:
    finish = answer.finish
    if finish is not None and finish.reason == "error":
        return {"error": finish.error or "The answer failed."}
    event: dict[str, Any] = {"phase": answer.phase, "text": answer.text[len(sent) :]}
    if answer.position is not None:
        event |= {"position": answer.position, "wait_s": answer.estimated_wait_s}
    if finish is not None:
        speed = finish.timings.tokens_per_second(finish.completion_tokens)
        event["done"] = {"tokens": finish.completion_tokens, "total_s": finish.timings.total_s, "tokens_per_second": speed}
    return event


def _shown(sampling: Any) -> str:
    """The parameters of a step, small print."""
    if sampling.greedy:
        return f"greedy · at most {sampling.max_tokens} tokens"
    seed = "" if sampling.seed is None else f" · seed {sampling.seed}"
    return (
        f"temperature {sampling.temperature:g} · top_p {sampling.top_p:g} · top_k {sampling.top_k}"
        f" · at most {sampling.max_tokens} tokens{seed}"
    )
