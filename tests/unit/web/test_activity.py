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
def recent(clock: Clock) -> Activity:
    return Activity(clock)


def finish(reason: str = "end_of_turn", ttft_s: float | None = 0.5) -> FinishEvent:
    return FinishEvent(reason, "", 10, 2, Timings(0.0, ttft_s, 1.0, 1.5))


def answer(recent: Activity, id: str, tokens: int, end: FinishEvent) -> None:
    recent.asked(id, image=False)
    for index in range(tokens):
        recent.happened(id, TokenEvent(index, 7, "x"))
    recent.happened(id, end)
    recent.left(id)


def test_an_hour_has_sixty_minutes_the_one_under_way_last(recent: Activity, clock: Clock):
    clock.now += 59
    minutes = recent.minutes()
    assert [minute.start for minute in minutes] == [NOON - 60 * ago for ago in range(MINUTES - 1, -1, -1)]
    assert all(minute.tokens == minute.requests == 0 for minute in minutes)


def test_what_happens_is_summed_in_the_minute_in_which_it_happens(recent: Activity, clock: Clock):
    answer(recent, "a", 3, finish(ttft_s=0.4))
    clock.now += 60
    answer(recent, "b", 2, finish(ttft_s=0.2))
    answer(recent, "c", 0, finish("error", ttft_s=None))
    recent.refused()
    before, now = recent.minutes()[-2:]
    assert (before.tokens, before.requests, before.failed, before.ttft_s) == (3, 1, 0, 0.4)
    assert (now.tokens, now.requests, now.failed, now.refused) == (2, 2, 1, 1)
    assert (now.ttft_s, now.answered) == (0.2, 1), "a mean is over those that had a first token"


def test_what_is_older_than_an_hour_is_forgotten(recent: Activity, clock: Clock):
    answer(recent, "a", 3, finish())
    clock.now += 59 * 60
    assert recent.minutes()[0].tokens == 3
    clock.now += 60
    assert sum(minute.tokens for minute in recent.minutes()) == 0
    answer(recent, "b", 1, finish())
    assert len(recent._ring) == 1


def test_a_request_is_followed_from_the_queue_to_its_end(recent: Activity):
    recent.asked("a", image=True)
    recent.happened("a", QueueEvent(2, 3.0))
    (request,) = recent.requests()
    assert (request.phase, request.position, request.image) == ("waiting", 2, True)
    recent.happened("a", PrefillEvent(40, 1.0))
    recent.happened("a", TokenEvent(0, 7, "x"))
    (request,) = recent.requests()
    assert (request.phase, request.position, request.prompt_tokens, request.tokens) == ("writing", None, 40, 1)
    recent.left("a")
    assert recent.requests() == []


def test_who_runs_comes_before_who_waits_and_those_in_their_order(recent: Activity):
    for id in ("third", "running", "second"):
        recent.asked(id, image=False)
    recent.happened("third", QueueEvent(2, None))
    recent.happened("second", QueueEvent(1, None))
    recent.happened("running", PrefillEvent(1, 0.0))
    assert [request.id for request in recent.requests()] == ["running", "second", "third"]
