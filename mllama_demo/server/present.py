"""Present mode: light pages that play a scenario, with answers from the same backend and queue as the chat's.

Knows no Gradio and no torch. The answers so far of one run of a scenario are kept here, not in the browser.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import Environment, FileSystemLoader

from mllama_demo.answer import Answer, Answerer
from mllama_demo.backend.base import Backend
from mllama_demo.brand import Brand
from mllama_demo.config import EMBEDDED_CHECKPOINT, Settings
from mllama_demo.errors import BackendUnavailable, BadRequest, ConfigError, Conflict, DemoError, NotFound
from mllama_demo.scenarios.recording import BROKEN_OFF, NOT_KEPT, Recording, keep, place_of, recording_of
from mllama_demo.scenarios.rehearse import ask_step, rehearse
from mllama_demo.scenarios.spec import NAME, Scenario, names, read_scenario
from mllama_demo.server.api_errors import ApiError
from mllama_demo.server.login import user_of
from mllama_demo.server.origin import refuse_other_sites
from mllama_demo.server.streaming import LineStream
from mllama_demo.token_estimate import TokenEstimate
from mllama_demo.tokenizer import Tokenizer

log = logging.getLogger(__name__)
PAGES = Path(__file__).resolve().parents[1] / "scenarios" / "page"
ASSETS = {
    "present.js": "text/javascript",
    "rehearsal.js": "text/javascript",
    "lines.js": "text/javascript",
    "present.css": "text/css",
}
MAX_RUNS = 200
_RUN = re.compile(r"[A-Za-z0-9_-]{32}\Z")
_NO_STORE = {"Cache-Control": "no-store"}
_NOT_YOU = "Rehearsing takes the place of the recorded answers, so that only the users named in the option admins may do it here."
_NOT_A_KIOSK = "This is a kiosk, where nobody rehearses; use the verb: python -m mllama_demo rehearse."
_TOO_SMALL = "Made for a larger model: the small one that answers here is lost with photographs, documents and charts."


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
    """Reads scenarios anew for each page, so that one may be written while the demo runs.

    Reading one decodes its pictures: in a thread, wherever streams are waiting.
    """

    def __init__(self, settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate) -> None:
        self._settings, self._backend, self._tokenizer = settings, backend, tokenizer
        self._runs = Runs()
        self._rehearsing: set[str] = set()

    def scenario(self, name: str) -> Scenario:
        """Raises NotFound, and BadRequest for a file that is wrong: the operator's, not the server's mistake."""
        if not NAME.match(name) or name not in names(self._settings.scenarios_dir):
            known = ", ".join(names(self._settings.scenarios_dir)) or "none"
            raise NotFound(f"There is no scenario {name[:80]!r} here; there are: {known}.")
        try:
            return read_scenario(self._settings.scenarios_dir / f"{name}.yaml", self._settings)
        except ConfigError as error:
            raise BadRequest(str(error)) from None

    def rehearsal(self, scenario: Scenario) -> tuple[Recording | None, str, str]:
        """(recording, state, sentence): whether it was rehearsed as it is now with the model that answers now."""
        try:
            recording = recording_of(scenario, self._settings)
        except ConfigError as error:
            log.warning("%s", error)
            return None, "no", f"Not rehearsed: {error}"
        return recording, *self._rehearsed(scenario, recording)

    def _rehearsed(self, scenario: Scenario, recording: Recording | None) -> tuple[str, str]:
        if recording is None:
            return "no", "Not rehearsed"
        if recording.model != self._backend.info.model:
            if self._backend.status().state != "ready":  # a server tells its model once it answers
                return "other", f"Rehearsed on {recording.date} with {recording.model}; which model answers now is not known yet"
            return "other", f"Rehearsed on {recording.date} with another model ({recording.model})"
        steps = [recording.step(scenario, index) for index in range(len(scenario.steps))]
        broken = sum(recording.broke_off(scenario, index) for index in range(len(steps)))
        if broken and steps.count(None) == broken:
            return "failed", f"Rehearsed on {recording.date}, but {broken} of {len(steps)} steps got no whole answer"
        if None in steps:
            return "old", f"Rehearsed on {recording.date}, but not all of its steps as they are now"
        failed = sum(bool(step and step.problems) for step in steps)
        if failed:
            return "failed", f"Rehearsed on {recording.date}: {failed} of {len(steps)} answers were not as expected"
        return "yes", f"Rehearsed with this model on {recording.date}"

    def too_small(self, scenario: Scenario) -> str:
        """A sentence where the scenario was made for a larger model than the one that answers; else empty."""
        return _TOO_SMALL if scenario.script.needs_large_model and self._backend.info.model == EMBEDDED_CHECKPOINT.name else ""

    def plain(self, scenario: Scenario) -> dict[str, Any]:
        """All that the page needs, so that it can go on when the server is gone."""
        recording, state, sentence = self.rehearsal(scenario)
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
                    "limit_s": min(scenario.time_limit_s(index), self._settings.request_time_limit_s),
                    "recorded": recorded,
                    "fingerprint": scenario.fingerprint(index),
                }
            )
        return {"title": scenario.script.title, "rehearsed": state, "sentence": sentence, "steps": steps}

    async def ask(self, name: str, index: int, run: str, fingerprint: str) -> AsyncGenerator[dict[str, Any], None]:
        """Events of one step's answer; errors before the first are raised, later ones are the last event.

        fingerprint: of the step that the page shows, whose file may have been changed since.
        """
        scenario = await asyncio.to_thread(self.scenario, name)
        there = 0 <= index < len(scenario.steps)
        if not there and not fingerprint:
            raise NotFound(f"The scenario {name} has steps 1 to {len(scenario.steps)}.")
        answers = self._runs.of(run, name)
        if not there or fingerprint != scenario.fingerprint(index):
            raise Conflict("The scenario was changed; reload the page.")
        known = dict(answers)
        recording = (await asyncio.to_thread(self.rehearsal, scenario))[0]
        for number in range(scenario.first_of(index), index):  # what the audience was shown instead of a live answer
            found = recording.step(scenario, number) if recording else None
            if number not in known and found is not None:
                known[number] = found.answer
        sent = ""
        async with aclosing(ask_step(self._answerer(scenario), scenario, index, known)) as moments:
            async for answer in moments:
                event = _event(answer, sent)
                if "done" in event:
                    answers[index] = answer.text
                yield event
                sent = answer.text

    async def rehearse(self, name: str) -> AsyncGenerator[dict[str, Any], None]:
        """The fingerprints of all steps, an event for each step's result, and what became of the recording. Raises Conflict
        while another rehearsal of the scenario is under way. Closing the stream keeps nothing."""
        scenario, recording = await asyncio.to_thread(self.scenario, name), None
        if name in self._rehearsing:
            raise Conflict("This demo is being rehearsed already; wait until that is done, or stop it there.")
        self._rehearsing.add(name)
        try:
            yield {"steps": [scenario.fingerprint(index) for index in range(len(scenario.steps))]}
            async with aclosing(rehearse(self._answerer(scenario), scenario)) as recordings:
                async for recording in recordings:
                    yield _result(recording)
            assert recording is not None  # a scenario has a step
            if await asyncio.to_thread(keep, place_of(scenario, self._settings), recording, scenario, self._settings):
                _, state, sentence = await asyncio.to_thread(self.rehearsal, scenario)
                yield {"kept": True, "state": state, "sentence": f"{sentence}. The answers are recorded."}
            else:
                yield {"kept": False, "state": "failed", "sentence": NOT_KEPT}
        finally:
            self._rehearsing.discard(name)

    def may_rehearse(self, user: str | None) -> str:
        """Empty, or a sentence why the user (None: nobody signs in) may not."""
        if self._settings.kiosk:
            return _NOT_A_KIOSK
        return _NOT_YOU if self._settings.users is not None and user not in (self._settings.admins or ()) else ""

    def _answerer(self, scenario: Scenario) -> Answerer:
        return Answerer(self._backend, self._tokenizer, scenario, self._settings)


def add_present(app: FastAPI, settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate, brand: Brand) -> None:
    """The routes of present mode."""
    presenter = Presenter(settings, backend, tokenizer)
    pages = Environment(loader=FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    router = APIRouter(include_in_schema=False, dependencies=[Depends(refuse_other_sites)])

    def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
        text = pages.get_template(template).render(brand=brand, **values)
        return HTMLResponse(text, status, _NO_STORE)

    def refuse_unready() -> None:
        status = backend.status()
        if status.state != "ready":
            raise BackendUnavailable(f"The model is not ready: {status.detail or status.state}")

    @router.get("/present")
    def all_scenarios(request: Request) -> HTMLResponse:
        listed: list[dict[str, Any]] = []
        for name in names(settings.scenarios_dir):
            try:
                scenario = presenter.scenario(name)
                _, state, sentence = presenter.rehearsal(scenario)
                told = {"state": state, "sentence": sentence, "too_small": presenter.too_small(scenario)}
                listed.append({"name": name, "script": scenario.script, **told})
            except DemoError as error:
                listed.append({"name": name, "script": None, "error": str(error)})
        return page("list.html.jinja", root=".", scenarios=listed, may_rehearse=not presenter.may_rehearse(user_of(request)))

    @router.get("/present/assets/{name}")
    def asset(name: str) -> Response:
        if name not in ASSETS:
            raise NotFound(f"There is no file {name[:80]!r} here.")
        return Response((PAGES / name).read_bytes(), media_type=ASSETS[name], headers={"Cache-Control": "no-cache"})

    def of_scenario(template: str, name: str, root: str, **values: Any) -> HTMLResponse:
        """A page about one scenario, or about what is wrong with it. root: the way from there to /."""
        try:
            scenario = presenter.scenario(name)
        except DemoError as error:
            return page("wrong.html.jinja", error.status, root=root, heading="This demo cannot be played", error=str(error))
        return page(template, root=root, name=name, scenario=scenario, too_small=presenter.too_small(scenario), **values)

    @router.get("/present/{name}")
    def play(name: str, request: Request) -> HTMLResponse:
        may = not presenter.may_rehearse(user_of(request))
        return of_scenario("stage.html.jinja", name, "..", run=secrets.token_urlsafe(24), may_rehearse=may)

    @router.get("/present/{name}/notes")
    def notes(name: str) -> HTMLResponse:
        return of_scenario("notes.html.jinja", name, "../..")

    @router.get("/present/{name}/rehearsal")
    def rehearsal(name: str, request: Request) -> HTMLResponse:
        if refusal := presenter.may_rehearse(user_of(request)):
            return page("wrong.html.jinja", 403, root="../..", heading="You cannot rehearse here", error=refusal)
        return of_scenario("rehearsal.html.jinja", name, "../..")

    @router.post("/present/{name}/rehearsal")
    async def rehearse_now(name: str, request: Request) -> Response:
        """NDJSON: the steps' fingerprints, a result of each, and what became of the recording. Ends with its connection."""
        if refusal := presenter.may_rehearse(user_of(request)):
            raise ApiError(403, refusal, code="not_allowed")
        refuse_unready()
        return await _lines(presenter.rehearse(name))

    @router.get("/present/{name}/scenario.json")
    def scenario_json(name: str) -> JSONResponse:
        return JSONResponse(presenter.plain(presenter.scenario(name)), headers=_NO_STORE)

    @router.get("/present/{name}/images/{digest}")
    def image(name: str, digest: str) -> Response:
        scenario = presenter.scenario(name)
        data = scenario.image_bytes(digest)
        kind = next(image.format for image in scenario.images if image is not None and image.digest == digest)
        return Response(data, media_type=f"image/{kind.lower()}", headers={"Cache-Control": "private, max-age=3600"})

    @router.post("/present/{name}/steps/{number}/{run}")
    async def ask(name: str, number: int, run: str, fingerprint: str = "") -> Response:
        """NDJSON: one event a line, the last with `done` or `error`. number: from 1. fingerprint: scenario.json's."""
        refuse_unready()
        return await _lines(presenter.ask(name, number - 1, run, fingerprint))

    app.include_router(router)


async def _lines(events: AsyncGenerator[dict[str, Any], None]) -> Response:
    """Sends events as lines. What is raised before the first is raised here, so that it gets a status of its own."""
    first = await anext(events)

    async def lines() -> AsyncGenerator[str, None]:
        async with aclosing(events):
            try:
                yield json.dumps(first)
                async for event in events:
                    yield json.dumps(event)
            except DemoError as error:
                yield json.dumps({"error": str(error)})
            except Exception:
                log.exception("a step of a presentation failed")
                yield json.dumps({"error": "Something went wrong in the server; its log has the cause."})

    return LineStream(lines())


_BROKEN_OFF_WORDS = {
    "time_limit": "The answer took longer than the step's time limit.",
    "cancelled": "The answer was ended from elsewhere.",
}


def _result(recording: Recording) -> dict[str, Any]:
    """What came of the last step of a rehearsal so far."""
    index = len(recording.steps) - 1
    step = recording.steps[index]
    figures = {"ttft_s": step.ttft_s, "total_s": step.total_s, "tokens": step.completion_tokens}
    figures["tokens_per_second"] = step.tokens_per_second
    return {"step": index + 1, "answer": step.answer, "problems": step.problems, **figures}


def _event(answer: Answer, sent: str) -> dict[str, Any]:
    finish = answer.finish
    if finish is not None and finish.reason in BROKEN_OFF:
        return {"error": finish.error or _BROKEN_OFF_WORDS.get(finish.reason, "The answer failed.")}
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
