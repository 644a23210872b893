"""Runs of the training: learning, saving, resuming, pausing, finishing early, and its configuration and command line."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.checkpoint.validate import check_checkpoint
from tests.contract.training.test_training import ALONE, SMALL
from training.__main__ import main
from training.dialogue import ChatFormat
from training.model import Student, make_config
from training.optimizer import Optimizer
from training.plan import DEFAULT, PlanError, read_plan
from training.talk.exchange import Exchange
from training.team import Team, work_together
from training.train import CURVE, STOP_FILE, Run, Stage, copy_of, layers, learning_rate


@pytest.fixture(scope="module")
def chat(tokenizer: Tokenizer) -> ChatFormat:
    return ChatFormat(tokenizer)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As training does: threads that wait for each other make small steps slow on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def often_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the curve every other step, so that few steps are enough."""
    monkeypatch.setattr("training.train.LOG_EVERY", 2)


def test_the_learning_rate_rises_stays_and_falls_to_the_end():
    stage = Stage("see", minutes=10, rate=1.0, batch=4, seed=1)
    assert learning_rate(stage, 0, 0) < 0.1
    assert learning_rate(stage, 100, 60) == 1.0
    assert 0.4 < learning_rate(stage, 100, 480) < 0.6
    assert learning_rate(stage, 100, 600) <= 0.01


def _one_batch(chat: ChatFormat) -> tuple[torch.Tensor, torch.Tensor]:
    row = chat.encode([Exchange("sum", "What is 2 + 2?", "4.")], None)
    return torch.tensor([row.ids] * 2), torch.tensor([row.labels] * 2)


@pytest.fixture
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which every step of training takes a twentieth of a second, however busy the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr("training.train._clock", lambda device: lambda: next(ticks) / 20)


def _student_and_optimizer(folder: Path, chat: ChatFormat) -> tuple[Run, Optimizer]:
    torch.manual_seed(5)
    student = Student(make_config(SMALL, chat.image, chat.begin, chat.end, chat.pad))
    embedding = student.model.model.vision_model.patch_embedding
    return Run(folder, student, ALONE), Optimizer([(student, 1.0)], layers(student), embedding, 3e-3, ALONE)


def _run(folder: Path, chat: ChatFormat, minutes: float, until: dict[str, float] | None = None) -> Run:
    run, optimizer = _student_and_optimizer(folder, chat)
    ids, labels = _one_batch(chat)
    stage = Stage("talk", minutes, 3e-3, 2, 1, until=until or {})
    run.train(stage, optimizer, lambda size, seed: itertools.repeat(ids), lambda _: (run.student.talk_loss(ids, labels), {}))
    return run


@pytest.mark.slow
def test_a_run_learns_saves_its_curve_and_does_nothing_when_it_is_done(tmp_path, chat, steady_clock):
    run = _run(tmp_path, chat, 0.1)
    curve = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    again = _run(tmp_path, chat, 0.1)
    assert again.done == ["talk"]
    assert again.step == run.step
    weights = zip(run.student.parameters(), again.student.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, chat, steady_clock):
    run, optimizer = _student_and_optimizer(tmp_path, chat)
    run.stage, run.step, run.spent_s = "talk", 70, 5.9
    run.save(optimizer)
    resumed = _run(tmp_path, chat, 0.1)
    assert 70 < resumed.step < 80
    assert resumed.done == ["talk"]


def test_a_stage_ends_when_its_goals_are_reached(tmp_path, chat, steady_clock, often_logged):
    run = _run(tmp_path, chat, 100.0, until={"loss": 2.0})  # the mean rises from 0 towards a loss of about 7
    assert run.done == ["talk"]
    assert run.step == 4
    assert run.took_s["talk"] < 1


@pytest.mark.parametrize("how", ["clock", "file"])
def test_a_run_pauses_with_its_state_and_goes_on(tmp_path, chat, steady_clock, often_logged, how):
    run, optimizer = _student_and_optimizer(tmp_path, chat)
    ids, labels = _one_batch(chat)
    if how == "clock":
        run.pause_at = 0.0
    else:
        (tmp_path / STOP_FILE).touch()
    stage = Stage("talk", 100, 3e-3, 2, 1)
    run.train(stage, optimizer, lambda size, seed: itertools.repeat(ids), lambda _: (run.student.talk_loss(ids, labels), {}))
    assert run.paused
    assert run.step == 2
    again = Run(tmp_path, run.student, ALONE)
    assert (again.stage, again.step, again.done) == ("talk", 2, [])


def test_a_run_is_finished_early_from_a_copy(tmp_path, chat, steady_clock):
    """Stage "finish" goes on with the weights and the momenta of stage "talk", and leaves the state of the run as it was."""
    run, optimizer = _student_and_optimizer(tmp_path, chat)
    run.stage, run.step, run.spent_s = "talk", 70, 5.9
    ids, labels = _one_batch(chat)
    run.student.talk_loss(ids, labels).backward()
    optimizer.step(1e-3)
    run.save(optimizer)
    before = (tmp_path / "state.pt").read_bytes()
    other, again = _student_and_optimizer(tmp_path / "finish", chat)
    other.load(tmp_path / "state.pt")
    other.train(
        Stage("finish", 0.003, 3e-3, 2, 1, decay=1.0, goes_on=("talk",)),
        again,
        lambda size, seed: itertools.repeat(ids),
        lambda _: (other.student.talk_loss(ids, labels), {}),
    )
    assert other.done == ["finish"]
    momenta = [state["momentum"] for state in again.state_dict()[0]["state"].values()]
    assert any(momentum.abs().max() > 0 for momentum in momenta)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert (tmp_path / "finish" / "state.pt").is_file()


def test_a_second_copy_begins_with_the_run_as_it_is_then_and_an_unfinished_one_is_resumed(tmp_path, chat):
    run, optimizer = _student_and_optimizer(tmp_path, chat)
    run.stage, run.step, run.done = "talk", 70, ["see"]
    run.save(optimizer)
    (tmp_path / CURVE).write_text("see\ntalk\n")
    first = copy_of(tmp_path, run.student, ALONE)
    assert (first.stage, first.step, first.done) == ("talk", 70, ["see"])
    first.stage, first.step = "finish", 10
    first.save(optimizer)
    (first.folder / CURVE).write_text("see\ntalk\nfinish\n")
    resumed = copy_of(tmp_path, run.student, ALONE)
    assert (resumed.stage, resumed.step) == ("finish", 10)
    assert (resumed.folder / CURVE).read_text() == "see\ntalk\nfinish\n"
    resumed.done.append("finish")
    resumed.save(optimizer)
    run.step = 90
    run.save(optimizer)
    (tmp_path / CURVE).write_text("see\ntalk\ntalk\n")
    second = copy_of(tmp_path, run.student, ALONE)
    assert (second.stage, second.step, second.done) == ("talk", 90, ["see"])
    assert (second.folder / CURVE).read_text() == "see\ntalk\ntalk\n"


class _OneStep:
    """In the place of an optimizer: keeps the gradients of a step and changes nothing."""

    def __init__(self, student: Student) -> None:
        self.params = list(student.parameters())
        self.grads: list[torch.Tensor] = []

    def step(self, rate: float) -> None:
        self.grads = [param.grad for param in self.params if param.grad is not None]

    def state_dict(self) -> list[dict[str, Any]]:
        return []


def _train_one_step(team: Team, folder: Path, tokenizer: Path, batch: int) -> None:
    """Trains one step on rows of one length. Writes how many rows this process asked for, and its gradients."""
    chat = ChatFormat(Tokenizer(tokenizer))
    ids, labels = (value[:1].repeat(batch, 1) for value in _one_batch(chat))
    ids[:, 3] += torch.arange(batch)  # rows that differ
    torch.manual_seed(5)
    team = replace(team, bfloat16=False)  # whose rounding would hide a wrong mean
    run = Run(folder / f"{team.rank}", Student(make_config(SMALL, chat.image, chat.begin, chat.end, chat.pad)), team)
    optimizer: Any = _OneStep(run.student)
    asked = []

    def batches(size: int, seed: str) -> Iterator[torch.Tensor]:
        first = sum(replace(team, rank=rank).share(batch) for rank in range(team.rank))
        asked.append(size)
        return itertools.repeat(torch.arange(first, first + size))

    run.train(
        Stage("talk", 1e-9, 1.0, batch, 1), optimizer, batches, lambda rows: (run.student.talk_loss(ids[rows], labels[rows]), {})
    )
    torch.save({"asked": asked, "grads": optimizer.grads}, folder / f"{team.rank}.pt")


@pytest.mark.slow
def test_processes_that_do_not_divide_a_batch_draw_all_of_it_and_average_its_gradients(tmp_path, monkeypatch, embedded):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _train_one_step(ALONE, tmp_path / "alone", embedded, 3)
    alone = torch.load(tmp_path / "alone" / "0.pt")
    work_together(_train_one_step, tmp_path, embedded, 3, members=2)
    for rank, rows in ((0, 2), (1, 1)):
        saved = torch.load(tmp_path / f"{rank}.pt")
        assert saved["asked"] == [rows]
        for grad, whole in zip(saved["grads"], alone["grads"], strict=True):
            torch.testing.assert_close(grad, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("finish", [[], ["--finish", "1"]])
def test_a_start_removes_old_requests_to_stop_of_its_own_run_alone(tmp_path, monkeypatch, finish):
    """A run that finishes a copy leaves the request for the run that it copies, which may be running."""
    stops = {"run": tmp_path / STOP_FILE, "copy": tmp_path / "finish" / STOP_FILE}
    (tmp_path / "finish").mkdir()
    for file in (*stops.values(), tmp_path / "state.pt", tmp_path / "tokenizer.json"):
        file.touch()
    monkeypatch.setattr("training.drawings.load_bank", lambda: None)
    monkeypatch.setattr("training.team.work_together", lambda *args, **rest: None)
    assert main(["--state", str(tmp_path), "--out", str(tmp_path / "out"), "--cases", "0", *finish]) == 0
    assert [name for name, file in stops.items() if file.exists()] == (["run"] if finish else ["copy"])


def test_more_processes_than_pictures_a_step_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.delattr("training.drawings.load_bank")  # nothing is fetched or trained
    assert main(["--state", str(tmp_path), "--processes", "9", "--config", str(small_plan(tmp_path))]) == 2
    assert "--processes must be at most batch.cpu" in capsys.readouterr().err


def small_plan(folder: Path) -> Path:
    """The configuration with batches of eight."""
    path = folder / "plan.yaml"
    path.write_text(re.sub(r"cpu: \d+", "cpu: 8", DEFAULT.read_text()))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed: 2", "sed: 2", "missing: ['seed'], unknown: ['sed']"),
        ("  rate: 0.005", "  rte: 0.005", "see must have exactly the entries of See"),
        ("  share: 0.45", "  share: 1.5", "see.share must be between 0 and 1, not 1.5"),
        ("  share: 0.45", "  share: half", "see.share must be a number of 0 or more, not 'half'"),
        ("cpu: 48", "cpu: 1", "at least 2"),
        ("cpu: 48", "cpu: 48.5", "batch.cpu must be a whole number of 0 or more, not 48.5"),
        ("cpu: 48", "gpu: 48", "batch must have cpu and cuda"),
        ("minutes: 720", "minutes: many", "minutes must be a number of 0 or more, not 'many'"),
        ("minutes: 720", "minutes: .nan", "minutes must be a number of 0 or more, not nan"),
        ("minutes: 720", "minutes: 0", "minutes must be more than 0, not 0"),
        ("seed: 2", "seed: [1]", "seed must be a whole number of 0 or more, not [1]"),
        ("seed: 2", "seed: true", "seed must be a whole number of 0 or more, not True"),
        ("    kind: 0.96", "    knd: 0.96", "see.until has knd; it may have kind, "),
        ("    crowd: 0.5", "    crwd: 0.5", "see.wants has crwd; it may have one, "),
        ("    crowd: 0.5", "    crowd: 0.9", "the sum of see.wants must be between 0 and 1, not 1.23"),
        ("intermediate: [1, 3]", "intermediate: 1", "size.intermediate must be a list of whole numbers, not 1"),
        ("text_heads: 6", "text_heads: 0", "size.text_heads must be more than 0"),
        ("seed: 2", "seed: [", "cannot be read"),
    ],
)
def test_a_wrong_configuration_is_named_in_one_sentence(tmp_path, old, new, message):
    text = DEFAULT.read_text()
    assert old in text
    path = tmp_path / "plan.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(PlanError, match=re.escape(message)):
        read_plan(path)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches the drawings and fonts that training needs")
def test_a_short_run_makes_a_checkpoint_from_nothing(tmp_path):
    """Fetches the packages, draws, trains both stages and writes: about a minute the first time.

    Without an evaluation, because a model that has learned nothing writes every answer to the limit.
    """
    command = [sys.executable, "-m", "training", "--minutes", "0.05", "--cases", "0", "--config", str(small_plan(tmp_path))]
    command += ["--state", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert check_checkpoint(tmp_path / "out").max_tiles == 4


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm fetches the drawings and fonts that the cases are made of")
def test_the_evaluation_prints_a_row_for_each_type_of_question(embedded):
    command = [sys.executable, "-m", "training.evaluate", str(embedded), "--cases", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "| name one thing |" in done.stdout
    assert "temperature 1" in done.stdout
    figures = [float(figure) for figure in re.findall(r"\*\*(\d\.\d\d)\*\*", done.stdout)]
    assert len(figures) > 60
    assert sum(figures) / len(figures) > 0.3, "the first edition answers 0.42 of the questions of the second rightly"
    assert "The commonest mistakes:" in done.stdout
    assert "confidently false" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["--minutes", "0"],
        ["--finish", "-1"],
        ["--processes", "-1"],
        ["--start", "nowhere"],
        ["--finish", "1", "--state", "nowhere"],
        ["--nonsense"],
    ],
)
def test_wrong_options_are_refused_at_once(words):
    done = subprocess.run([sys.executable, "-m", "training", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
