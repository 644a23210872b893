"""Presenter: the status of rehearsals, and which thread reads files."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.config.settings import Settings
from mllama_demo.errors import BadRequest, cause_of
from mllama_demo.generation.service import Answer
from mllama_demo.present import presenter
from mllama_demo.present import recording as recordings
from mllama_demo.present.presenter import AudienceQuestion, Presenter, RehearsalStatus
from mllama_demo.present.recording import Recording
from mllama_demo.present.spec import Scenario, read_scenario
from tests.support.code_points import CodePoints
from tests.support.manual_backend import READ, ManualBackend, finished

RUN = "r" * 32
DEMO = "title: T\nsteps:\n  - prompt: What is 3 + 4?\n  - prompt: And 1 + 1?\n    continues: true\n"


class Stage:
    """A Presenter with one scenario, `demo`, on a ManualBackend."""

    def __init__(self, folder: Path, script: str = DEMO) -> None:
        self.folder = folder
        self.settings = Settings(data_dir=folder / "data", scenarios_dir=folder)
        self.backend = ManualBackend()
        self.presenter = Presenter(self.settings, self.backend, CodePoints())  # pyright: ignore[reportArgumentType]
        self.write(script)

    def write(self, script: str) -> None:
        (self.folder / "demo.yaml").write_text(script, encoding="utf-8")

    async def rehearse(self, *answers: str | None) -> RehearsalStatus:
        """The last event of a rehearsal with these answers. None: the answer reaches the time limit."""

        async def model() -> None:
            for text in answers:
                await self.backend.taken()
                self.backend.send(READ, finished("time_limit") if text is None else finished(text=text))

        answering = asyncio.ensure_future(model())
        events = [event async for event in self.presenter.rehearse("demo")]
        await answering
        assert isinstance(events[-1], RehearsalStatus)
        return events[-1]

    async def ask(self, index: int, answer: str) -> Answer:
        """The last state of the answer to a step."""

        async def model() -> None:
            await self.backend.taken()
            self.backend.send(READ, finished(text=answer))

        answering = asyncio.ensure_future(model())
        fingerprint = (await asyncio.to_thread(self.presenter.scenario, "demo")).fingerprint(index)
        answers = [state async for state in self.presenter.ask("demo", index, RUN, fingerprint)]
        await answering
        return answers[-1]

    async def ask_from_audience(self, index: int, question: str, answer: str, **options: Any) -> None:
        async def model() -> None:
            await self.backend.taken()
            self.backend.send(READ, finished(text=answer))

        answering = asyncio.ensure_future(model())
        fingerprint = (await asyncio.to_thread(self.presenter.scenario, "demo")).fingerprint(index)
        asked = AudienceQuestion(question=question, **options)
        async for _ in self.presenter.ask_from_audience("demo", index, RUN, fingerprint, asked):
            pass
        await answering

    def conversation(self) -> list[str]:
        """The turns of the newest request."""
        return [turn.text for turn in self.backend.requests[-1].messages if turn.role != "system"]

    def status(self) -> RehearsalStatus:
        return self.presenter.rehearsal_status(self.presenter.scenario("demo"))


async def test_the_status_tells_incomplete_steps_from_changed_ones(tmp_path: Path):
    stage = Stage(tmp_path)
    assert (await stage.rehearse("7", None)).recording is not None
    assert stage.status().state == "failed"
    assert stage.status().sentence.endswith(", but 1 of 2 steps got no whole answer")
    stage.write(DEMO.replace("3 + 4", "2 + 2"))
    assert stage.status().state == "old"
    assert stage.status().sentence.endswith(", but not all of its steps as they are now")


async def test_an_incomplete_rehearsal_does_not_replace_the_recording_beside_the_scenario(tmp_path: Path):
    stage = Stage(tmp_path)
    await stage.rehearse("7", "2")
    scenario = stage.presenter.scenario("demo")
    recordings.recording_path(scenario, stage.settings).rename(tmp_path / "demo.recording.json")
    assert await stage.rehearse("7", None) == RehearsalStatus(None, "failed", recordings.NOT_SAVED)
    status = stage.status()
    assert status.state == "yes"
    assert status.recording is not None
    assert status.recording.step(scenario, 1) is not None


async def test_streaming_methods_read_files_outside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stage, readers = Stage(tmp_path), []
    for reader in (recordings.find_recording, read_scenario):

        def watched(*given: Any, reader: Any = reader) -> Recording | Scenario | None:
            readers.append((reader.__name__, threading.current_thread()))
            return reader(*given)

        monkeypatch.setattr(presenter, reader.__name__, watched)
    await stage.rehearse("7", "2")
    await stage.ask(0, "7")
    assert {name for name, _ in readers} == {"find_recording", "read_scenario"}
    assert threading.current_thread() not in {thread for _, thread in readers}


class TestQuestionsFromTheAudience:
    async def test_a_question_that_continues_follows_the_answer_on_stage_and_earlier_questions(self, tmp_path: Path):
        stage = Stage(tmp_path)
        await stage.ask(0, "Seven.")
        await stage.ask_from_audience(0, "Why?", "Because.", continues=True)
        await stage.ask_from_audience(0, "Really?", "Yes.", continues=True, earlier=1)
        assert stage.conversation() == ["What is 3 + 4?", "Seven.", "Why?", "Because.", "Really?"]
        await stage.ask_from_audience(0, "Why not?", "No.", continues=True)  # the first question was asked again, in other words
        assert stage.conversation() == ["What is 3 + 4?", "Seven.", "Why not?"]
        await stage.ask_from_audience(0, "So?", "So.", continues=True, earlier=1)
        assert stage.conversation() == ["What is 3 + 4?", "Seven.", "Why not?", "No.", "So?"]

    async def test_a_question_that_does_not_continue_has_a_conversation_of_its_own_and_changes_no_step(self, tmp_path: Path):
        stage = Stage(tmp_path)
        await stage.ask(0, "Seven.")
        await stage.ask_from_audience(0, "Who are you?", "A model.")
        assert stage.conversation() == ["Who are you?"]
        await stage.ask(1, "Two.")
        assert stage.conversation() == ["What is 3 + 4?", "Seven.", "And 1 + 1?"]


@pytest.mark.parametrize("image", ["nowhere.png", "/srv/pictures/private/nowhere.png"])
def test_a_mistake_in_a_scenario_is_told_without_folders(tmp_path: Path, image: str) -> None:
    stage = Stage(tmp_path, f"title: T\nsteps:\n  - prompt: x\n    image: {image}\n")
    with pytest.raises(BadRequest) as caught:
        stage.presenter.scenario("demo")
    assert str(caught.value).startswith("The scenario demo.yaml, line 3: step 1: the image nowhere.png is no file")
    assert str(tmp_path / "demo.yaml") in cause_of(caught.value)


def test_a_recording_that_cannot_be_read_is_told_without_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(tmp_path)
    path = tmp_path / "data" / "recordings" / "demo.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    status = stage.presenter.rehearsal_status(stage.presenter.scenario("demo"))
    assert status.sentence.startswith("Not rehearsed: The recording demo.json cannot be read")
    assert str(path) in caplog.text
