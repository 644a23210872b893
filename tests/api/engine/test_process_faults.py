"""Faults of the process of the model, seen from outside: the page stays up, and what was said stays.

tests/unit/engine/process has more faults, with a scripted model.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from mllama_demo.engine.base import MODEL_STOPPED
from tests.support.program import Program, running, visitor
from tests.support.raw_gradio_client import RawChat, messages
from tests.support.streams import StreamedAnswer, ask
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

DEMOS = Path(__file__).parents[2] / "support" / "demos"
ADMIN_KEY = "the-operators-key"
# Each fault of the demo, and what the log and the operator's page say about it.
FAULTS = {
    "kill": "was killed by the system (SIGKILL), probably for want of memory",
    "segfault": "was ended by SIGSEGV",
    "hang": "a step took longer than 2 s (step_time_limit_s)",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    options = ("--step-time-limit-s", "2", "--admin-key", ADMIN_KEY, "--max-restarts", "50", "--max-tokens", "1000")
    with running(tmp_path_factory.mktemp("faults"), *options, script=DEMOS / "failing_demo.py") as program:
        program.wait_ready()
        yield program


@pytest.fixture
def program(server: Program) -> Program:
    """The program without failures behind it, which would delay the next restart."""
    if before := figures(server)["restarts"]:
        restart(server)
        wait_until(lambda: figures(server)["restarts"] > before, "the model is started again")
        server.wait_ready()
    return server


@contextmanager
def operator(program: Program) -> Iterator[requests.Session]:
    with visitor() as session:
        session.post(f"{program.url}/admin", data={"password": ADMIN_KEY}, timeout=60)
        yield session


def figures(program: Program) -> dict[str, Any]:
    with operator(program) as session:
        return session.get(f"{program.url}/admin/figures", timeout=60).json()["status"]


def restart(program: Program) -> None:
    with operator(program) as session:
        assert session.post(f"{program.url}/admin/restart", timeout=60).status_code == 202


@pytest.mark.parametrize(("fault", "cause"), FAULTS.items(), ids=FAULTS)
def test_a_fault_ends_the_answer_by_name_and_nothing_else(program: Program, fault: str, cause: str):
    before, logged = figures(program)["restarts"], program.stderr().count(f"{cause}; starting it again in")
    answer = StreamedAnswer(program, max_tokens=1000)
    (program.home / fault).touch()
    error = answer.error()
    (program.home / fault).unlink(missing_ok=True)
    assert (error["message"], error["code"]) == (MODEL_STOPPED, "model_unavailable")
    assert answer.text
    health = program.get("/health")
    assert health is not None
    assert (health.status_code, health.json()["status"]) == (503, "loading")
    assert health.json()["reason"].startswith("starting again after a failure")
    refused = ask(program, max_tokens=1)
    assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (503, True)
    page = program.get("/")
    assert page is not None
    assert page.status_code == 200
    program.wait_ready()
    assert ask(program, max_tokens=5).json()["usage"]["completion_tokens"] == 5
    shown = figures(program)
    assert shown["restarts"] == before + 1
    assert cause in shown["last_failure"]
    assert program.stderr().count(f"{cause}; starting it again in") == logged + 1


def test_a_conversation_keeps_what_was_said_before_the_fault(program: Program):
    chat = RawChat(program)
    question = {chat.field("chat-input"): {"text": "Tell me a story", "files": []}}
    (program.home / "pause").write_text("1", encoding="utf-8")
    (program.home / "pause").replace(program.home / "kill")
    with chat.begin(chat.ask_handler, question) as stream:
        for _ in messages(stream):
            pass
    [conversation] = chat.conversations()
    wait_until(lambda: MODEL_STOPPED in chat.open(conversation), "the conversation says that the model stopped")
    with sqlite3.connect(program.home / "data" / "conversations.sqlite3") as database:
        query = "SELECT text, facts FROM messages WHERE conversation_id = ? AND role = 'assistant'"
        [(text, facts)] = database.execute(query, (conversation,)).fetchall()
    assert text
    assert (json.loads(facts)["reason"], json.loads(facts)["error"]) == ("error", MODEL_STOPPED)


def test_waiting_questions_are_answered_after_the_restart(program: Program):
    running_answers = [StreamedAnswer(program, max_tokens=1000) for _ in range(4)]
    with visitor() as session:
        body = {"messages": [{"role": "user", "content": "What is the capital of Italy famous for?"}], "stream": True}
        with session.post(f"{program.url}/v1/chat/completions", json=body, stream=True, timeout=120) as response:
            wait_until(lambda: program.health()["waiting"] == 1, "one waits")
            (program.home / "kill").touch()
            lines = [line.decode() for line in response.iter_lines() if line]
    assert {answer.error()["message"] for answer in running_answers} == {MODEL_STOPPED}
    text = "".join(
        choice["delta"].get("content", "")
        for line in lines
        if line.startswith("data: {")
        for choice in json.loads(line.removeprefix("data: "))["choices"]
    )
    assert "Rome" in text
    assert lines[-1] == "data: [DONE]"


def test_the_operator_starts_a_model_again_whose_files_had_vanished(tmp_path: Path, embedded: Path):
    model, away = tmp_path / "model", tmp_path / "away"
    shutil.copytree(embedded, model)
    options = ("--model-path", str(model), "--max-restarts", "1", "--admin-key", ADMIN_KEY)
    with running(tmp_path / "home", *options, script=DEMOS / "failing_demo.py") as program:
        program.wait_ready()
        answer = StreamedAnswer(program, max_tokens=1000)
        model.rename(away)
        (program.home / "kill").touch()
        assert answer.error()["message"] == MODEL_STOPPED
        wait_until(lambda: program.health()["status"] == "down", "it is not started again")
        assert program.health()["reason"] == "The model could not be loaded."
        assert str(model) in str(figures(program)["detail"])
        assert str(model) in program.stderr()
        page = program.get("/")
        assert page is not None
        assert page.status_code == 200
        away.rename(model)
        address = f"{program.url}/admin/restart"
        with operator(program) as session:
            assert session.post(address, headers={"Origin": "https://x.example"}, timeout=60).status_code == 403
        with visitor() as session:
            assert session.post(address, timeout=60).status_code == 401
        restart(program)
        program.wait_ready()
        assert ask(program, max_tokens=5).status_code == 200
