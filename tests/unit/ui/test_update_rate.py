"""A page that falls behind is sent less until it has caught up, and no other page with it."""

from __future__ import annotations

import time
from contextlib import aclosing

from mllama_demo.generation.tasks import AnswerTask
from mllama_demo.ui.update_rate import FASTER, LATE_MS, PUNCTUAL_MS, SLOWER, SLOWEST, UpdateRate
from tests.support.manual_backend import talk


def test_a_late_page_is_sent_less_but_never_nothing() -> None:
    pace = UpdateRate()
    pace.heard("old phone", LATE_MS + 1)
    assert (pace.of("old phone"), pace.of("laptop")) == (SLOWER, 1.0)
    for _ in range(20):
        pace.heard("old phone", 10_000)
    assert pace.of("old phone") == SLOWEST


def test_a_page_that_has_caught_up_is_sent_more_again_up_to_the_best() -> None:
    pace = UpdateRate()
    pace.heard("page", LATE_MS + 1)
    pace.heard("page", (LATE_MS + PUNCTUAL_MS) / 2)
    assert pace.of("page") == SLOWER, "neither late nor punctual"
    pace.heard("page", 0)
    assert pace.of("page") == SLOWER * FASTER
    for _ in range(20):
        pace.heard("page", 0)
    assert pace.of("page") == 1.0


def test_a_page_that_is_left_is_forgotten() -> None:
    pace = UpdateRate()
    pace.heard("page", LATE_MS + 1)
    pace.leave("page")
    pace.leave("never seen")
    assert pace.of("page") == 1.0


async def test_what_is_watched_is_seen_at_the_pace_of_the_moment() -> None:
    live, pace, seen = AnswerTask("me", talk("Hello?")), 1000.0, []
    async with aclosing(live.watch(lambda: pace, 0.001)) as moments:
        async for _ in moments:
            seen.append(time.monotonic())
            if len(seen) == 2:
                pace = 4.0
            if len(seen) == 4:
                live.done = True
                live.change()
            if live.done:
                break
    assert seen[3] - seen[1] >= 2 * 0.24, "two moments at four a second"
