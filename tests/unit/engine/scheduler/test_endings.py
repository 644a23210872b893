"""What a request tells, and how it ends: by its own end, a limit of time, or because it is cancelled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mllama_demo.engine.base import GenerationRequest, TokenEvent
from tests.support.scripted_runner import END, trace_of

pytestmark = pytest.mark.timeout(60)  # a deadlock fails instead of hanging


# --- what a request tells ------------------------------------------------------------------------------------------------


def test_the_events_of_a_request_come_in_order_and_spell_its_text(harness) -> None:
    b = harness(slots=1, a="hey" + END)
    b.submit("a", prompt=7)
    b.drain()
    assert b.kinds("a") == "PTTTTF"
    tokens = [(e.index, e.token_id, e.text) for e in b.events("a") if isinstance(e, TokenEvent)]
    assert tokens == [(0, ord("h"), ""), (1, ord("e"), "h"), (2, ord("y"), "e"), (3, ord(END), "")]
    finish = b.finish("a")
    assert (finish.reason, finish.text, finish.prompt_tokens, finish.completion_tokens) == ("end_of_turn", "y", 7, 4)


def test_the_finish_has_how_much_of_the_prompt_was_not_read(harness) -> None:
    b = harness()
    b.runner.reused["a"] = 4
    b.submit("a", "b", prompt=7, max_tokens=2)
    b.drain()
    assert [b.finish(name).reused for name in "ab"] == [4, 0]


def test_nothing_follows_the_finish(harness) -> None:
    b = harness(slots=1, a="hi" + END)
    b.submit("a")
    b.drain()
    seen = len(b.events("a"))
    b.submit("b", max_tokens=5)
    b.drain()
    assert len(b.events("a")) == seen


def test_the_runners_record_of_a_token_is_handed_on(harness) -> None:
    b = harness(slots=1, a="hi" + END)
    b.requests["a"] = GenerationRequest(prompt_ids=(1, 2), trace=True, id="a")
    b.scheduler.submit(b.requests["a"])
    b.submit("b", max_tokens=2)
    b.drain()
    assert [e.trace for e in b.events("a") if isinstance(e, TokenEvent)] == [trace_of(ord(c)) for c in "hi" + END]
    assert [e.trace for e in b.events("b") if isinstance(e, TokenEvent)] == [None, None]


def test_the_timings_are_measured_from_submission(harness) -> None:
    b = harness(slots=1)

    def takes(seconds: float) -> Callable[[object], None]:
        return lambda _: setattr(b.clock, "now", b.clock.now + seconds)

    b.runner.on_prefill, b.runner.on_decode = takes(3), takes(0.5)
    b.clock.now = 100
    b.submit("a", max_tokens=3)
    b.clock.now = 102
    b.drain()
    assert b.prefill("a").waited_s == 2
    timings = b.finish("a").timings
    assert (timings.waited_s, timings.ttft_s, timings.decode_s, timings.total_s) == (2, 5, 1, 6)


# --- how a request ends --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "prompt", "sampling", "reason", "text", "tokens"),
    [
        pytest.param("hello" + END, 3, {}, "end_of_turn", "hello", 6, id="end of turn"),
        pytest.param(END, 3, {}, "end_of_turn", "", 1, id="end of turn at once"),
        pytest.param("abc" + END, 3, {"max_tokens": 4}, "end_of_turn", "abc", 4, id="end of turn with the last token allowed"),
        pytest.param("ab" + END, 5, {}, "end_of_turn", "ab", 3, id="end of turn where the context is full"),
        pytest.param("a STOP b", 3, {"stop": ("STOP",)}, "stop_string", "a ", 6, id="stop string"),
        pytest.param("#", 3, {"stop": ("#",)}, "stop_string", "", 1, id="stop string at once"),
        pytest.param("abcd", 3, {"stop": ("zz", "bc")}, "stop_string", "a", 3, id="one of two stop strings"),
        pytest.param("ab#", 3, {"stop": ("#",), "max_tokens": 3}, "stop_string", "ab", 3, id="stop string with the last token"),
        pytest.param("abST" + END, 2, {"stop": ("STOP",)}, "end_of_turn", "abST", 5, id="half a stop string"),
        pytest.param("abcdef", 2, {"max_tokens": 4}, "max_tokens", "abcd", 4, id="max tokens"),
        pytest.param("abcdef", 2, {"max_tokens": 1}, "max_tokens", "a", 1, id="one token"),
        pytest.param(
            "ab" + END + "cd", 2, {"ignore_eos": True, "max_tokens": 5}, "max_tokens", f"ab{END}cd", 5, id="past the end"
        ),
        pytest.param(END * 2, 5, {"ignore_eos": True}, "context_full", END * 2 + "~", 3, id="past two ends"),
        pytest.param("abcdef", 5, {}, "context_full", "abc", 3, id="context full"),
        pytest.param("abcdef", 7, {}, "context_full", "a", 1, id="room for one token"),
    ],
)
def test_each_finish_reason(harness, script: str, prompt: int, sampling: dict, reason: str, text: str, tokens: int) -> None:
    b = harness(max_seq_len=8 if reason == "context_full" or prompt == 5 else 64, a=script)
    b.submit("a", prompt=prompt, **sampling)
    b.drain()
    finish = b.finish("a")
    assert (finish.reason, b.text("a"), finish.completion_tokens) == (reason, text, tokens)
    assert finish.error is None
    assert len(b.runner.decoded()) == tokens - 1
    assert b.runner.holders == {}


def test_nothing_is_emitted_after_a_stop_string(harness) -> None:
    b = harness(a="one STOP two")
    b.submit("a", stop=("STOP",))
    b.drain()
    assert b.finish("a").text == ""
    assert b.kinds("a") == "P" + "T" * len("one STOP") + "F"


def test_a_request_that_ends_with_its_first_token_frees_its_slot_for_the_next_round(harness) -> None:
    b = harness(slots=1, a=END, b=END)
    b.submit("a", "b")
    b.step()
    assert b.kinds("a") == "PTF"
    assert b.admitted() == ["a"]
    b.step()
    assert b.kinds("b") == "QPTF"
    assert b.runner.decoded() == []


# --- time limits ---------------------------------------------------------------------------------------------------------


def test_a_time_limit_ends_a_waiting_request_without_a_slot(harness) -> None:
    b = harness(slots=1)
    b.submit("a", max_tokens=9)
    b.submit("b", time_limit_s=10)
    b.step()
    b.clock.now = 9.5
    b.step()
    assert b.waiting() == {"b"}
    b.clock.now = 10.5
    b.step()
    assert (b.kinds("b"), b.reason("b"), b.finish("b").completion_tokens) == ("QF", "time_limit", 0)
    b.drain()
    assert b.runner.prefilled() == ["a"]


def test_a_time_limit_ends_a_running_request_and_keeps_its_text(harness) -> None:
    b = harness(slots=1, a="abcdefgh" + END)
    b.submit("a", time_limit_s=10)
    b.step(times=2)
    b.clock.now = 10.5
    decodes = len(b.runner.decoded())
    b.step()
    assert (b.reason("a"), b.text("a"), b.finish("a").text) == ("time_limit", "abc", "c")
    assert len(b.runner.decoded()) == decodes
    assert b.runner.holders == {}


def test_a_time_limit_counts_the_time_in_the_queue(harness) -> None:
    b = harness(slots=1)
    b.submit("a", max_tokens=3)
    b.submit("b", time_limit_s=10)
    b.clock.now = 8
    b.step(times=3)
    assert b.running() == {"b"}
    b.clock.now = 11
    b.step()
    assert b.reason("b") == "time_limit"


def test_a_slot_freed_by_a_time_limit_is_filled_in_the_same_step(harness) -> None:
    b = harness(slots=1)
    b.submit("a", time_limit_s=10)
    b.submit("b")
    b.step()
    b.clock.now = 11
    b.step()
    assert b.reason("a") == "time_limit"
    assert b.running() == {"b"}


def test_without_a_time_limit_a_request_may_take_for_ever(harness) -> None:
    b = harness(slots=1, a="ab" + END)
    b.submit("a")
    b.step()
    b.clock.now = 1e9
    b.drain()
    assert b.reason("a") == "end_of_turn"


# --- cancelling ----------------------------------------------------------------------------------------------------------


def test_a_request_cancelled_while_waiting_never_gets_a_slot(harness) -> None:
    b = harness(slots=1)
    b.submit("a", "b", "c", max_tokens=4)
    b.step()
    b.scheduler.cancel("b")
    b.step()
    assert (b.kinds("b"), b.reason("b"), b.finish("b").completion_tokens) == ("QF", "cancelled", 0)
    b.drain()
    assert b.runner.prefilled() == ["a", "c"]


def test_a_request_cancelled_before_the_first_step_has_only_a_finish(harness) -> None:
    b = harness()
    b.submit("a")
    b.scheduler.cancel("a")
    b.step()
    assert (b.kinds("a"), b.reason("a")) == ("F", "cancelled")
    assert b.runner.calls == []
    assert not b.scheduler.has_work()


def test_a_request_cancelled_while_running_frees_its_slot_at_the_start_of_the_next_step(harness) -> None:
    b = harness(slots=1, a="abcdefgh" + END)
    b.submit("a", "b")
    b.step(times=2)
    b.scheduler.cancel("a")
    calls_before = len(b.runner.calls)
    events = b.step()
    assert [(call.method, call.requests) for call in b.runner.calls[calls_before:]] == [
        ("release", ("a",)),
        ("begin", ("b",)),
        ("read_piece", ("b",)),
        ("decode", ("b",)),
    ]
    assert events[0] == ("a", b.finish("a"))
    assert (b.reason("a"), b.text("a"), b.finish("a").text) == ("cancelled", "abc", "c")


def test_a_request_cancelled_inside_its_prefill_ends_in_the_next_step(harness) -> None:
    b = harness(slots=1, a="abcdefgh" + END)
    b.runner.on_prefill = b.scheduler.cancel
    b.submit("a")
    b.step()
    b.runner.on_prefill = lambda _: None
    decodes = len(b.runner.decoded())
    b.step()
    assert b.reason("a") == "cancelled"
    assert "abcdefgh".startswith(b.text("a"))
    assert len(b.runner.decoded()) == decodes
    assert not b.scheduler.has_work()


def test_a_request_cancelled_inside_a_decode_ends_in_the_next_step_and_the_others_go_on(harness) -> None:
    b = harness(slots=2, a="abcdefgh" + END, b="BCDEF" + END)
    b.submit("a", "b")
    b.step(times=2)
    b.runner.on_decode = lambda _: b.scheduler.cancel("a")
    b.step()
    b.runner.on_decode = lambda _: None
    assert b.running() == {"a", "b"}
    b.step()
    assert (b.reason("a"), b.text("a")) == ("cancelled", "abcd")
    assert b.runner.decoded()[-1] == ("b",)
    b.drain()
    assert b.text("b") == "BCDEF"


def test_another_request_can_be_cancelled_inside_a_prefill(harness) -> None:
    b = harness(slots=1)
    b.runner.on_prefill = lambda name: b.scheduler.cancel("b") if name == "a" else None
    b.submit("a", "b", "c", max_tokens=2)
    b.drain()
    assert (b.reason("b"), b.admitted()) == ("cancelled", ["a", "c"])


def test_cancelling_twice_is_cancelling_once(harness) -> None:
    b = harness(slots=1)
    b.submit("a", "b")
    b.step()
    for name in "aabb":
        b.scheduler.cancel(name)
    b.step()
    for name in "ab":
        b.scheduler.cancel(name)
    b.drain()
    assert (b.kinds("a"), b.kinds("b")) == ("PTTF", "QF")


def test_cancelling_what_has_ended_or_never_was_changes_nothing(harness) -> None:
    b = harness(slots=1, a="hi" + END, b="ho" + END)
    b.scheduler.cancel("a")
    b.submit("a")
    b.drain()
    b.scheduler.cancel("a")
    b.scheduler.cancel("nobody")
    assert not b.scheduler.has_work()
    assert b.step() == []
    b.submit("b")
    b.drain()
    assert (b.reason("a"), b.reason("b")) == ("end_of_turn", "end_of_turn")


def test_a_cancel_that_comes_with_the_last_token_does_not_reach_a_later_request_of_the_same_id(harness) -> None:
    b = harness(slots=1, a="h" + END)
    b.runner.on_decode = lambda _: b.scheduler.cancel("a")
    b.submit("a")
    b.step()
    assert b.kinds("a") == "PTTF"
    b.runner.on_decode = lambda _: None
    b.log.clear()
    b.submit("a")
    b.drain()
    assert (b.reason("a"), b.text("a")) == ("end_of_turn", "h")


def test_a_request_both_cancelled_and_out_of_time_ends_once(harness) -> None:
    b = harness(slots=1)
    b.submit("a", "b", time_limit_s=5)
    b.step()
    b.clock.now = 6
    b.scheduler.cancel("a")
    b.scheduler.cancel("b")
    b.drain()
    assert (b.kinds("a"), b.kinds("b")) == ("PTTF", "QF")
