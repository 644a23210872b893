# pyright: reportArgumentType=false
"""The last hour by minute and the requests of this moment, as the operator's page shows them."""

from __future__ import annotations

import pytest

from mllama_demo.engine.base import FinishEvent, PrefillEvent, QueueEvent, Timings, TokenEvent
from mllama_demo.web.activity import MINUTES, Activity

NOON = 1_800_000_000 // 60 * 60


class Clock:
    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def activity(clock: Clock) -> Activity:
    return Activity(clock)


def finish(reason: str = "end_of_turn", ttft_s: float | None = 0.5) -> FinishEvent:
    return FinishEvent(reason, "", 10, 2, Timings(0.0, ttft_s, 1.0, 1.5))


def answer(activity: Activity, id: str, tokens: int, end: FinishEvent) -> None:
    activity.started(id, image=False)
    for index in range(tokens):
        activity.on_event(id, TokenEvent(index, 7, "x"), 1)
    activity.on_event(id, end)
    activity.ended(id)


def test_the_last_of_sixty_minutes_is_the_current_one(activity: Activity, clock: Clock):
    clock.now += 59
    minutes = activity.minutes()
    assert [minute.start for minute in minutes] == [NOON - 60 * ago for ago in range(MINUTES - 1, -1, -1)]
    assert all(minute.tokens == minute.requests == 0 for minute in minutes)


def test_events_are_summed_in_the_minute_in_which_they_happen(activity: Activity, clock: Clock):
    answer(activity, "a", 3, finish(ttft_s=0.4))
    clock.now += 60
    answer(activity, "b", 2, finish(ttft_s=0.2))
    answer(activity, "c", 0, finish("error", ttft_s=None))
    activity.refused()
    before, now = activity.minutes()[-2:]
    assert (before.tokens, before.requests, before.failed, before.ttft_s) == (3, 1, 0, 0.4)
    assert (now.tokens, now.requests, now.failed, now.refused) == (2, 2, 1, 1)
    assert (now.ttft_s, now.answered) == (0.2, 1), "a mean is over those that had a first token"


def test_minutes_older_than_an_hour_are_removed(activity: Activity, clock: Clock):
    answer(activity, "a", 3, finish())
    clock.now += 59 * 60
    assert activity.minutes()[0].tokens == 3
    clock.now += 60
    assert sum(minute.tokens for minute in activity.minutes()) == 0
    answer(activity, "b", 1, finish())
    assert len(activity._minutes) == 1


def test_a_request_is_listed_with_its_phase_until_it_ends(activity: Activity):
    activity.started("a", image=True)
    activity.on_event("a", QueueEvent(2, 3.0))
    (request,) = activity.requests()
    assert (request.phase, request.position, request.image) == ("waiting", 2, True)
    activity.on_event("a", PrefillEvent(40, 1.0))
    activity.on_event("a", TokenEvent(0, 7, "x"), 1)
    (request,) = activity.requests()
    assert (request.phase, request.position, request.prompt_tokens, request.tokens) == ("writing", None, 40, 1)
    activity.ended("a")
    assert activity.requests() == []


def test_running_requests_come_before_waiting_ones_in_queue_order(activity: Activity):
    for id in ("third", "running", "second"):
        activity.started(id, image=False)
    activity.on_event("third", QueueEvent(2, None))
    activity.on_event("second", QueueEvent(1, None))
    activity.on_event("running", PrefillEvent(1, 0.0))
    assert [request.id for request in activity.requests()] == ["running", "second", "third"]
