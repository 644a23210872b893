"""The speed of a remote answer: that of its generation, not that of the line that brought it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mllama_demo.engine import request_queue
from mllama_demo.engine.base import GenerationRequest, Timings
from mllama_demo.engine.event_queue import EventQueue
from mllama_demo.engine.request_queue import Job


@pytest.mark.parametrize(
    ("arrivals", "speed"),
    [
        ([1.0, 1.00007], None),  # two tokens at once are no 13680 tokens/s
        ([1.0 + step * 0.0001 for step in range(200)], None),
        ([1.0, 1.0001, 1.3, 1.3001], None),
        ([1.0, 1.1, 1.2, 1.3], 10.0),
        ([1.0, 1.0001, 1.25, 1.2501, 1.4999, 1.5], 10.0),
    ],
    ids=["two at once", "all at once", "in two bursts", "one by one", "in pairs"],
)
async def test_the_speed_of_tokens_that_arrive_together_is_not_known(
    monkeypatch: pytest.MonkeyPatch, arrivals: list[float], speed: float | None
) -> None:
    times = iter(arrivals)
    monkeypatch.setattr(request_queue, "time", SimpleNamespace(monotonic=lambda: next(times, arrivals[-1])))
    job = Job(GenerationRequest((1,)), 0.0, 0.0, events=EventQueue())
    for _ in arrivals:
        job.token()
    found = job.finish("end_of_turn", None, None, 1).timings.tokens_per_second(len(arrivals))
    assert found == (speed if speed is None else pytest.approx(speed))


@pytest.mark.parametrize(("decode_s", "known"), [(0.0, False), (0.049, False), (0.05, True)])
def test_a_very_short_decode_has_no_speed(decode_s: float, known: bool) -> None:
    assert (Timings(0.0, 0.1, decode_s, 1.0).tokens_per_second(10) is not None) == known
