"""The scheduler on a scripted runner: who gets a slot when, how each request ends, and that nothing is lost or leaked."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import pytest
from scripted_runner import END, END_IDS, LETTER, Clock, ScriptedRunner, SpelledStream, check_legal, trace_of

from mllama_demo.backend.base import Event, FinishEvent, GenerationRequest, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.backend.runner import RunnerDown
from mllama_demo.backend.scheduler import Scheduler
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, PromptTooLong
from mllama_demo.sampling import SamplingParams

pytestmark = pytest.mark.timeout(60)  # a deadlock fails instead of hanging


class Bench:
    """A scheduler, its scripted runner and its clock, with every event so far. What must hold for any request at any time
    is checked in every step and by `check`."""

    def __init__(self, slots: int = 2, max_waiting: int = 64, max_seq_len: int = 64, **scripts: str) -> None:
        self.clock = Clock()
        self.runner = ScriptedRunner(slots, max_seq_len, scripts)
        self.scheduler = Scheduler(
            self.runner, new_text_stream=SpelledStream, end_of_turn_ids=END_IDS, max_waiting=max_waiting, clock=self.clock
        )
        self.requests: dict[str, GenerationRequest] = {}
        self.log: list[tuple[str, Event]] = []

    def submit(self, *names: str, prompt: int = 3, conversation: str = "", time_limit_s: float | None = None, **sampling) -> None:
        """One request for each name, which becomes its id. Its conversation is its own unless named."""
        for name in names:
            request = GenerationRequest(
                prompt_ids=tuple(range(1000, 1000 + prompt)),
                sampling=SamplingParams(**sampling),
                conversation_id=conversation,
                time_limit_s=time_limit_s,
                id=name,
            )
            before = self.requests.copy()
            self.requests[name] = request
            try:
                self.scheduler.submit(request)
            except Exception:
                self.requests = before
                raise

    def step(self, times: int = 1) -> list[tuple[str, Event]]:
        """The events of the last of these steps."""
        events: list[tuple[str, Event]] = []
        for _ in range(times):
            calls_before = len(self.runner.calls)
            events = self.scheduler.step()
            self.log += events
            verbs = [call.verb for call in self.runner.calls[calls_before:]]
            assert verbs.count("prefill") <= 1
            assert verbs.count("decode") <= 1
            assert set(self.runner.holders.values()) == self.running(), "a slot is held exactly while its request runs"
        return events

    def drain(self, limit: int = 500) -> None:
        """Steps until nothing is left to do."""
        for _ in range(limit):
            if not self.scheduler.has_work():
                return
            self.step()
        pytest.fail(f"still at work after {limit} steps: {self.scheduler.status()}")

    def shutdown(self, reason: str) -> list[tuple[str, Event]]:
        events = self.scheduler.shutdown(reason)
        self.log += events
        return events

    def events(self, name: str) -> list[Event]:
        return [event for owner, event in self.log if owner == name]

    def kinds(self, name: str) -> str:
        """The events of a request, a letter each: Queue, Prefill, Token, Finish."""
        return "".join(LETTER[type(event)] for event in self.events(name))

    def text(self, name: str) -> str:
        return "".join(event.text for event in self.events(name) if isinstance(event, TokenEvent | FinishEvent))

    def positions(self, name: str) -> list[int]:
        return [event.position for event in self.events(name) if isinstance(event, QueueEvent)]

    def finish(self, name: str) -> FinishEvent:
        finishes = [event for event in self.events(name) if isinstance(event, FinishEvent)]
        assert len(finishes) == 1, f"{name} finished {len(finishes)} times"
        return finishes[0]

    def reason(self, name: str) -> str:
        return self.finish(name).reason

    def prefill(self, name: str) -> PrefillEvent:
        return next(event for event in self.events(name) if isinstance(event, PrefillEvent))

    def running(self) -> set[str]:
        return {name for name in list(self.requests) if re.fullmatch("Q*PT*", self.kinds(name))}

    def waiting(self) -> set[str]:
        return {name for name in list(self.requests) if re.fullmatch("Q*", self.kinds(name))}

    def admitted(self) -> list[str]:
        """Request ids in the order in which they got a slot."""
        return [name for name, event in self.log if isinstance(event, PrefillEvent)]

    def check(self) -> None:
        assert self.runner.violations == []
        for name, request in self.requests.items():
            check_legal(request, self.events(name), name in self.runner.prefilled())
        assert {name for name, _ in self.log} <= set(self.requests)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches; what holds for every request is checked when the test is over."""
    made: list[Bench] = []

    def make(*args, **kwargs) -> Bench:
        made.append(Bench(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.check()


def answers_while_busy(call: Callable[[], object]) -> bool:
    """True when `call` returns in another thread although this thread is busy."""
    done = threading.Event()
    threading.Thread(target=lambda: (call(), done.set()), daemon=True).start()
    return done.wait(timeout=10)


# --- admission -----------------------------------------------------------------------------------------------------------


def test_an_idle_scheduler_leaves_the_runner_alone(bench) -> None:
    b = bench()
    assert not b.scheduler.has_work()
    assert b.step() == []
    assert b.runner.calls == []


def test_submitting_does_not_touch_the_runner(bench) -> None:
    b = bench()
    b.submit("a", "b", "c")
    b.scheduler.cancel("b")
    assert b.runner.calls == []
    assert b.scheduler.has_work()


def test_one_request_is_prefilled_a_round_and_decodes_in_the_same_round(bench) -> None:
    b = bench(slots=2)
    b.submit("a", "b")
    b.step()
    assert (b.runner.prefilled(), b.runner.decoded()) == (["a"], [("a",)])
    b.step()
    assert (b.runner.prefilled(), [set(d) for d in b.runner.decoded()]) == (["a", "b"], [{"a"}, {"a", "b"}])


def test_every_running_request_is_in_every_decode(bench) -> None:
    b = bench(slots=4)
    b.submit("a", "b", "c", "d", max_tokens=20)
    b.step(times=10)
    assert [len(d) for d in b.runner.decoded()] == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]


def test_requests_of_different_conversations_are_admitted_as_they_arrive(bench) -> None:
    b = bench(slots=1)
    for name in "cabd":
        b.submit(name, conversation=name, max_tokens=2)
    b.drain()
    assert b.admitted() == b.runner.prefilled() == list("cabd")


def test_requests_without_a_conversation_are_each_their_own(bench) -> None:
    b = bench(slots=1)
    b.submit("x1", "x2", conversation="x", max_tokens=2)
    b.submit("p", "q", "r", max_tokens=2)
    b.drain()
    assert b.admitted() == ["x1", "p", "q", "r", "x2"]


def test_within_a_conversation_requests_are_admitted_as_they_arrive(bench) -> None:
    b = bench(slots=2)
    b.submit("x3", "x1", "x4", "x2", conversation="x", max_tokens=3)
    b.drain()
    assert b.admitted() == ["x3", "x1", "x4", "x2"]


def test_a_burst_of_one_conversation_does_not_hold_up_the_others(bench) -> None:
    b = bench(slots=1)
    b.submit("x1", "x2", "x3", "x4", conversation="x", max_tokens=2)
    b.submit("y1", conversation="y", max_tokens=2)
    b.submit("z1", conversation="z", max_tokens=2)
    b.drain()
    assert b.admitted() == ["x1", "y1", "z1", "x2", "x3", "x4"]


def test_two_bursts_take_turns(bench) -> None:
    b = bench(slots=1)
    b.submit("x1", "x2", "x3", conversation="x", max_tokens=2)
    b.submit("y1", "y2", "y3", conversation="y", max_tokens=2)
    b.drain()
    assert b.admitted() == ["x1", "y1", "x2", "y2", "x3", "y3"]


def test_a_newcomer_goes_before_what_is_left_of_a_burst(bench) -> None:
    b = bench(slots=1)
    b.submit("x1", "x2", "x3", "x4", conversation="x", max_tokens=2)
    b.step(times=2)
    assert b.admitted() == ["x1", "x2"]
    b.submit("y1", conversation="y", max_tokens=2)
    b.drain()
    assert b.admitted() == ["x1", "x2", "y1", "x3", "x4"]


def test_a_quiet_conversation_earns_no_credit(bench) -> None:
    """After five requests of x, those of y count from now on: they are not five turns ahead."""
    b = bench(slots=1)
    b.submit("y0", conversation="y", max_tokens=2)
    b.submit("x1", "x2", "x3", "x4", conversation="x", max_tokens=2)
    b.submit("x5", conversation="x", max_tokens=9)
    b.step(times=6)
    assert b.admitted() == ["y0", "x1", "x2", "x3", "x4", "x5"]
    b.submit("y1", "y2", "y3", conversation="y", max_tokens=2)
    b.submit("x6", conversation="x", max_tokens=2)
    b.drain()
    assert b.admitted()[6:] == ["y1", "y2", "x6", "y3"]


def test_a_request_joins_those_already_running(bench) -> None:
    b = bench(slots=2, a="abcdefgh" + END, b="BCD" + END)
    b.submit("a")
    b.step(times=2)
    b.submit("b")
    b.step()
    assert b.running() == {"a", "b"}
    b.drain()
    assert (b.text("a"), b.text("b")) == ("abcdefgh", "BCD")


def test_a_request_leaves_while_others_go_on_and_its_slot_is_used_again(bench) -> None:
    b = bench(slots=2, a="abcdefghijkl" + END, b="B" + END, c="CCC" + END)
    b.submit("a", "b", "c")
    b.step(times=2)
    assert b.running() == {"a"}
    freed = [call.slots for call in b.runner.calls if call.verb == "release"]
    b.step()
    assert b.running() == {"a", "c"}
    assert [call.slots for call in b.runner.calls if call.verb == "prefill"][-1:] == freed
    b.drain()
    assert [b.text(name) for name in "abc"] == ["abcdefghijkl", "B", "CCC"]
    assert b.runner.holders == {}


def test_status_counts_who_runs_and_who_waits(bench) -> None:
    b = bench(slots=2)
    b.submit("a", "b", "c", "d", max_tokens=5)
    assert (b.scheduler.status().running, b.scheduler.status().waiting) == (0, 4)
    b.step()
    assert (b.scheduler.status().running, b.scheduler.status().waiting) == (1, 3)
    b.step()
    assert (b.scheduler.status().running, b.scheduler.status().waiting) == (2, 2)
    b.drain()
    assert (b.scheduler.status().running, b.scheduler.status().waiting, b.scheduler.status().down) == (0, 0, None)


# --- what a request tells ------------------------------------------------------------------------------------------------


def test_the_events_of_a_request_come_in_order_and_spell_its_text(bench) -> None:
    b = bench(slots=1, a="hey" + END)
    b.submit("a", prompt=7)
    b.drain()
    assert b.kinds("a") == "PTTTTF"
    tokens = [(e.index, e.token_id, e.text) for e in b.events("a") if isinstance(e, TokenEvent)]
    assert tokens == [(0, ord("h"), ""), (1, ord("e"), "h"), (2, ord("y"), "e"), (3, ord(END), "")]
    finish = b.finish("a")
    assert (finish.reason, finish.text, finish.prompt_tokens, finish.completion_tokens) == ("end_of_turn", "y", 7, 4)


def test_nothing_follows_the_finish(bench) -> None:
    b = bench(slots=1, a="hi" + END)
    b.submit("a")
    b.drain()
    seen = len(b.events("a"))
    b.submit("b", max_tokens=5)
    b.drain()
    assert len(b.events("a")) == seen


def test_the_runners_record_of_a_token_is_handed_on(bench) -> None:
    b = bench(slots=1, a="hi" + END)
    b.requests["a"] = GenerationRequest(prompt_ids=(1, 2), trace=True, id="a")
    b.scheduler.submit(b.requests["a"])
    b.submit("b", max_tokens=2)
    b.drain()
    assert [e.trace for e in b.events("a") if isinstance(e, TokenEvent)] == [trace_of(ord(c)) for c in "hi" + END]
    assert [e.trace for e in b.events("b") if isinstance(e, TokenEvent)] == [None, None]


def test_the_timings_are_measured_from_submission(bench) -> None:
    b = bench(slots=1)

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


# --- queue positions -----------------------------------------------------------------------------------------------------


def test_a_position_is_told_before_the_prefill_that_changed_it_and_only_when_it_changed(bench) -> None:
    b = bench(slots=1)
    b.submit("a", "b", "c", max_tokens=4)
    events = b.step()
    assert [(n, LETTER[type(e)]) for n, e in events] == [("a", "P"), ("b", "Q"), ("c", "Q"), ("a", "T"), ("a", "T")]
    assert (b.positions("b"), b.positions("c")) == ([1], [2])
    b.step(times=2)
    assert (b.positions("b"), b.positions("c")) == ([1], [2])
    b.step()
    assert b.admitted() == ["a", "b"]
    assert (b.positions("b"), b.positions("c")) == ([1], [2, 1])


def test_what_is_known_before_a_prefill_can_be_delivered_before_it(bench) -> None:
    b = bench(slots=1)
    b.submit("a", "b", max_tokens=4)
    known_at_prefill: list[str] = []
    b.runner.on_prefill = lambda request_ids: known_at_prefill.extend(name + b.kinds(name) for name in "ab")
    late = b.scheduler.step(b.log.extend)
    b.log += late
    assert known_at_prefill == ["aP", "bQ"]
    assert [(name, LETTER[type(event)]) for name, event in late] == [("a", "T"), ("a", "T")]


def test_a_request_that_gets_its_slot_at_once_hears_of_no_queue(bench) -> None:
    b = bench()
    b.submit("a", max_tokens=2)
    b.drain()
    assert b.positions("a") == []


def test_being_overtaken_is_told(bench) -> None:
    b = bench(slots=1)
    b.submit("x1", "x2", "x3", conversation="x", max_tokens=9)
    b.step()
    b.submit("y1", conversation="y")
    b.step()
    assert [b.positions(name) for name in ("y1", "x2", "x3")] == [[1], [1, 2], [2, 3]]


def test_a_cancelled_request_lets_those_behind_it_move_up(bench) -> None:
    b = bench(slots=1)
    b.submit("a", "b", "c", "d", max_tokens=9)
    b.step()
    b.scheduler.cancel("c")
    b.step()
    assert [b.positions(name) for name in "bcd"] == [[1], [2], [3, 2]]
    assert b.kinds("c") == "QF"


def test_the_wait_is_unknown_before_a_first_finish_and_known_after_it(bench) -> None:
    b = bench(slots=1)
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


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_how_many_wait(bench) -> None:
    b = bench(slots=1, max_waiting=3)
    b.submit("a")
    b.step()
    b.submit("b", "c", "d")
    with pytest.raises(BackendBusy, match=r"\b3\b"):
        b.submit("e")


def test_free_slots_make_room_beyond_the_queue(bench) -> None:
    b = bench(slots=2, max_waiting=3)
    b.submit(*"abcde")
    with pytest.raises(BackendBusy):
        b.submit("f")
    b.step()
    with pytest.raises(BackendBusy):
        b.submit("f")


def test_without_a_queue_as_many_requests_are_taken_as_slots_are_free(bench) -> None:
    b = bench(slots=2, max_waiting=0)
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


def test_a_refused_request_leaves_nothing_behind(bench) -> None:
    b = bench(slots=1, max_waiting=0)
    b.submit("a", max_tokens=2)
    with pytest.raises(BackendBusy):
        b.submit("b")
    b.drain()
    b.submit("b", max_tokens=2)
    b.drain()
    assert b.admitted() == ["a", "b"]


@pytest.mark.parametrize("length", [8, 9, 100])
def test_a_prompt_without_room_for_one_new_token_is_refused(bench, length: int) -> None:
    b = bench(max_seq_len=8)
    with pytest.raises(PromptTooLong):
        b.submit("a", prompt=length)
    assert not b.scheduler.has_work()


def test_an_empty_prompt_is_refused(bench) -> None:
    b = bench()
    with pytest.raises(BadRequest):
        b.submit("a", prompt=0)
    assert not b.scheduler.has_work()


def test_an_id_in_use_is_refused_and_the_first_request_goes_on(bench) -> None:
    b = bench(slots=1, a="hi" + END)
    b.submit("a", "b", max_tokens=4)
    with pytest.raises(BadRequest):
        b.submit("a")
    b.step()
    for name in ("a", "b"):
        with pytest.raises(BadRequest):
            b.submit(name)
    b.drain()
    assert b.text("a") == "hi"


def test_an_id_can_be_used_again_once_its_request_has_ended(bench) -> None:
    b = bench(a="hi" + END)
    b.submit("a")
    b.drain()
    first = b.log.copy()
    b.log.clear()
    b.submit("a")
    b.drain()
    assert b.log == first


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
def test_each_finish_reason(bench, script: str, prompt: int, sampling: dict, reason: str, text: str, tokens: int) -> None:
    b = bench(max_seq_len=8 if reason == "context_full" or prompt == 5 else 64, a=script)
    b.submit("a", prompt=prompt, **sampling)
    b.drain()
    finish = b.finish("a")
    assert (finish.reason, b.text("a"), finish.completion_tokens) == (reason, text, tokens)
    assert finish.error is None
    assert len(b.runner.decoded()) == tokens - 1
    assert b.runner.holders == {}


def test_nothing_is_emitted_after_a_stop_string(bench) -> None:
    b = bench(a="one STOP two")
    b.submit("a", stop=("STOP",))
    b.drain()
    assert b.finish("a").text == ""
    assert b.kinds("a") == "P" + "T" * len("one STOP") + "F"


def test_a_request_that_ends_with_its_first_token_frees_its_slot_for_the_next_round(bench) -> None:
    b = bench(slots=1, a=END, b=END)
    b.submit("a", "b")
    b.step()
    assert b.kinds("a") == "PTF"
    assert b.admitted() == ["a"]
    b.step()
    assert b.kinds("b") == "QPTF"
    assert b.runner.decoded() == []


# --- time limits ---------------------------------------------------------------------------------------------------------


def test_a_time_limit_ends_a_waiting_request_without_a_slot(bench) -> None:
    b = bench(slots=1)
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


def test_a_time_limit_ends_a_running_request_and_keeps_its_text(bench) -> None:
    b = bench(slots=1, a="abcdefgh" + END)
    b.submit("a", time_limit_s=10)
    b.step(times=2)
    b.clock.now = 10.5
    decodes = len(b.runner.decoded())
    b.step()
    assert (b.reason("a"), b.text("a"), b.finish("a").text) == ("time_limit", "abc", "c")
    assert len(b.runner.decoded()) == decodes
    assert b.runner.holders == {}


def test_a_time_limit_counts_the_time_in_the_queue(bench) -> None:
    b = bench(slots=1)
    b.submit("a", max_tokens=3)
    b.submit("b", time_limit_s=10)
    b.clock.now = 8
    b.step(times=3)
    assert b.running() == {"b"}
    b.clock.now = 11
    b.step()
    assert b.reason("b") == "time_limit"


def test_a_slot_freed_by_a_time_limit_is_filled_in_the_same_step(bench) -> None:
    b = bench(slots=1)
    b.submit("a", time_limit_s=10)
    b.submit("b")
    b.step()
    b.clock.now = 11
    b.step()
    assert b.reason("a") == "time_limit"
    assert b.running() == {"b"}


def test_without_a_time_limit_a_request_may_take_for_ever(bench) -> None:
    b = bench(slots=1, a="ab" + END)
    b.submit("a")
    b.step()
    b.clock.now = 1e9
    b.drain()
    assert b.reason("a") == "end_of_turn"


# --- cancelling ----------------------------------------------------------------------------------------------------------


def test_a_request_cancelled_while_waiting_never_gets_a_slot(bench) -> None:
    b = bench(slots=1)
    b.submit("a", "b", "c", max_tokens=4)
    b.step()
    b.scheduler.cancel("b")
    b.step()
    assert (b.kinds("b"), b.reason("b"), b.finish("b").completion_tokens) == ("QF", "cancelled", 0)
    b.drain()
    assert b.runner.prefilled() == ["a", "c"]


def test_a_request_cancelled_before_the_first_step_has_only_a_finish(bench) -> None:
    b = bench()
    b.submit("a")
    b.scheduler.cancel("a")
    b.step()
    assert (b.kinds("a"), b.reason("a")) == ("F", "cancelled")
    assert b.runner.calls == []
    assert not b.scheduler.has_work()


def test_a_request_cancelled_while_running_frees_its_slot_at_the_start_of_the_next_step(bench) -> None:
    b = bench(slots=1, a="abcdefgh" + END)
    b.submit("a", "b")
    b.step(times=2)
    b.scheduler.cancel("a")
    calls_before = len(b.runner.calls)
    events = b.step()
    assert [(call.verb, call.requests) for call in b.runner.calls[calls_before:]] == [
        ("release", ("a",)),
        ("prefill", ("b",)),
        ("decode", ("b",)),
    ]
    assert events[0] == ("a", b.finish("a"))
    assert (b.reason("a"), b.text("a"), b.finish("a").text) == ("cancelled", "abc", "c")


def test_a_request_cancelled_inside_its_prefill_ends_in_the_next_step(bench) -> None:
    b = bench(slots=1, a="abcdefgh" + END)
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


def test_a_request_cancelled_inside_a_decode_ends_in_the_next_step_and_the_others_go_on(bench) -> None:
    b = bench(slots=2, a="abcdefgh" + END, b="BCDEF" + END)
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


def test_another_request_can_be_cancelled_inside_a_prefill(bench) -> None:
    b = bench(slots=1)
    b.runner.on_prefill = lambda name: b.scheduler.cancel("b") if name == "a" else None
    b.submit("a", "b", "c", max_tokens=2)
    b.drain()
    assert (b.reason("b"), b.admitted()) == ("cancelled", ["a", "c"])


def test_cancelling_twice_is_cancelling_once(bench) -> None:
    b = bench(slots=1)
    b.submit("a", "b")
    b.step()
    for name in "aabb":
        b.scheduler.cancel(name)
    b.step()
    for name in "ab":
        b.scheduler.cancel(name)
    b.drain()
    assert (b.kinds("a"), b.kinds("b")) == ("PTTF", "QF")


def test_cancelling_what_has_ended_or_never_was_changes_nothing(bench) -> None:
    b = bench(slots=1, a="hi" + END, b="ho" + END)
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


def test_a_cancel_that_comes_with_the_last_token_does_not_reach_a_later_request_of_the_same_id(bench) -> None:
    b = bench(slots=1, a="h" + END)
    b.runner.on_decode = lambda _: b.scheduler.cancel("a")
    b.submit("a")
    b.step()
    assert b.kinds("a") == "PTTF"
    b.runner.on_decode = lambda _: None
    b.log.clear()
    b.submit("a")
    b.drain()
    assert (b.reason("a"), b.text("a")) == ("end_of_turn", "h")


def test_a_request_both_cancelled_and_out_of_time_ends_once(bench) -> None:
    b = bench(slots=1)
    b.submit("a", "b", time_limit_s=5)
    b.step()
    b.clock.now = 6
    b.scheduler.cancel("a")
    b.scheduler.cancel("b")
    b.drain()
    assert (b.kinds("a"), b.kinds("b")) == ("PTTF", "QF")


# --- when the runner fails -----------------------------------------------------------------------------------------------


def test_a_failing_prefill_ends_that_request_alone(bench) -> None:
    b = bench(slots=2, a="abcd" + END, c="CD" + END)
    b.submit("a", "b", "c")
    b.step()
    b.runner.fail_prefill["b"] = RuntimeError("out of device memory")
    b.step()
    assert b.reason("b") == "error"
    assert "out of device memory" in (b.finish("b").error or "")
    assert b.finish("b").completion_tokens == 0
    assert b.runner.holders == {0: "a"} or b.runner.holders == {1: "a"}
    b.drain()
    assert (b.text("a"), b.text("c")) == ("abcd", "CD")
    assert b.scheduler.status().down is None


def test_a_failing_decode_ends_exactly_those_in_it(bench) -> None:
    b = bench(slots=2, c="CD" + END, d="DE" + END)
    b.submit("a", "b", "c", "d")
    b.step()
    b.runner.fail_decode = [RuntimeError("device timeout")]
    b.step()
    for name in "ab":
        assert b.reason(name) == "error"
        assert "device timeout" in (b.finish(name).error or "")
    assert b.finish("a").completion_tokens == 2
    assert b.finish("b").completion_tokens == 1
    assert b.runner.holders == {}
    b.drain()
    assert (b.text("c"), b.text("d")) == ("CD", "DE")
    assert b.scheduler.status().down is None


def assert_down(b: Bench, cause: str) -> None:
    assert cause in (b.scheduler.status().down or "")
    assert not b.scheduler.has_work()
    assert b.runner.holders == {}
    assert b.step() == []
    with pytest.raises(BackendUnavailable, match=cause):
        b.submit("late")


def test_three_failures_in_a_row_take_the_scheduler_down(bench) -> None:
    b = bench(slots=1)
    b.submit(*"abcde")
    b.runner.fail_prefill = {name: RuntimeError(f"broken {name}") for name in "abc"}
    b.step(times=2)
    assert b.scheduler.status().down is None
    assert b.waiting() == set("cde")
    b.step()
    for name in "abcde":
        assert b.reason(name) == "error"
    assert [f"broken {name}" in (b.finish(name).error or "") for name in "abc"] == [True] * 3
    assert b.runner.prefilled() == list("abc")
    assert_down(b, "broken c")


def test_prefills_that_work_do_not_excuse_decodes_that_never_do(bench) -> None:
    b = bench(slots=1)
    b.submit(*"abcd")
    b.runner.fail_decode = [RuntimeError(f"broken decode {n}") for n in (1, 2, 3)]
    b.step(times=3)
    assert [b.reason(name) for name in "abcd"] == ["error"] * 4
    assert_down(b, "broken decode 3")


def test_a_success_in_between_starts_the_count_again(bench) -> None:
    b = bench(slots=1, c="C" + END, f="F" + END)
    b.submit(*"abcdef")
    b.runner.fail_prefill = {name: RuntimeError("broken") for name in "abde"}
    b.drain()
    assert [b.reason(name) for name in "abcdef"] == ["error", "error", "end_of_turn", "error", "error", "end_of_turn"]
    assert b.scheduler.status().down is None


def test_a_decode_of_others_counts_as_a_success_between_failing_prefills(bench) -> None:
    b = bench(slots=2, a="abcdefgh" + END)
    b.submit(*"abcde")
    b.runner.fail_prefill = {name: RuntimeError("broken") for name in "bcde"}
    b.drain()
    assert [b.reason(name) for name in "abcde"] == ["end_of_turn", "error", "error", "error", "error"]
    assert b.scheduler.status().down is None


@pytest.mark.parametrize("verb", ["prefill", "decode"])
def test_a_runner_that_says_it_is_down_takes_the_scheduler_down_at_once(bench, verb: str) -> None:
    b = bench(slots=2)
    b.submit("a", "b", "c", "d")
    b.step()
    if verb == "prefill":
        b.runner.fail_prefill["b"] = RunnerDown("the device is gone")
    else:
        b.runner.fail_decode = [RunnerDown("the device is gone")]
    b.step()
    for name in "abcd":
        assert b.reason(name) == "error"
        assert "the device is gone" in (b.finish(name).error or "")
    assert_down(b, "the device is gone")


def test_a_bad_request_found_in_prefill_ends_that_request_alone_and_is_no_failure_of_the_runner(bench) -> None:
    b = bench(slots=1, f="F" + END)
    b.submit(*"abcdef")
    b.runner.fail_prefill = {name: BadRequest("The image has no pixels.") for name in "abcde"}
    b.drain()
    for name in "abcde":
        assert b.reason(name) == "error"
        assert "The image has no pixels." in (b.finish(name).error or "")
    assert b.text("f") == "F"
    assert b.scheduler.status().down is None


# --- shutting down -------------------------------------------------------------------------------------------------------


def test_shutting_down_ends_everything_with_the_reason(bench) -> None:
    b = bench(slots=2)
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


def test_shutting_down_an_idle_scheduler_ends_nothing(bench) -> None:
    b = bench()
    assert b.shutdown("The server is stopping.") == []
    assert b.runner.calls == []
    assert_down(b, "The server is stopping")


# --- other threads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["prefill", "decode", "release"])
def test_nobody_waits_for_a_busy_runner(bench, verb: str) -> None:
    """Submitting, cancelling and asking return while the runner is inside a call, and take effect in the next step."""
    b = bench(slots=1, b="B" + END)
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

    setattr(b.runner, f"on_{verb}", meanwhile)
    b.submit("a", max_tokens=2 if verb == "release" else 20)
    b.step()
    assert returned == {"submit": True, "cancel": True, "status": True, "has_work": True}
    b.drain()
    assert (b.reason("a"), b.text("b")) == ("max_tokens" if verb == "release" else "cancelled", "B")


def test_requests_from_many_threads_all_finish(bench) -> None:
    b = bench(slots=3, max_waiting=1_000)
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
