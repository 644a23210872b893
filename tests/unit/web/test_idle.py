"""How long nobody has asked anything, and the line in the log about it."""

from __future__ import annotations

import logging

import pytest

from mllama_demo.engine.base import State
from mllama_demo.web.activity import Activity
from mllama_demo.web.idle import IdleReminder, IdleTime
from mllama_demo.web.metrics import Metrics
from tests.support.manual_backend import ManualBackend


class Setup:
    def __init__(self) -> None:
        self.backend = ManualBackend()
        self.activity = Activity()
        self.time = self.activity.last_end = 0.0
        self.idle = IdleTime(self.backend, self.activity, now=lambda: self.time)

    def state(self, state: State) -> None:
        self.backend.state = state

    def ask(self) -> None:
        self.activity.started("a", image=False)

    def end(self) -> None:
        self.activity.ended("a")
        self.activity.last_end = self.time  # the clock of the test


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_idle_is_the_time_since_the_last_request_ended(setup: Setup) -> None:
    setup.time += 100
    assert setup.idle.seconds() == 100
    setup.ask()
    setup.time += 50
    assert setup.idle.seconds() == 0
    setup.end()
    assert setup.idle.seconds() == 0
    setup.time += 70
    assert setup.idle.seconds() == 70


def test_a_model_that_loads_is_not_idle_and_one_that_is_down_is(setup: Setup) -> None:
    setup.state("loading")
    setup.time += 3600
    assert setup.idle.seconds() == 0
    setup.state("ready")
    setup.time += 10
    assert setup.idle.seconds() == 10
    setup.state("down")
    setup.time += 10
    assert setup.idle.seconds() == 20


def test_the_metric(setup: Setup) -> None:
    setup.time += 100
    page = Metrics(setup.backend, "tiny", idle_s=setup.idle.seconds).render()[0].decode()
    assert 'mllama_demo_idle_seconds{model_name="tiny"} 100.0\n' in page


def test_the_reminder_comes_once_for_each_period_and_again_after_a_request(setup: Setup, caplog) -> None:
    reminder = IdleReminder(setup.idle, 30, lambda: "trn1.32xlarge, 32 NeuronCores")

    def lines() -> list[str]:
        reminder.look()
        reminder.look()
        found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        caplog.clear()
        return found

    setup.time += 30 * 60 - 1
    assert lines() == []
    setup.time += 1
    [line] = lines()
    assert "for 30 minutes" in line
    assert "trn1.32xlarge" in line
    setup.time += 10 * 60
    assert lines() == []
    setup.time += 20 * 60
    assert "for 60 minutes" in lines()[0]
    setup.ask()
    assert lines() == []
    setup.end()
    setup.time += 31 * 60
    assert "for 30 minutes" in lines()[0]
