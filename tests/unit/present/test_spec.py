# pyright: reportCallIssue=false
"""Scenario files, expectations and recordings."""

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
def test_every_shipped_scenario_is_valid(name: str):
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
        ("", "got nothing"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_step(tmp_path: Path, text: str, said: str):
    with pytest.raises(ConfigError, match=r"demo\.yaml") as error:
        read_scenario(write(tmp_path, text), Settings())
    assert said in str(error.value)


def test_an_unknown_scenario_name_suggests_a_similar_one():
    with pytest.raises(ConfigError, match="did you mean first-look"):
        find("first-lok", Settings())


@pytest.mark.parametrize(
    ("expectation", "good", "bad"),
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
def test_an_answer_is_checked_against_its_expectation(expectation: Expectation, good: str, bad: str):
    assert not expectation.problems(good)
    assert expectation.problems(bad)


def test_a_step_that_continues_needs_the_answer_before(tmp_path: Path):
    scenario = read_scenario(write(tmp_path, TWO), Settings())
    assert [m.text for m in scenario.conversation(1, {0: "7"}).messages] == ["What is 3 + 4?", "7", "And 1 + 1?"]
    with pytest.raises(BadRequest, match="step 1, which was not asked"):
        scenario.conversation(1, {})


def test_the_command_rehearse_records_the_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, TWO.replace("    continues: true\n", "    expect: {number: 99}\n"))
    settings = Settings(data_dir=tmp_path)
    assert main(["rehearse", "--scenario", str(path), "--data-dir", str(tmp_path), "--device", "cpu"]) == 1
    assert "the number 99 is not in it" in capsys.readouterr().out
    scenario = read_scenario(path, settings)
    found = recordings.find_recording(scenario, settings)
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


def test_only_the_scenario_large_model_needs_a_large_model():
    settings = Settings()
    scripts = {name: read_scenario(find(name, settings), settings).script for name in names(SCENARIOS)}
    assert [name for name, script in scripts.items() if script.needs_large_model] == ["large-model"]
    assert "90B" in scripts["large-model"].model


def recorded(scenario: Scenario, reason: str, answer: str = "7") -> Recording:
    """A recording of the first step, which ended for this reason."""
    step = RecordedStep(
        fingerprint=scenario.fingerprint(0), prompt="x", answer=answer, reason=reason, prompt_tokens=0, completion_tokens=0,
        ttft_s=None, total_s=0, tokens_per_second=None,
    )  # fmt: skip
    return Recording(scenario="demo", recorded=recordings.now(), model="m", backend="b", device="d", steps={0: step})


@pytest.mark.parametrize("reason", ["error", "time_limit", "cancelled"])
def test_an_incomplete_step_has_no_recorded_answer_and_replaces_no_complete_one(tmp_path: Path, reason: str):
    settings = Settings(data_dir=tmp_path / "data")
    scenario, file = read_scenario(write(tmp_path, TWO), settings), tmp_path / "recording.json"
    incomplete, good = recorded(scenario, reason), recorded(scenario, "end_of_turn")
    assert incomplete.step(scenario, 0) is None
    assert good.step(scenario, 0) is not None
    assert recordings.save_recording(file, incomplete, scenario, settings), "better than nothing"
    assert recordings.save_recording(file, good, scenario, settings)
    assert not recordings.save_recording(file, incomplete, scenario, settings)
    assert recordings.read_recording(file) == good


def test_an_incomplete_recording_does_not_replace_the_recording_beside_the_scenario(tmp_path: Path):
    settings = Settings(data_dir=tmp_path / "data")
    scenario = read_scenario(write(tmp_path, TWO), settings)
    path, good = recordings.recording_path(scenario, settings), recorded(scenario, "end_of_turn")
    recordings.write_recording(tmp_path / "demo.recording.json", good)
    assert not recordings.save_recording(path, recorded(scenario, "time_limit"), scenario, settings)
    assert recordings.find_recording(scenario, settings) == good
    changed = read_scenario(write(tmp_path, TWO.replace("3 + 4", "2 + 2")), settings)
    incomplete = recorded(changed, "time_limit")
    assert recordings.save_recording(path, incomplete, changed, settings), (
        "the recording beside the scenario has another question"
    )


def test_an_unreadable_recording_is_replaced_by_a_complete_one_only(tmp_path: Path):
    settings = Settings(data_dir=tmp_path)
    scenario = read_scenario(write(tmp_path, TWO), settings)
    path = recordings.recording_path(scenario, settings)
    path.parent.mkdir()
    path.write_text("{}")
    assert not recordings.save_recording(path, recorded(scenario, "error"), scenario, settings)
    assert path.read_text() == "{}"
    assert recordings.save_recording(path, recorded(scenario, "end_of_turn"), scenario, settings)
