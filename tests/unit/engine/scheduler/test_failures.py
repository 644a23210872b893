"""A runner that fails, a scheduler that shuts down, and calls from other threads: nothing is lost or leaked."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import RunnerDown
from mllama_demo.errors import BackendUnavailable, BadRequest, cause_of
from tests.support.scheduler_harness import SchedulerHarness
from tests.support.scripted_runner import END, NOT_FINITE

pytestmark = pytest.mark.timeout(60)  # a deadlock fails instead of hanging


def answers_while_busy(call: Callable[[], object]) -> bool:
    """True when `call` returns in another thread although this thread is busy."""
    done = threading.Event()
    threading.Thread(target=lambda: (call(), done.set()), daemon=True).start()
    return done.wait(timeout=10)


# --- when the runner fails -----------------------------------------------------------------------------------------------


def test_a_failing_prefill_ends_that_request_alone(harness) -> None:
    b = harness(slots=2, a="abcd" + END, c="CD" + END)
    b.submit("a", "b", "c")
    b.step()
    b.runner.fail_prefill["b"] = RuntimeError("out of device memory")
    b.step()
    assert b.reason("b") == "error"
    assert "out of device memory" in cause_of(b.finish("b").error)
    assert b.finish("b").completion_tokens == 0
    assert b.runner.holders == {0: "a"} or b.runner.holders == {1: "a"}
    b.drain()
    assert (b.text("a"), b.text("c")) == ("abcd", "CD")
    assert b.scheduler.status().down is None


def test_a_failing_decode_ends_exactly_those_in_it(harness) -> None:
    b = harness(slots=2, c="CD" + END, d="DE" + END)
    b.submit("a", "b", "c", "d")
    b.step()
    b.runner.fail_decode = [RuntimeError("device timeout")]
    b.step()
    for name in "ab":
        assert b.reason(name) == "error"
        assert "device timeout" in cause_of(b.finish(name).error)
    assert b.finish("a").completion_tokens == 2
    assert b.finish("b").completion_tokens == 1
    assert b.runner.holders == {}
    b.drain()
    assert (b.text("c"), b.text("d")) == ("CD", "DE")
    assert b.scheduler.status().down is None


def test_a_step_without_a_token_for_one_request_ends_that_request_alone_and_is_no_failure_of_the_model(harness) -> None:
    scripts = dict.fromkeys("bcdef", "B" + NOT_FINITE)
    b = harness(slots=2, a="abcdefghijklmnopq" + END, **scripts)
    b.submit("a", *scripts)
    b.drain()
    assert b.text("a") == "abcdefghijklmnopq"
    for name in scripts:
        assert b.reason(name) == "error"
        assert "not finite numbers" in cause_of(b.finish(name).error)
        assert b.finish(name).completion_tokens == 1
    assert b.scheduler.status().down is None
    assert b.runner.holders == {}


def assert_down(b: SchedulerHarness, cause: str) -> None:
    assert cause in cause_of(b.scheduler.status().down)
    assert not b.scheduler.has_work()
    assert b.runner.holders == {}
    assert b.step() == []
    with pytest.raises(BackendUnavailable, match=str(b.scheduler.status().down)):
        b.submit("late")


PROBE = GenerationRequest((1, 2, 3), id="probe")
BROKEN_NUMBERS = FloatingPointError("numbers that are not finite")


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("method", ["prefill", "decode"])
def test_a_conversation_with_numbers_that_are_not_finite_does_not_take_the_model_down(harness, slots: int, method: str) -> None:
    b = harness(slots=slots, probe=PROBE, good="Good" + END)
    for name in "abcdefghij":
        b.submit(name, conversation="the same")
        if method == "prefill":
            b.runner.fail_prefill[name] = BROKEN_NUMBERS
        else:
            b.runner.fail_decode = [BROKEN_NUMBERS]
        b.drain()
        assert b.reason(name) == "error"
        assert "not finite" in cause_of(b.finish(name).error)
    b.submit("good")
    b.drain()
    assert b.text("good") == "Good"
    assert b.scheduler.status().down is None
    assert b.runner.prefilled().count("probe") == 3, "after each three failures in a row"
    assert b.runner.holders == {}


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("fails", ["prefill", "decode"])
def test_a_model_whose_every_answer_is_not_finite_is_down(harness, slots: int, fails: str) -> None:
    b = harness(slots=slots, probe=PROBE)
    b.submit(*"abcde")
    b.runner.fail_prefill = dict.fromkeys("abc", BROKEN_NUMBERS)
    if fails == "prefill":
        b.runner.fail_prefill["probe"] = BROKEN_NUMBERS
    else:
        b.runner.fail_decode = [BROKEN_NUMBERS]
    b.step(times=3)
    for name in "abcde":
        assert b.reason(name) == "error"
    assert b.runner.prefilled() == [*"abc", "probe"]
    assert_down(b, "not finite")


def test_the_model_is_not_probed_while_a_prompt_is_read(harness) -> None:
    b = harness(slots=2, probe=PROBE, long="Long" + END)
    b.runner.pieces["long"] = 9
    b.submit("a")
    b.step()
    b.scheduler._failures["decode"] = 2
    b.runner.fail_decode = [BROKEN_NUMBERS]
    b.submit("long")
    b.step()
    assert b.reason("a") == "error"
    assert (b.runner.prefilled().count("probe"), b.scheduler.status().down) == (0, None)
    b.drain()
    assert b.text("long") == "Long"


@pytest.mark.parametrize("error", [RuntimeError("the device hiccups"), RunnerDown("the device is gone")])
def test_other_failures_are_not_excused_by_a_probe(harness, error: Exception) -> None:
    b = harness(slots=1, probe=PROBE)
    b.submit(*"abcd")
    b.runner.fail_prefill = dict.fromkeys("abc", error)
    b.drain()
    assert "probe" not in b.runner.prefilled()
    assert_down(b, str(error))


def test_three_failures_in_a_row_take_the_scheduler_down(harness) -> None:
    b = harness(slots=1)
    b.submit(*"abcde")
    b.runner.fail_prefill = {name: RuntimeError(f"broken {name}") for name in "abc"}
    b.step(times=2)
    assert b.scheduler.status().down is None
    assert b.waiting() == set("cde")
    b.step()
    for name in "abcde":
        assert b.reason(name) == "error"
    assert [f"broken {name}" in cause_of(b.finish(name).error) for name in "abc"] == [True] * 3
    assert b.runner.prefilled() == list("abc")
    assert_down(b, "broken c")


def test_prefills_that_work_do_not_excuse_decodes_that_never_do(harness) -> None:
    b = harness(slots=1)
    b.submit(*"abcd")
    b.runner.fail_decode = [RuntimeError(f"broken decode {n}") for n in (1, 2, 3)]
    b.step(times=3)
    assert [b.reason(name) for name in "abcd"] == ["error"] * 4
    assert_down(b, "broken decode 3")


def test_a_success_in_between_starts_the_count_again(harness) -> None:
    b = harness(slots=1, c="C" + END, f="F" + END)
    b.submit(*"abcdef")
    b.runner.fail_prefill = {name: RuntimeError("broken") for name in "abde"}
    b.drain()
    assert [b.reason(name) for name in "abcdef"] == ["error", "error", "end_of_turn", "error", "error", "end_of_turn"]
    assert b.scheduler.status().down is None


def test_a_decode_of_others_counts_as_a_success_between_failing_prefills(harness) -> None:
    b = harness(slots=2, a="abcdefgh" + END)
    b.submit(*"abcde")
    b.runner.fail_prefill = {name: RuntimeError("broken") for name in "bcde"}
    b.drain()
    assert [b.reason(name) for name in "abcde"] == ["end_of_turn", "error", "error", "error", "error"]
    assert b.scheduler.status().down is None


@pytest.mark.parametrize("method", ["prefill", "decode"])
def test_a_runner_that_says_it_is_down_takes_the_scheduler_down_at_once(harness, method: str) -> None:
    b = harness(slots=2)
    b.submit("a", "b", "c", "d")
    b.step()
    if method == "prefill":
        b.runner.fail_prefill["b"] = RunnerDown("the device is gone")
    else:
        b.runner.fail_decode = [RunnerDown("the device is gone")]
    b.step()
    for name in "abcd":
        assert b.reason(name) == "error"
        assert "the device is gone" in cause_of(b.finish(name).error)
    assert_down(b, "the device is gone")


def test_a_bad_request_found_in_prefill_ends_that_request_alone_and_is_no_failure_of_the_runner(harness) -> None:
    b = harness(slots=1, f="F" + END)
    b.submit(*"abcdef")
    b.runner.fail_prefill = {name: BadRequest("The image has no pixels.") for name in "abcde"}
    b.drain()
    for name in "abcde":
        assert b.reason(name) == "error"
        assert "The image has no pixels." in cause_of(b.finish(name).error)
    assert b.text("f") == "F"
    assert b.scheduler.status().down is None


# --- shutting down -------------------------------------------------------------------------------------------------------


def test_shutting_down_ends_everything_with_the_reason(harness) -> None:
    b = harness(slots=2)
    b.submit("a", "b", "c", "d")
    b.step(times=2)
    b.scheduler.cancel("b")
    events = b.shutdown("The server is stopping.")
    assert sorted(name for name, _ in events) == list("abcd")
    for name in "acd":
        assert (b.reason(name), b.finish(name).error) == ("error", "The server is stopping.")
    assert b.finish("b").reason in ("error", "cancelled")
    assert_down(b, "The server is stopping")
    assert b.shutdown("The server is stopping.") == []


def test_shutting_down_an_idle_scheduler_ends_nothing(harness) -> None:
    b = harness()
    assert b.shutdown("The server is stopping.") == []
    assert b.runner.calls == []
    assert_down(b, "The server is stopping")


# --- other threads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prefill", "decode", "release"])
def test_nobody_waits_for_a_busy_runner(harness, method: str) -> None:
    """Submitting, cancelling and asking return while the runner is inside a call, and take effect in the next step."""
    b = harness(slots=1, b="B" + END)
    returned: dict[str, bool] = {}

    def meanwhile(_: object) -> None:
        b.runner.on_prefill = b.runner.on_decode = b.runner.on_release = lambda _: None
        calls: dict[str, Callable[[], object]] = {
            "submit": lambda: b.submit("b"),
            "cancel": lambda: b.scheduler.cancel("a"),
            "status": b.scheduler.status,
            "has_work": b.scheduler.has_work,
        }
        for name, call in calls.items():
            if all(returned.values()):
                returned[name] = answers_while_busy(call)

    setattr(b.runner, f"on_{method}", meanwhile)
    b.submit("a", max_tokens=2 if method == "release" else 20)
    b.step()
    assert returned == {"submit": True, "cancel": True, "status": True, "has_work": True}
    b.drain()
    assert (b.reason("a"), b.text("b")) == ("max_tokens" if method == "release" else "cancelled", "B")


def test_requests_from_many_threads_all_finish(harness) -> None:
    b = harness(slots=3, max_waiting=1_000)
    threads = [
        threading.Thread(target=b.submit, args=[f"{t}-{n}" for n in range(8)], kwargs={"conversation": str(t), "max_tokens": 3})
        for t in range(5)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        b.step()
    b.drain()
    assert sorted(b.requests) == sorted(f"{t}-{n}" for t in range(5) for n in range(8))
    assert {b.reason(name) for name in b.requests} == {"max_tokens"}
