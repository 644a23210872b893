# pyright: reportOperatorIssue=false
"""Who gets a slot when, what a place in the queue is worth, and whom the scheduler refuses."""

from __future__ import annotations

import pytest

from mllama_demo.engine.base import QueueEvent
from mllama_demo.engine.wait_estimate import WaitEstimate, Work
from mllama_demo.errors import BackendBusy, BadRequest, PromptTooLong
from tests.support.scripted_runner import END, LETTER

pytestmark = pytest.mark.timeout(60)  # a deadlock fails instead of hanging


# --- admission -----------------------------------------------------------------------------------------------------------


def test_an_idle_scheduler_leaves_the_runner_alone(harness) -> None:
    b = harness()
    assert not b.scheduler.has_work()
    assert b.step() == []
    assert b.runner.calls == []


def test_submitting_does_not_touch_the_runner(harness) -> None:
    b = harness()
    b.submit("a", "b", "c")
    b.scheduler.cancel("b")
    assert b.runner.calls == []
    assert b.scheduler.has_work()


def test_one_request_is_prefilled_a_round_and_decodes_in_the_same_round(harness) -> None:
    b = harness(slots=2)
    b.submit("a", "b")
    b.step()
    assert (b.runner.prefilled(), b.runner.decoded()) == (["a"], [("a",)])
    b.step()
    assert (b.runner.prefilled(), [set(d) for d in b.runner.decoded()]) == (["a", "b"], [{"a"}, {"a", "b"}])


def test_every_running_request_is_in_every_decode(harness) -> None:
    b = harness(slots=4)
    b.submit("a", "b", "c", "d", max_tokens=20)
    b.step(times=10)
    assert [len(d) for d in b.runner.decoded()] == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]


def test_requests_of_different_conversations_are_admitted_as_they_arrive(harness) -> None:
    b = harness(slots=1)
    for name in "cabd":
        b.submit(name, conversation=name, max_tokens=2)
    b.drain()
    assert b.admitted() == b.runner.prefilled() == list("cabd")


def test_requests_without_a_conversation_are_each_their_own(harness) -> None:
    b = harness(slots=1)
    b.submit("x1", "x2", conversation="x", max_tokens=2)
    b.submit("p", "q", "r", max_tokens=2)
    b.drain()
    assert b.admitted() == ["x1", "p", "q", "r", "x2"]


def test_within_a_conversation_requests_are_admitted_as_they_arrive(harness) -> None:
    b = harness(slots=2)
    b.submit("x3", "x1", "x4", "x2", conversation="x", max_tokens=3)
    b.drain()
    assert b.admitted() == ["x3", "x1", "x4", "x2"]


def test_a_burst_of_one_conversation_does_not_hold_up_the_others(harness) -> None:
    b = harness(slots=1)
    b.submit("x1", "x2", "x3", "x4", conversation="x", max_tokens=2)
    b.submit("y1", conversation="y", max_tokens=2)
    b.submit("z1", conversation="z", max_tokens=2)
    b.drain()
    assert b.admitted() == ["x1", "y1", "z1", "x2", "x3", "x4"]


def test_two_bursts_take_turns(harness) -> None:
    b = harness(slots=1)
    b.submit("x1", "x2", "x3", conversation="x", max_tokens=2)
    b.submit("y1", "y2", "y3", conversation="y", max_tokens=2)
    b.drain()
    assert b.admitted() == ["x1", "y1", "x2", "y2", "x3", "y3"]


def test_a_newcomer_goes_before_what_is_left_of_a_burst(harness) -> None:
    b = harness(slots=1)
    b.submit("x1", "x2", "x3", "x4", conversation="x", max_tokens=2)
    b.step(times=2)
    assert b.admitted() == ["x1", "x2"]
    b.submit("y1", conversation="y", max_tokens=2)
    b.drain()
    assert b.admitted() == ["x1", "x2", "y1", "x3", "x4"]


def test_a_quiet_conversation_earns_no_credit(harness) -> None:
    """After five requests of x, those of y count from now on: they are not five turns ahead."""
    b = harness(slots=1)
    b.submit("y0", conversation="y", max_tokens=2)
    b.submit("x1", "x2", "x3", "x4", conversation="x", max_tokens=2)
    b.submit("x5", conversation="x", max_tokens=9)
    b.step(times=6)
    assert b.admitted() == ["y0", "x1", "x2", "x3", "x4", "x5"]
    b.submit("y1", "y2", "y3", conversation="y", max_tokens=2)
    b.submit("x6", conversation="x", max_tokens=2)
    b.drain()
    assert b.admitted()[6:] == ["y1", "y2", "x6", "y3"]


def test_a_request_joins_those_already_running(harness) -> None:
    b = harness(slots=2, a="abcdefgh" + END, b="BCD" + END)
    b.submit("a")
    b.step(times=2)
    b.submit("b")
    b.step()
    assert b.running() == {"a", "b"}
    b.drain()
    assert (b.text("a"), b.text("b")) == ("abcdefgh", "BCD")


def test_a_request_leaves_while_others_go_on_and_its_slot_is_used_again(harness) -> None:
    b = harness(slots=2, a="abcdefghijkl" + END, b="B" + END, c="CCC" + END)
    b.submit("a", "b", "c")
    b.step(times=2)
    assert b.running() == {"a"}
    freed = [call.slots for call in b.runner.calls if call.method == "release"]
    b.step()
    assert b.running() == {"a", "c"}
    assert [call.slots for call in b.runner.calls if call.method == "begin"][-1:] == freed
    b.drain()
    assert [b.text(name) for name in "abc"] == ["abcdefghijkl", "B", "CCC"]
    assert b.runner.holders == {}


def test_status_counts_who_runs_and_who_waits(harness) -> None:
    b = harness(slots=2)
    b.submit("a", "b", "c", "d", max_tokens=5)
    assert (b.scheduler.status().running, b.scheduler.status().waiting) == (0, 4)
    b.step()
    assert (b.scheduler.status().running, b.scheduler.status().waiting) == (1, 3)
    b.step()
    assert (b.scheduler.status().running, b.scheduler.status().waiting) == (2, 2)
    b.drain()
    assert (b.scheduler.status().running, b.scheduler.status().waiting, b.scheduler.status().down) == (0, 0, None)


def test_a_request_gets_the_free_slot_that_the_runner_prefers(harness) -> None:
    b = harness(slots=3, c="CCCC" + END)
    asked: list[tuple[tuple[int, ...], str]] = []

    def prefer(free: tuple[int, ...], name: str) -> int:
        asked.append((free, name))
        return {"a": 2, "b": 0, "c": 1}[name]

    b.runner.prefer = prefer
    b.submit("a", "b", "c", max_tokens=9)
    b.drain()
    assert asked == [((0, 1, 2), "a"), ((0, 1), "b"), ((1,), "c")]
    assert [call.slots for call in b.runner.calls if call.method == "begin"] == [(2,), (0,), (1,)]
    assert b.text("c") == "CCCC"


# --- queue positions -----------------------------------------------------------------------------------------------------


def test_a_position_is_told_before_the_prefill_that_changed_it_and_only_when_it_changed(harness) -> None:
    b = harness(slots=1)
    b.submit("a", "b", "c", max_tokens=4)
    events = b.step()
    assert [(n, LETTER[type(e)]) for n, e in events] == [("a", "P"), ("b", "Q"), ("c", "Q"), ("a", "T"), ("a", "T")]
    assert (b.positions("b"), b.positions("c")) == ([1], [2])
    b.step(times=2)
    assert (b.positions("b"), b.positions("c")) == ([1], [2])
    b.step()
    assert b.admitted() == ["a", "b"]
    assert (b.positions("b"), b.positions("c")) == ([1], [2, 1])


def test_what_is_known_before_a_prefill_or_a_decode_step_can_be_delivered_before_it(harness) -> None:
    b = harness(slots=1)
    b.submit("a", "b", max_tokens=4)
    known_at_prefill: list[str] = []
    b.runner.on_prefill = lambda request_ids: known_at_prefill.extend(name + b.kinds(name) for name in "ab")
    known_at_decode: list[str] = []
    b.runner.on_decode = lambda request_ids: known_at_decode.append(b.kinds("a"))
    late = b.scheduler.step(b.log.extend)
    b.log += late
    assert known_at_prefill == ["aP", "bQ"]
    assert known_at_decode == ["PT"], "the first token need not wait for the next"
    assert [(name, LETTER[type(event)]) for name, event in late] == [("a", "T")]


def test_a_request_that_gets_its_slot_at_once_hears_of_no_queue(harness) -> None:
    b = harness()
    b.submit("a", max_tokens=2)
    b.drain()
    assert b.positions("a") == []


def test_being_overtaken_is_told(harness) -> None:
    b = harness(slots=1)
    b.submit("x1", "x2", "x3", conversation="x", max_tokens=9)
    b.step()
    b.submit("y1", conversation="y")
    b.step()
    assert [b.positions(name) for name in ("y1", "x2", "x3")] == [[1], [1, 2], [2, 3]]


def test_a_cancelled_request_lets_those_behind_it_move_up(harness) -> None:
    b = harness(slots=1)
    b.submit("a", "b", "c", "d", max_tokens=9)
    b.step()
    b.scheduler.cancel("c")
    b.step()
    assert [b.positions(name) for name in "bcd"] == [[1], [2], [3, 2]]
    assert b.kinds("c") == "QF"


def test_the_wait_is_unknown_before_a_first_finish_and_known_after_it(harness) -> None:
    b = harness(slots=1)
    b.runner.on_decode = lambda _: setattr(b.clock, "now", b.clock.now + 1)
    b.submit("a", "b", "c", "d", max_tokens=4)
    b.step()
    assert b.scheduler.status().estimated_wait_s is None
    assert [e.estimated_wait_s for n, e in b.log if isinstance(e, QueueEvent)] == [None, None, None]
    b.step(times=2)
    assert b.reason("a") == "max_tokens"
    waits = {name: event.estimated_wait_s for name, event in b.step() if isinstance(event, QueueEvent)}
    assert b.running() == {"b"}
    assert 0 < waits["c"] <= waits["d"] <= b.scheduler.status().estimated_wait_s


def test_the_waits_of_a_long_queue_are_computed_in_one_pass(harness, monkeypatch) -> None:
    """Each admission moves everybody, and a pass for each of them would hold up the answers under way."""
    b = harness(slots=2, max_waiting=300)
    b.submit(*[f"r{index}" for index in range(200)], max_tokens=3)
    b.step(times=8)
    passes = 0
    left_s = WaitEstimate.left_s

    def counted(self: WaitEstimate, work: Work) -> float:
        nonlocal passes
        passes += 1
        return left_s(self, work)

    monkeypatch.setattr(WaitEstimate, "left_s", counted)
    moved = [event for _ in range(4) for _, event in b.step() if isinstance(event, QueueEvent)]
    assert len(moved) > 150
    assert passes <= 2 * len(moved) + 20


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_how_many_wait(harness) -> None:
    b = harness(slots=1, max_waiting=3)
    b.submit("a")
    b.step()
    b.submit("b", "c", "d")
    with pytest.raises(BackendBusy, match=r"\b3\b"):
        b.submit("e")


def test_cancelled_requests_take_no_place_from_those_that_come_before_the_next_step(harness) -> None:
    b = harness(slots=1, max_waiting=2)
    b.submit("a", max_tokens=9)
    b.step()
    b.submit("b", "c")
    with pytest.raises(BackendBusy):
        b.submit("d")
    for name in "abc":
        b.scheduler.cancel(name)
    b.submit("e", "f", "g")
    with pytest.raises(BackendBusy):
        b.submit("h")


def test_free_slots_make_room_beyond_the_queue(harness) -> None:
    b = harness(slots=2, max_waiting=3)
    b.submit(*"abcde")
    with pytest.raises(BackendBusy):
        b.submit("f")
    b.step()
    with pytest.raises(BackendBusy):
        b.submit("f")


def test_without_a_queue_as_many_requests_are_taken_as_slots_are_free(harness) -> None:
    b = harness(slots=2, max_waiting=0)
    b.submit("a", "b", max_tokens=4)
    with pytest.raises(BackendBusy):
        b.submit("c")
    b.step(times=2)
    assert b.running() == {"a", "b"}
    with pytest.raises(BackendBusy):
        b.submit("c")
    b.step()
    assert b.running() == {"b"}
    b.submit("c")
    with pytest.raises(BackendBusy):
        b.submit("d")


def test_a_refused_request_leaves_nothing_behind(harness) -> None:
    b = harness(slots=1, max_waiting=0)
    b.submit("a", max_tokens=2)
    with pytest.raises(BackendBusy):
        b.submit("b")
    b.drain()
    b.submit("b", max_tokens=2)
    b.drain()
    assert b.admitted() == ["a", "b"]


@pytest.mark.parametrize("length", [8, 9, 100])
def test_a_prompt_without_room_for_one_new_token_is_refused(harness, length: int) -> None:
    b = harness(max_seq_len=8)
    with pytest.raises(PromptTooLong):
        b.submit("a", prompt=length)
    assert not b.scheduler.has_work()


def test_an_empty_prompt_is_refused(harness) -> None:
    b = harness()
    with pytest.raises(BadRequest):
        b.submit("a", prompt=0)
    assert not b.scheduler.has_work()


def test_an_id_in_use_is_refused_and_the_first_request_goes_on(harness) -> None:
    b = harness(slots=1, a="hi" + END)
    b.submit("a", "b", max_tokens=4)
    with pytest.raises(BadRequest):
        b.submit("a")
    b.step()
    for name in ("a", "b"):
        with pytest.raises(BadRequest):
            b.submit(name)
    b.drain()
    assert b.text("a") == "hi"


def test_an_id_can_be_used_again_once_its_request_has_ended(harness) -> None:
    b = harness(a="hi" + END)
    b.submit("a")
    b.drain()
    first = b.log.copy()
    b.log.clear()
    b.submit("a")
    b.drain()
    assert b.log == first
