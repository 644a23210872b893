"""The running program while the clock of its machine is set back and forward by hours: answers, sessions and the log."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from tests.support.openai_clients import post, user
from tests.support.paths import DEMOS
from tests.support.program import Program, running, visitor
from tests.support.raw_gradio_client import RawChat
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
KEY = "the-operators-key"


def date_of(program: Program) -> datetime:
    """The date and time in the headers of its responses."""
    with visitor() as session:
        return parsedate_to_datetime(session.get(f"{program.url}/version", timeout=60).headers["Date"])


def test_a_clock_that_is_set_by_hours_breaks_nothing(tmp_path: Path) -> None:
    options = ("--limit-questions-per-minute", "1000", "--limit-tokens-per-day", "1000000", "--admin-key", KEY)
    with running(tmp_path, *options, script=DEMOS / "set_clock_demo.py") as program, visitor() as operator:
        program.wait_ready()
        chat = RawChat(program)
        assert "Live" in operator.post(f"{program.url}/admin", data={"password": KEY}, timeout=60).text
        real = date_of(program)
        for asked, hours in enumerate((0, -5, 4, -1), 1):
            (tmp_path / "clock").write_text(f"{hours}", encoding="utf-8")
            wait_until(
                lambda hours=hours: abs(date_of(program) - real - timedelta(hours=hours)) < timedelta(minutes=30),
                "the clock is set",
            )
            chat.ask("What is the capital of Italy?")
            with ThreadPoolExecutor(4) as pool:
                answers = list(pool.map(lambda _: post(program, {"messages": [user("Hello")], "max_tokens": 5}), range(4)))
            assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
            assert program.health()["status"] == "ready"
            assert len(chat.conversations()) == asked
            figures = operator.get(f"{program.url}/admin/figures", timeout=60).json()
            assert len(figures["minutes"]) == 60
            assert sum(minute["requests"] for minute in figures["minutes"]) >= 3
        assert not any("cut off" in chat.open(conversation) for conversation in chat.conversations())
        assert "The clock was set back" not in program.stderr(), "that concerns the limits in a Redis alone"
