"""Present mode without its pages: which scenarios there are, what was rehearsed, and steps asked of the model.

Knows no web, no Gradio and no torch. The answers so far of one run of a scenario are kept here, not in the browser.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT, Settings
from mllama_demo.engine.base import Backend
from mllama_demo.errors import BadRequest, ConfigError, Conflict, NotFound
from mllama_demo.generation.service import Answer, GenerationService
from mllama_demo.present.recording import BROKEN_OFF, NOT_KEPT, Recording, keep, place_of, recording_of
from mllama_demo.present.rehearse import ask_step, rehearse
from mllama_demo.present.spec import NAME, Scenario, names, read_scenario

log = logging.getLogger(__name__)
MAX_RUNS = 200
_RUN = re.compile(r"[A-Za-z0-9_-]{32}\Z")
_NOT_YOU = "Rehearsing takes the place of the recorded answers, so that only the users named in the option admins may do it here."
_NOT_A_KIOSK = "This is a kiosk, where nobody rehearses; use the command: python -m mllama_demo rehearse."
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


@dataclass(frozen=True)
class Rehearsal:
    """What is recorded, and how far that may be relied upon: a word for programs and a sentence for people."""

    recording: Recording | None
    state: str
    sentence: str


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

    def rehearsal(self, scenario: Scenario) -> Rehearsal:
        """Whether it was rehearsed as it is now with the model that answers now."""
        try:
            recording = recording_of(scenario, self._settings)
        except ConfigError as error:
            log.warning("%s", error)
            return Rehearsal(None, "no", f"Not rehearsed: {error}")
        if recording is None:
            return Rehearsal(None, "no", "Not rehearsed")
        when = f"Rehearsed on {recording.date}"
        if recording.model != self._backend.info.model:
            if self._backend.status().state != "ready":  # a server tells its model once it answers
                return Rehearsal(recording, "other", f"{when} with {recording.model}; which model answers now is not known yet")
            return Rehearsal(recording, "other", f"{when} with another model ({recording.model})")
        steps = [recording.step(scenario, index) for index in range(len(scenario.steps))]
        broken = sum(recording.broke_off(scenario, index) for index in range(len(steps)))
        if steps.count(None) > broken:
            return Rehearsal(recording, "old", f"{when}, but not all of its steps as they are now")
        if broken:
            return Rehearsal(recording, "failed", f"{when}, but {broken} of {len(steps)} steps got no whole answer")
        failed = sum(bool(step and step.problems) for step in steps)
        if failed:
            return Rehearsal(recording, "failed", f"{when}: {failed} of {len(steps)} answers were not as expected")
        return Rehearsal(recording, "yes", f"Rehearsed with this model on {recording.date}")

    def too_small(self, scenario: Scenario) -> str:
        """A sentence where the scenario was made for a larger model than the one that answers; else empty."""
        return _TOO_SMALL if scenario.script.needs_large_model and self._backend.info.model == EMBEDDED_CHECKPOINT.name else ""

    async def ask(self, name: str, index: int, run: str, fingerprint: str) -> AsyncGenerator[Answer, None]:
        """One step's answer as it grows. Closing the stream cancels the request.

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
        recording = (await asyncio.to_thread(self.rehearsal, scenario)).recording
        for number in range(scenario.first_of(index), index):  # what the audience was shown instead of a live answer
            found = recording.step(scenario, number) if recording else None
            if number not in known and found is not None:
                known[number] = found.answer
        async with aclosing(ask_step(self._answerer(scenario), scenario, index, known)) as moments:
            async for answer in moments:
                if answer.finish is not None and answer.finish.reason not in BROKEN_OFF:
                    answers[index] = answer.text
                yield answer

    async def rehearse(self, name: str) -> AsyncGenerator[Scenario | Recording | Rehearsal, None]:
        """The scenario, the recording so far after each of its steps, and what became of it, without a recording if it was not
        kept. Raises Conflict while another rehearsal of the scenario is under way. Closing the stream keeps nothing."""
        scenario, recording = await asyncio.to_thread(self.scenario, name), None
        if name in self._rehearsing:
            raise Conflict("This demo is being rehearsed already; wait until that is done, or stop it there.")
        self._rehearsing.add(name)
        try:
            yield scenario
            async with aclosing(rehearse(self._answerer(scenario), scenario)) as recordings:
                async for recording in recordings:
                    yield recording
            assert recording is not None  # a scenario has a step
            place = place_of(scenario, self._settings)
            if await asyncio.to_thread(keep, place, recording, scenario, self._settings):
                kept = await asyncio.to_thread(self.rehearsal, scenario)
                yield replace(kept, sentence=f"{kept.sentence}. The answers are recorded.")
            else:
                yield Rehearsal(None, "failed", NOT_KEPT)
        finally:
            self._rehearsing.discard(name)

    def may_rehearse(self, user: str | None) -> str:
        """Empty, or a sentence why the user (None: nobody signs in) may not."""
        if self._settings.kiosk:
            return _NOT_A_KIOSK
        return _NOT_YOU if self._settings.users is not None and user not in (self._settings.admins or ()) else ""

    def _answerer(self, scenario: Scenario) -> GenerationService:
        return GenerationService(self._backend, self._tokenizer, scenario, self._settings)
