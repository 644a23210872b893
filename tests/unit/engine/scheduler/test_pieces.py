"""Prompts that are read in pieces: who goes on meanwhile, and how a request ends whose prompt is half read."""

from __future__ import annotations

import pytest

from mllama_demo.engine.base import FinishEvent
from mllama_demo.engine.runner import RunnerDown
from mllama_demo.errors import BadRequest, cause_of
from tests.support.scheduler_harness import SchedulerHarness
from tests.support.scripted_runner import END

pytestmark = pytest.mark.timeout(60)  # a deadlock fails instead of hanging


def calls(b: SchedulerHarness, since: int = 0) -> list[tuple[str, tuple[str, ...]]]:
    return [(call.method, call.requests) for call in b.runner.calls[since:]]


def beside(harness, pieces: int, slots: int = 2, **scripts: str) -> SchedulerHarness:
    """Request a has written two tokens; b is submitted next, with a prompt of `pieces` pieces."""
    b = harness(slots=slots, **{"a": "abcdefghijkl" + END, "b": "BC" + END, **scripts})
    b.submit("a")
    b.step()
    b.runner.pieces["b"] = pieces
    b.submit("b")
    return b


def test_between_two_pieces_of_a_prompt_everybody_else_gets_a_token(harness) -> None:
    b = beside(harness, 4)
    before = len(b.runner.calls)
    b.step(times=4)
    read, decode = ("read_piece", ("b",)), ("decode", ("a",))
    assert calls(b, before) == [("begin", ("b",)), read, decode, read, decode, read, decode, read, ("decode", ("a", "b"))]
    assert (b.kinds("a"), b.kinds("b")) == ("P" + "T" * 6, "PTT")
    b.drain()
    assert (b.text("a"), b.text("b")) == ("abcdefghijkl", "BC")


def test_a_prompt_beside_nobody_is_read_without_decode_steps(harness) -> None:
    b = harness(slots=2, a="hi" + END)
    b.runner.pieces["a"] = 3
    b.submit("a")
    b.step(times=3)
    assert calls(b) == [("begin", ("a",)), *[("read_piece", ("a",))] * 3, ("decode", ("a",))]


def test_a_round_admits_several_prompts_that_are_in_the_cache_and_reads_one_that_is_not(harness) -> None:
    b = harness(slots=8)
    b.submit("a", max_tokens=5)
    b.step()
    for cached in "bce":
        b.runner.reused[cached] = 3
    b.runner.reused["d"] = 2
    b.submit(*"bcde", max_tokens=2)
    before = len(b.runner.calls)
    b.step()
    admitted = [call for name in "bcd" for call in (("begin", (name,)), ("read_piece", (name,)))]
    assert [call for call in calls(b, before) if call[0] != "release"] == [*admitted, ("decode", (*"abcd",))]
    assert b.positions("e") == [3, 2, 1]
    b.step()
    assert b.kinds("e") == "QQQPTTF"
    b.drain()


def test_answers_of_one_token_to_cached_prompts_do_not_keep_others_from_their_next_token(harness) -> None:
    b = harness(slots=2, a="abcdefghijkl" + END)
    b.submit("a")
    b.step()
    names = [f"b{number}" for number in range(6)]
    b.runner.reused.update(dict.fromkeys(names, 3))
    b.submit(*names, max_tokens=1)
    b.step()
    assert b.kinds("a") == "PTTT"
    assert b.admitted() == ["a", "b0", "b1"]
    b.drain()


def test_one_prompt_is_read_at_a_time_in_the_order_of_the_queue(harness) -> None:
    b = beside(harness, 3, slots=4)
    b.runner.pieces["c"] = 2
    b.submit("c", "d", max_tokens=3)
    b.step(times=3)
    assert (b.kinds("b"), b.kinds("c"), b.kinds("d")) == ("PTT", "Q", "Q")
    assert (b.positions("c"), b.positions("d")) == ([1], [2])
    b.step(times=3)
    read = [requests[0] for method, requests in calls(b) if method == "read_piece"]
    assert read == ["a", "b", "b", "b", "c", "c", "d"]
    b.drain()


def test_a_request_whose_prompt_is_read_counts_as_running(harness) -> None:
    b = beside(harness, 3)
    b.step()
    assert (b.scheduler.status().running, b.scheduler.status().waiting) == (2, 0)


@pytest.mark.parametrize("reason", ["cancelled", "time_limit"])
def test_a_request_ends_between_two_pieces_and_its_slot_is_used_in_the_same_step(harness, reason: str) -> None:
    b = harness(slots=2, a="abcdefghijkl" + END, c="CCC" + END)
    b.submit("a")
    b.step()
    b.runner.pieces["b"] = 5
    b.submit("b", time_limit_s=10)
    b.submit("c")
    b.step(times=2)
    before = len(b.runner.calls)
    if reason == "cancelled":
        b.scheduler.cancel("b")
    b.clock.now = 11
    events = b.step()
    assert events[0] == ("b", b.finish("b"))
    assert (b.reason("b"), b.kinds("b"), b.finish("b").completion_tokens) == (reason, "PF", 0)
    read_c = [("begin", ("c",)), ("read_piece", ("c",)), ("decode", ("a", "c"))]
    assert calls(b, before) == [("release", ("b",)), *read_c]
    b.drain()
    assert (b.text("a"), b.text("c")) == ("abcdefghijkl", "CCC")


def test_a_request_cancelled_inside_a_piece_ends_before_the_next_one(harness) -> None:
    b = beside(harness, 5)
    b.runner.on_prefill = b.scheduler.cancel
    b.step()
    assert b.running() == {"a", "b"}
    b.step()
    assert b.kinds("b") == "PF"
    assert calls(b).count(("read_piece", ("b",))) == 1
    b.drain()


def test_a_piece_that_fails_ends_that_request_alone(harness) -> None:
    b = beside(harness, 3, c="C" + END)
    b.submit("c")
    b.runner.fail_prefill["b"] = RuntimeError("out of device memory")
    b.step(times=3)
    assert b.reason("b") == "error"
    assert "out of device memory" in cause_of(b.finish("b").error)
    assert b.runner.holders == {0: "a"}
    b.drain()
    assert (b.text("a"), b.text("c"), b.scheduler.status().down) == ("abcdefghijkl", "C", None)


def test_a_request_that_is_refused_when_it_begins_is_no_failure_of_the_runner(harness) -> None:
    b = harness(slots=1, e="E" + END)
    b.submit(*"abcde")
    b.runner.fail_begin = {name: BadRequest("The image has no pixels.") for name in "abcd"}
    b.drain()
    assert [b.finish(name).error for name in "abcd"] == ["The image has no pixels."] * 4
    assert (b.text("e"), b.scheduler.status().down) == ("E", None)
    assert [method for method, _ in calls(b)].count("read_piece") == 1


def test_three_failures_in_a_row_take_the_scheduler_down_also_after_pieces_that_were_read(harness) -> None:
    b = harness(slots=1)
    b.runner.pieces = dict.fromkeys("abc", 3)
    b.submit(*"abcd")
    b.runner.fail_begin["a"] = RuntimeError("broken a")
    b.runner.fail_prefill = {name: RuntimeError(f"broken {name}") for name in "bc"}
    b.drain()
    assert [b.reason(name) for name in "abcd"] == ["error"] * 4
    assert "broken c" in cause_of(b.scheduler.status().down)
    assert b.runner.holders == {}


def test_a_prompt_read_to_its_end_starts_the_count_of_failures_again(harness) -> None:
    b = harness(slots=1, c="C" + END)
    b.runner.pieces["c"] = 2
    b.submit(*"abcde")
    b.runner.fail_prefill = {name: RuntimeError("broken") for name in "abde"}
    b.drain()
    assert (b.text("c"), b.scheduler.status().down) == ("C", None)


def test_a_runner_that_is_down_between_two_pieces_ends_everybody(harness) -> None:
    b = beside(harness, 3)
    b.step()
    b.runner.fail_decode = [RunnerDown("the device is gone")]
    b.step()
    assert [b.reason(name) for name in "ab"] == ["error", "error"]
    assert (b.runner.holders, b.step()) == ({}, [])


def test_shutting_down_ends_a_request_whose_prompt_is_half_read(harness) -> None:
    b = beside(harness, 3)
    b.step()
    b.shutdown("The server is stopping.")
    assert (b.kinds("b"), b.finish("b").error) == ("PF", "The server is stopping.")
    assert b.runner.holders == {}
    assert not b.scheduler.has_work()


def test_what_is_known_before_a_piece_is_delivered_before_it(harness) -> None:
    """A request that ended does not wait for a piece of another one's prompt."""
    b = beside(harness, 3)
    b.step()
    b.scheduler.cancel("a")
    known: list[bool] = []
    b.runner.on_prefill = lambda _: known.append(any(isinstance(event, FinishEvent) for event in b.events("a")))
    b.log += b.scheduler.step(b.log.extend)
    assert known == [True]
    b.drain()
