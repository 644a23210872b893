"""What present mode knows of its scenarios: what was rehearsed, what is asked of the model, and what a page may ask."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.config.settings import Settings
from mllama_demo.generation.service import Answer
from mllama_demo.present import presenter
from mllama_demo.present import recording as recordings
from mllama_demo.present.presenter import Presenter, RehearsalStatus
from mllama_demo.present.recording import Recording
from mllama_demo.present.spec import Scenario, read_scenario
from tests.support.manual_backend import READ, CodePoints, ManualBackend, finished

RUN = "r" * 32
DEMO = "title: T\nsteps:\n  - prompt: What is 3 + 4?\n  - prompt: And 1 + 1?\n    continues: true\n"


class Stage:
    """A presenter of one scenario, `demo`, over a backend that answers by hand."""

    def __init__(self, folder: Path, script: str = DEMO) -> None:
        self.folder = folder
        self.settings = Settings(data_dir=folder / "data", scenarios_dir=folder)
        self.backend = ManualBackend()
        self.presenter = Presenter(self.settings, self.backend, CodePoints())  # pyright: ignore[reportArgumentType]
        self.write(script)

    def write(self, script: str) -> None:
        (self.folder / "demo.yaml").write_text(script, encoding="utf-8")

    async def rehearse(self, *answers: str | None) -> RehearsalStatus:
        """What becomes of a rehearsal in which the model says this; None: it takes too long."""

        async def model() -> None:
            for text in answers:
                await self.backend.taken()
                self.backend.send(READ, finished("time_limit") if text is None else finished(text=text))

        speaking = asyncio.ensure_future(model())
        events = [event async for event in self.presenter.rehearse("demo")]
        await speaking
        assert isinstance(events[-1], RehearsalStatus)
        return events[-1]

    async def ask(self, index: int, answer: str) -> Answer:
        """The whole answer to a step to which the model says this."""

        async def model() -> None:
            await self.backend.taken()
            self.backend.send(READ, finished(text=answer))

        speaking = asyncio.ensure_future(model())
        fingerprint = (await asyncio.to_thread(self.presenter.scenario, "demo")).fingerprint(index)
        answers = [moment async for moment in self.presenter.ask("demo", index, RUN, fingerprint)]
        await speaking
        return answers[-1]

    def rehearsal(self) -> RehearsalStatus:
        return self.presenter.rehearsal_status(self.presenter.scenario("demo"))


async def test_a_step_that_broke_off_is_told_from_one_that_was_changed(tmp_path: Path):
    stage = Stage(tmp_path)
    assert (await stage.rehearse("7", None)).recording is not None
    assert stage.rehearsal().state == "failed"
    assert stage.rehearsal().sentence.endswith(", but 1 of 2 steps got no whole answer")
    stage.write(DEMO.replace("3 + 4", "2 + 2"))
    assert stage.rehearsal().state == "old"
    assert stage.rehearsal().sentence.endswith(", but not all of its steps as they are now")


async def test_a_rehearsal_that_broke_off_costs_the_stage_no_answer_that_came_with_the_scenario(tmp_path: Path):
    stage = Stage(tmp_path)
    await stage.rehearse("7", "2")
    scenario = stage.presenter.scenario("demo")
    recordings.place_of(scenario, stage.settings).rename(tmp_path / "demo.recording.json")
    assert await stage.rehearse("7", None) == RehearsalStatus(None, "failed", recordings.NOT_KEPT)
    there = stage.rehearsal()
    assert there.state == "yes"
    assert there.recording is not None
    assert there.recording.step(scenario, 1) is not None


async def test_files_are_read_beside_the_loop_that_streams_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stage, readers = Stage(tmp_path), []
    for reader in (recordings.recording_of, read_scenario):

        def watched(*given: Any, reader: Any = reader) -> Recording | Scenario | None:
            readers.append((reader.__name__, threading.current_thread()))
            return reader(*given)

        monkeypatch.setattr(presenter, reader.__name__, watched)
    await stage.rehearse("7", "2")
    await stage.ask(0, "7")
    assert {name for name, _ in readers} == {"recording_of", "read_scenario"}
    assert threading.current_thread() not in {thread for _, thread in readers}
