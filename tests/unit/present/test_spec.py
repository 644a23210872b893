"""Scenarios are checked by name and place, their answers by shape, and recordings fit only what they were made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllama_demo.cli import main
from mllama_demo.config.settings import SCENARIOS, Settings
from mllama_demo.errors import BadRequest, ConfigError
from mllama_demo.present import recording as recordings
from mllama_demo.present.expectation import Expectation
from mllama_demo.present.recording import RecordedStep, Recording
from mllama_demo.present.spec import Scenario, find, names, read_scenario

TWO = "title: T\nsteps:\n  - prompt: What is 3 + 4?\n    parameters: {temperature: 0}\n"
TWO += "  - prompt: And 1 + 1?\n    continues: true\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "demo.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", names(SCENARIOS))
def test_every_scenario_that_ships_can_be_played(name: str):
    settings = Settings()
    scenario = read_scenario(find(name, settings), settings)
    assert all(step.notes and step.expect for step in scenario.steps)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: T\nsteps:\n  - promt: x\n", "line 3: step 1 prompt is missing"),
        ("title: T\nsteps:\n  - prompt: x\n    note: y\n", "line 4: step 1 note is no key"),
        ("title: T\nsteps:\n  - prompt: x\n    parameters: {temperature: 9}\n", "step 1: temperature"),
        ("title: T\nsteps:\n  - prompt: x\n    image: nowhere.png\n", "step 1: the image"),
        ("title: T\nsteps:\n  - prompt: x\n    continues: true\n", "no step before"),
        ("title: T\nsteps: []\n", "steps is wrong"),
        ("title: T\ntime_limit_s: 0\nsteps:\n  - prompt: x\n", "line 2: time_limit_s is wrong"),
        ("title: T\nneeds_large_model: maybe\nsteps:\n  - prompt: x\n", "line 2: needs_large_model is wrong"),
        ("title: [\n", "not valid YAML, line 2"),
        ("title: T\nsteps:\n  - prompt: x\n    prompt: y\n", "line 4, column 5: prompt is there twice"),
        ("- a\n", "must be a mapping"),
    ],
)
def test_what_is_wrong_is_said_by_place(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=r"demo\.yaml") as error:
        read_scenario(write(tmp_path, text), Settings())
    assert said in str(error.value)


def test_an_unknown_scenario_is_answered_with_a_close_one():
    with pytest.raises(ConfigError, match="did you mean first-look"):
        find("first-lok", Settings())


@pytest.mark.parametrize(
    ("shape", "good", "bad"),
    [
        (Expectation(contains_any=("dog", "puppy")), "A Dog.", "A dogma."),
        (Expectation(contains_all=("red", "blue")), "red and blue", "red"),
        (Expectation(number=3), "There are three.", "There are 30."),
        (Expectation(number=510), "510.00 EUR", "51"),
        (Expectation(yes_no=False), "No, there is none.", "Nothing."),
        (Expectation(min_words=2, max_words=3), "one two", "one two three four"),
        (Expectation(does_not_know=True), "I don’t know that.", "It is Rome."),
    ],
)
def test_an_answer_is_measured_by_its_shape(shape: Expectation, good: str, bad: str):
    assert not shape.problems(good)
    assert shape.problems(bad)


def test_a_follow_up_needs_the_answer_before(tmp_path: Path):
    scenario = read_scenario(write(tmp_path, TWO), Settings())
    assert [m.text for m in scenario.conversation(1, {0: "7"}).messages] == ["What is 3 + 4?", "7", "And 1 + 1?"]
    with pytest.raises(BadRequest, match="step 1, which was not asked"):
        scenario.conversation(1, {})


def test_a_rehearsal_records_what_the_model_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, TWO.replace("    continues: true\n", "    expect: {number: 99}\n"))
    settings = Settings(data_dir=tmp_path)
    assert main(["rehearse", "--scenario", str(path), "--data-dir", str(tmp_path), "--device", "cpu"]) == 1
    assert "the number 99 is not in it" in capsys.readouterr().out
    scenario = read_scenario(path, settings)
    found = recordings.recording_of(scenario, settings)
    assert found is not None
    assert found.model == "embedded"
    first = found.step(scenario, 0)
    assert first is not None
    assert first.answer
    assert not first.problems
    changed = read_scenario(write(tmp_path, TWO.replace("3 + 4", "2 + 2")), settings)
    assert found.step(changed, 0) is None


def test_a_step_has_its_own_time_limit_or_the_scenarios(tmp_path: Path):
    text = TWO.replace("title: T\n", "title: T\ntime_limit_s: 20\n") + "    time_limit_s: 5\n"
    scenario = read_scenario(write(tmp_path, text), Settings())
    assert [scenario.time_limit_s(index) for index in (0, 1)] == [20, 5]


def test_the_scenario_for_the_large_model_says_so_and_no_other_does():
    settings = Settings()
    scripts = {name: read_scenario(find(name, settings), settings).script for name in names(SCENARIOS)}
    assert [name for name, script in scripts.items() if script.needs_large_model] == ["large-model"]
    assert "90B" in scripts["large-model"].model


def recorded(scenario: Scenario, reason: str, answer: str = "7") -> Recording:
    """Of the first step, which ended so."""
    step = RecordedStep(
        fingerprint=scenario.fingerprint(0), prompt="x", answer=answer, reason=reason, prompt_tokens=0, completion_tokens=0,
        ttft_s=None, total_s=0, tokens_per_second=None,
    )  # fmt: skip
    return Recording(scenario="demo", recorded=recordings.now(), model="m", backend="b", device="d", steps={0: step})


@pytest.mark.parametrize("reason", ["error", "time_limit", "cancelled"])
def test_a_step_that_broke_off_has_no_recorded_answer_and_costs_no_earlier_one(tmp_path: Path, reason: str):
    settings = Settings(data_dir=tmp_path / "data")
    scenario, file = read_scenario(write(tmp_path, TWO), settings), tmp_path / "recording.json"
    broken, good = recorded(scenario, reason), recorded(scenario, "end_of_turn")
    assert broken.step(scenario, 0) is None
    assert good.step(scenario, 0) is not None
    assert recordings.keep(file, broken, scenario, settings), "better than nothing"
    assert recordings.keep(file, good, scenario, settings)
    assert not recordings.keep(file, broken, scenario, settings)
    assert recordings.read(file) == good


def test_a_rehearsal_that_broke_off_leaves_the_recording_that_came_with_the_scenario(tmp_path: Path):
    settings = Settings(data_dir=tmp_path / "data")
    scenario = read_scenario(write(tmp_path, TWO), settings)
    place, good = recordings.place_of(scenario, settings), recorded(scenario, "end_of_turn")
    recordings.write(tmp_path / "demo.recording.json", good)
    assert not recordings.keep(place, recorded(scenario, "time_limit"), scenario, settings)
    assert recordings.recording_of(scenario, settings) == good
    changed = read_scenario(write(tmp_path, TWO.replace("3 + 4", "2 + 2")), settings)
    broken = recorded(changed, "time_limit")
    assert recordings.keep(place, broken, changed, settings), "the one that came with it answers another question"


def test_a_recording_that_cannot_be_read_gives_way_to_a_whole_one_only(tmp_path: Path):
    settings = Settings(data_dir=tmp_path)
    scenario = read_scenario(write(tmp_path, TWO), settings)
    place = recordings.place_of(scenario, settings)
    place.parent.mkdir()
    place.write_text("{}")
    assert not recordings.keep(place, recorded(scenario, "error"), scenario, settings)
    assert place.read_text() == "{}"
    assert recordings.keep(place, recorded(scenario, "end_of_turn"), scenario, settings)
