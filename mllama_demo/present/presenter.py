"""The logic behind the pages of present mode: lists scenarios, reports how they were rehearsed, and asks steps of the model.

Holds the answers of each presentation under way. Knows no web, no Gradio and no torch.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict, Field

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.chat.token_estimate import TokenEstimate
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT, Settings
from mllama_demo.engine.base import Backend, Client
from mllama_demo.errors import BadRequest, ConfigError, Conflict, Failure, NotFound
from mllama_demo.generation.service import Answer, GenerationService
from mllama_demo.images.threads import in_image_thread
from mllama_demo.present.recording import INCOMPLETE, NOT_SAVED, Recording, find_recording, recording_path, save_recording
from mllama_demo.present.rehearse import ask_step, rehearse
from mllama_demo.present.spec import NAME, Scenario, names, read_scenario

log = logging.getLogger(__name__)
MAX_RUNS = 200
_RUN = re.compile(r"[A-Za-z0-9_-]{32}\Z")
_FOLDERS = re.compile(r"(?<![\w./])/(?:[\w.@+-]+/)+")  # of an absolute path
_NOT_AN_ADMIN = (
    "Rehearsing takes the place of the recorded answers, so that only the users named in the option admins may do it here."
)
_TOO_SMALL = "Made for a larger model: the small one that answers here is lost with photographs, documents and charts."


class AudienceQuestion(BaseModel):
    """A question from the audience, which is not part of the scenario.

    Attributes:
        continues: whether the question continues the conversation of the step. Otherwise it is asked about the image of the step,
            without what was said before.
        earlier: how many questions from the audience were asked at this step before this one; a question that continues continues
            them too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = Field(min_length=1, max_length=4000)
    continues: bool = False
    earlier: int = Field(0, ge=0, le=100)


@dataclass
class PresentationAnswers:
    """The answers of one presentation.

    Attributes:
        steps: the answers so far, by index of the step.
        audience: the questions from the audience with their answers, by index of the step at which they were asked.
    """

    steps: dict[int, str] = field(default_factory=dict)
    audience: dict[int, list[tuple[str, str]]] = field(default_factory=dict)


class Presentations:
    """The presentations under way. The one used longest ago is forgotten first."""

    def __init__(self) -> None:
        self._answers: LRUCache[str, PresentationAnswers] = LRUCache(MAX_RUNS)

    def get(self, run: str, scenario: str) -> PresentationAnswers:
        """The answers of one presentation.

        Args:
            run: the id that the page of the presentation was given.

        Raises:
            BadRequest: the run is no such id.
        """
        if not _RUN.match(run):
            raise BadRequest("The run must be the one that the page was given; reload the page.")
        return self._answers.setdefault(f"{scenario}:{run}", PresentationAnswers())


@dataclass(frozen=True)
class RehearsalStatus:
    """Whether the recording of a scenario can be relied upon.

    Attributes:
        state: "yes" when all is well, "no" without a recording, "other" for another model, "old" for a scenario that was
            changed since, "failed" when an answer is missing or not as expected. Also a CSS class of the pages.
        sentence: the same for people.
    """

    recording: Recording | None
    state: str
    sentence: str


class Presenter:
    """Plays and rehearses the scenarios of a deployment.

    Each method reads the scenario's file again, so that an author can change it while the demo runs. Reading decodes the images;
    the streaming methods therefore read in a thread.
    """

    def __init__(self, settings: Settings, backend: Backend, tokenizer: Tokenizer | TokenEstimate) -> None:
        self._settings, self._backend, self._tokenizer = settings, backend, tokenizer
        self._presentations = Presentations()
        self._rehearsing: set[str] = set()

    def scenario(self, name: str) -> Scenario:
        """The scenario with this name.

        Raises:
            NotFound: there is no such scenario.
            BadRequest: the file of the scenario has a mistake.
        """
        if not NAME.match(name) or name not in names(self._settings.scenarios_dir):
            known = ", ".join(names(self._settings.scenarios_dir)) or "none"
            raise NotFound(f"There is no scenario {name[:80]!r} here; there are: {known}.")
        try:
            return read_scenario(self._settings.scenarios_dir / f"{name}.yaml", self._settings)
        except ConfigError as error:
            log.warning("%s", error)
            raise BadRequest(self._without_folders(error)) from None

    def rehearsal_status(self, scenario: Scenario) -> RehearsalStatus:
        """Whether the scenario as it is now was rehearsed with the model that answers now."""
        try:
            recording = find_recording(scenario, self._settings)
        except ConfigError as error:
            log.warning("%s", error)
            return RehearsalStatus(None, "no", f"Not rehearsed: {self._without_folders(error)}")
        if recording is None:
            return RehearsalStatus(None, "no", "Not rehearsed")
        when = f"Rehearsed on {recording.date}"
        if recording.model != self._backend.info.model:
            if self._backend.status().state != "ready":  # a server tells its model once it answers
                return RehearsalStatus(
                    recording, "other", f"{when} with {recording.model}; which model answers now is not known yet"
                )
            return RehearsalStatus(recording, "other", f"{when} with another model ({recording.model})")
        steps = [recording.step(scenario, index) for index in range(len(scenario.steps))]
        incomplete = sum(recording.is_incomplete(scenario, index) for index in range(len(steps)))
        if steps.count(None) > incomplete:
            return RehearsalStatus(recording, "old", f"{when}, but not all of its steps as they are now")
        if incomplete:
            return RehearsalStatus(recording, "failed", f"{when}, but {incomplete} of {len(steps)} steps got no whole answer")
        failed = sum(bool(step and step.problems) for step in steps)
        if failed:
            return RehearsalStatus(recording, "failed", f"{when}: {failed} of {len(steps)} answers were not as expected")
        return RehearsalStatus(recording, "yes", f"Rehearsed with this model on {recording.date}")

    def _without_folders(self, error: ConfigError) -> Failure:
        """The sentence with names of files in place of their paths, which the operator reads."""
        sentence = str(error)
        for folder in (self._settings.data_dir / "recordings", self._settings.scenarios_dir):
            if folder.parts:
                sentence = sentence.replace(f"{folder}/", "")
        return Failure(_FOLDERS.sub("", sentence), str(error))

    def model_warning(self, scenario: Scenario) -> str:
        """A sentence when the embedded checkpoint answers a scenario that needs a larger model, else empty."""
        return _TOO_SMALL if scenario.script.needs_large_model and self._backend.info.model == EMBEDDED_CHECKPOINT.name else ""

    async def ask(
        self, name: str, index: int, run: str, fingerprint: str, client: Client | None = None
    ) -> AsyncGenerator[Answer, None]:
        """Streams the states of the answer to one step. Closing the stream cancels the request.

        Args:
            name: of the scenario.
            index: of the step.
            run: the id of the presentation.
            fingerprint: of the step that the page shows.
            client: who asks; None for the program itself.

        Raises:
            NotFound: there is no such scenario or step.
            Conflict: the step was changed after the page was opened.
        """
        scenario, answers, known = await self._current(name, index, run, fingerprint)
        async with aclosing(ask_step(self._service(scenario), scenario, index, known, client)) as states:
            async for answer in states:
                if answer.finish is not None and answer.finish.reason not in INCOMPLETE:
                    answers.steps[index] = answer.text
                yield answer

    async def ask_from_audience(
        self, name: str, index: int, run: str, fingerprint: str, asked: AudienceQuestion, client: Client | None = None
    ) -> AsyncGenerator[Answer, None]:
        """Streams the states of the answer to a question from the audience. Closing the stream cancels the request.

        Args: those of `ask`. The question is asked with the sampling values of the deployment.

        Raises:
            BadRequest: the question is empty, or the step to continue has no answer.
            NotFound, Conflict: as in `ask`.
        """
        scenario, answers, known = await self._current(name, index, run, fingerprint)
        question = asked.question.strip()
        if not question:
            raise BadRequest("The question is empty.")
        if not asked.continues:
            image = scenario.images[index]
            conversation = Conversation().add(Message("user", question, None if image is None else ImageRef.of(image)))
        elif index in known:
            conversation = scenario.conversation(index, known).add(Message("assistant", known[index]))
            for earlier_question, answer_text in answers.audience.get(index, [])[: asked.earlier]:
                conversation = conversation.add(Message("user", earlier_question)).add(Message("assistant", answer_text))
            conversation = conversation.add(Message("user", question))
        else:
            raise BadRequest(f"Step {index + 1} was not asked yet, so that no question can continue it.")
        limit, id = scenario.script.time_limit_s, uuid.uuid4().hex
        service = self._service(scenario)
        async with aclosing(service.answer(conversation, self._settings.sampling, id, limit, client)) as states:
            async for answer in states:
                if asked.continues and answer.finish is not None and answer.finish.reason not in INCOMPLETE:
                    turns = answers.audience.setdefault(index, [])
                    turns[asked.earlier :] = [(question, answer.text)]
                yield answer

    async def _current(
        self, name: str, index: int, run: str, fingerprint: str
    ) -> tuple[Scenario, PresentationAnswers, dict[int, str]]:
        """The scenario, the answers of the presentation, and the answers to steps that the page has shown, live or recorded.

        Raises:
            NotFound, Conflict, BadRequest: as in `ask`.
        """
        scenario = await in_image_thread(self.scenario, name)
        exists = 0 <= index < len(scenario.steps)
        if not exists and not fingerprint:
            raise NotFound(f"The scenario {name} has steps 1 to {len(scenario.steps)}.")
        answers = self._presentations.get(run, name)
        if not exists or fingerprint != scenario.fingerprint(index):
            raise Conflict("The scenario was changed; reload the page.")
        known = dict(answers.steps)
        recording = (await in_image_thread(self.rehearsal_status, scenario)).recording
        for number in range(scenario.conversation_start(index), index + 1):  # the page shows these in place of live answers
            found = recording.step(scenario, number) if recording else None
            if number not in known and found is not None:
                known[number] = found.answer
        return scenario, answers, known

    async def rehearse(self, name: str) -> AsyncGenerator[Scenario | Recording | RehearsalStatus, None]:
        """Yields the scenario, the recording so far after each step, and at last the status, without a recording if the recording
        was not saved. Closing the stream saves nothing.

        Raises:
            Conflict: another rehearsal of the scenario is under way.
        """
        scenario, recording = await in_image_thread(self.scenario, name), None
        if name in self._rehearsing:
            raise Conflict("This demo is being rehearsed already; wait until that is done, or stop it there.")
        self._rehearsing.add(name)
        try:
            yield scenario
            async with aclosing(rehearse(self._service(scenario), scenario)) as recordings:
                async for recording in recordings:
                    yield recording
            assert recording is not None  # a scenario has a step
            path = recording_path(scenario, self._settings)
            if await asyncio.to_thread(save_recording, path, recording, scenario, self._settings):
                status = await in_image_thread(self.rehearsal_status, scenario)
                yield replace(status, sentence=f"{status.sentence}. The answers are recorded.")
            else:
                yield RehearsalStatus(None, "failed", NOT_SAVED)
        finally:
            self._rehearsing.discard(name)

    def may_rehearse(self, user: str | None) -> bool:
        return not self.rehearsal_refusal(user)

    def rehearsal_refusal(self, user: str | None) -> str:
        """A sentence why the user may not rehearse, else empty. user is None where nobody signs in."""
        return _NOT_AN_ADMIN if self._settings.users is not None and user not in (self._settings.admins or ()) else ""

    def _service(self, scenario: Scenario) -> GenerationService:
        return GenerationService(self._backend, self._tokenizer, scenario, self._settings)
