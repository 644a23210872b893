"""SIGTERM while answers are being written, as systemd, Docker and Kubernetes send it."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mllama_demo.web.shutdown import CUT_OFF
from tests.support.program import Program, running
from tests.support.raw_gradio_client import RawChat, messages
from tests.support.streams import StreamedAnswer, ask
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.timeout(300)

DEMOS = Path(__file__).parents[2] / "support" / "demos"


def start(home: Path, demo: str, *options: str) -> Iterator[Program]:
    with running(home, *options, script=DEMOS / f"{demo}.py") as program:
        program.wait_ready()
        yield program


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Program]:
    """A token every 0.1 s."""
    yield from start(tmp_path, "slow_demo", "--drain-time-limit-s", "60")


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Program]:
    yield from start(tmp_path, "slow_demo", "--drain-time-limit-s", "1")


def test_a_running_answer_is_finished_while_new_ones_are_refused(slow: Program):
    answer = StreamedAnswer(slow, max_tokens=40)
    slow.process.send_signal(signal.SIGTERM)
    wait_until(lambda: slow.health()["status"] == "down", "the program takes no requests")
    refused = ask(slow, max_tokens=1)
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == "The demo is shutting down."
    assert int(refused.headers["Retry-After"]) > 0
    *_, last, done = answer.finish()
    assert last["choices"][0]["finish_reason"] == "length"
    assert done == "data: [DONE]"
    assert slow.process.wait(PATIENCE_S) == 0


def test_an_answer_that_takes_too_long_ends_by_name(impatient: Program):
    whole: list[requests.Response] = []
    waiting = threading.Thread(target=lambda: whole.append(ask(impatient, max_tokens=1000)))
    waiting.start()
    answer = StreamedAnswer(impatient, max_tokens=1000)
    wait_until(lambda: impatient.health()["running"] == 2, "both are being written")
    impatient.process.send_signal(signal.SIGTERM)
    error = answer.error()
    assert (error["message"], error["code"]) == (CUT_OFF, "model_unavailable")
    waiting.join(PATIENCE_S)
    assert whole[0].status_code == 503
    assert whole[0].json()["error"]["message"] == CUT_OFF
    assert impatient.process.wait(PATIENCE_S) == 0


def test_ctrl_c_ends_answers_by_name_at_once(slow: Program):
    answer = StreamedAnswer(slow, max_tokens=1000)
    slow.process.send_signal(signal.SIGINT)
    assert answer.error()["message"] == CUT_OFF
    assert slow.process.wait(PATIENCE_S) == 0


def test_the_program_ends_although_the_model_hangs(tmp_path: Path):
    for program in start(tmp_path, "failing_demo", "--drain-time-limit-s", "1"):
        answer = StreamedAnswer(program, max_tokens=1000)
        (program.home / "hang").touch()
        program.process.send_signal(signal.SIGTERM)
        assert answer.error()["message"] == CUT_OFF
        assert program.process.wait(PATIENCE_S) == 0


def test_an_answer_of_the_page_that_was_cut_off_is_stored_and_marked(tmp_path: Path):
    for program in start(tmp_path, "slow_demo", "--drain-time-limit-s", "1", "--max-tokens", "1000"):
        # One token: Gradio sends what is added to a text since its last message, which may be a part of several tokens.
        (tmp_path / "dictated").write_text("Once", encoding="utf-8")
        (tmp_path / "pause").touch()
        chat = RawChat(program)
        question = {chat.field("chat-input"): {"text": "Tell me a story", "files": []}}
        with chat.begin(chat.ask_handler, question) as stream:
            assert any("Once" in json.dumps(message) for message in messages(stream))
            [conversation] = chat.conversations()
            program.process.send_signal(signal.SIGTERM)
            assert program.process.wait(PATIENCE_S) == 0
    (tmp_path / "pause").unlink()  # the next start answers a question of its own before it is ready
    for program in start(tmp_path, "slow_demo"):
        later = RawChat(program)
        later.http.cookies = chat.http.cookies
        shown = later.open(conversation)
        assert "Once" in shown
        assert CUT_OFF in shown
