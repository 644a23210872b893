# pyright: reportAttributeAccessIssue=false
"""Random load on the scheduler against a model of what it owes: every request ends exactly once and no slot leaks."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mllama_demo.engine.base import Client, Event, FinishEvent, GenerationRequest, PrefillEvent, TokenEvent
from mllama_demo.engine.runner import RunnerDown
from mllama_demo.engine.scheduler import Scheduler
from mllama_demo.errors import BackendBusy, BadRequest, cause_of
from mllama_demo.sampling import SamplingParams
from tests.support.scripted_runner import END, END_IDS, Call, Clock, ScriptedRunner, SpelledStream, check_legal

# --- any load ------------------------------------------------------------------------------------------------------------


Path = tuple[str, ...]  # from an address to a visitor or a conversation


@dataclass
class Plan:
    """What the storm knows of a request: when it came, and how it ends when nothing comes in between."""

    request: GenerationRequest
    script: str
    arrival: int
    submitted_at: float
    events: list[Event] = field(default_factory=list)

    @property
    def state(self) -> str:
        kinds = {type(event) for event in self.events}
        return "ended" if FinishEvent in kinds else "running" if PrefillEvent in kinds else "waiting"

    @property
    def is_read(self) -> bool:
        return any(isinstance(event, TokenEvent) for event in self.events)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TokenEvent | FinishEvent))

    def outcomes(self, max_seq_len: int) -> set[tuple[str, str, int]]:
        """(reason, text, tokens) when nobody cancels and nothing fails; two where two limits fall on the same token."""
        sampling, text = self.request.sampling, ""
        for tokens, letter in enumerate(self.script, start=1):
            if letter == END:
                return {("end_of_turn", text, tokens)}
            text += letter
            hits = [text.index(stop) for stop in sampling.stop if stop in text]
            if hits:
                return {("stop_string", text[: min(hits)], tokens)}
            limits = {"max_tokens": sampling.max_tokens, "context_full": max_seq_len - len(self.request.prompt_ids)}
            if reached := {(reason, text, tokens) for reason, limit in limits.items() if tokens == limit}:
                return reached
        raise AssertionError("the script is longer than any limit")


def within(prefix: Path, plans: list[Plan]) -> list[Plan]:
    return [plan for plan in plans if plan.request.queue_path[: len(prefix)] == prefix]


class Storm:
    """Random requests, cancels, failures and expiries, with a model of whose turn it is. Time goes in whole seconds and the
    limits in halves, so that it never matters whether a limit is reached or passed."""

    def __init__(self, dice: random.Random, requests: int, may_go_down: bool) -> None:
        self.dice = dice
        self.to_come = requests
        self.may_go_down = may_go_down
        self.max_waiting = dice.choice([0, 1, 4, 30])
        self.clock = Clock()
        self.runner = ScriptedRunner(slots=dice.randint(1, 4), max_seq_len=dice.choice([8, 24]))
        self.scheduler = Scheduler(
            self.runner,
            new_text_stream=SpelledStream,
            end_of_turn_ids=END_IDS,
            max_waiting=self.max_waiting,
            clock=self.clock,
        )
        self.plans: dict[str, Plan] = {}
        self.cancelled: set[str] = set()  # to be ended by the next step
        # The turns of addresses, visitors and conversations, by the path from the address to them.
        self.turns: dict[Path, int] = {}
        self.served: dict[Path, int] = {}
        self.failures_in_a_row = {"prefill": 0, "decode": 0}
        self.fatal = False
        self.refused = 0

    def those(self, state: str) -> list[Plan]:
        return [plan for plan in self.plans.values() if plan.state == state]

    def run(self) -> None:
        for _ in range(100 * (self.to_come + 1)):
            if self.scheduler.status().down is not None:
                break
            if not self.to_come and not self.scheduler.has_work():
                break
            for _ in range(self.dice.choice([0, 0, 1, 1, 3])):
                self.submit()
            self.cancel_some(one_in=6)
            self.clock.now += self.dice.randint(0, 2)
            self.prepare_the_runner()
            self.step()
        self.check_the_end()

    # --- what happens from outside ---

    def submit(self) -> None:
        if not self.to_come:
            return
        name = f"r{len(self.plans) + self.refused}"
        script = "".join(self.dice.choice("abc") for _ in range(self.runner.max_seq_len))
        if self.dice.randint(0, 1):
            place = self.dice.randint(0, 12) % len(script)
            script = script[:place] + END + script[place + 1 :]
        request = GenerationRequest(
            prompt_ids=(7,) * self.dice.randint(1, self.runner.max_seq_len - 1),
            sampling=SamplingParams(max_tokens=self.dice.randint(1, 12), stop=self.dice.choice([(), ("abc",), ("cc", "b")])),
            conversation_id=self.dice.choice(["", "x", "x", "y", "z"]),
            client=Client(self.dice.choice(["", "here", "there"]), self.dice.choice(["", "ann", "ben"])),
            time_limit_s=self.dice.choice([None, None, 3.5, 20.5]),
            id=name,
        )
        room = self.max_waiting + self.runner.slots - len(self.those("running"))
        full = len(self.those("waiting")) >= room
        self.runner.scripts[name] = script
        self.runner.pieces[name] = self.dice.choice([1, 1, 2, 5])
        try:
            self.scheduler.submit(request)
        except BackendBusy:
            assert full, "refused although there was room"
            self.refused += 1
            self.to_come -= 1
            return
        assert not full or self.cancelled, "taken although the queue was full"
        self.join(request.queue_path)
        self.plans[name] = Plan(request, script, len(self.plans), self.clock.now)
        self.to_come -= 1

    def join(self, path: Path) -> None:
        """Who has nothing under way takes the turn that is being served; who has, goes on after its own last turn."""
        for length in range(1, len(path) + 1):
            prefix, parent = path[:length], path[: length - 1]
            if not within(prefix, self.those("waiting") + self.those("running")):
                self.turns.pop(prefix, None)
                self.served.pop(prefix, None)
            if not within(prefix, self.those("waiting")):
                self.turns[prefix] = max(self.turns.get(prefix, 0), self.served.get(parent, 0))

    def next_of(self, waiting: list[Plan], prefix: Path = ()) -> Plan:
        """The one whose turn it is: of the address with the lowest turn, its visitor with the lowest turn, and so on."""
        if len(prefix) == len(waiting[0].request.queue_path):
            return waiting[0]
        children = {plan.request.queue_path[: len(prefix) + 1] for plan in waiting}
        first = {child: self.next_of(within(child, waiting), child) for child in children}
        return first[min(children, key=lambda child: (self.turns[child], first[child].arrival))]

    def serve(self, path: Path) -> None:
        for length in range(1, len(path) + 1):
            prefix, parent = path[:length], path[: length - 1]
            self.served[parent] = max(self.served.get(parent, 0), self.turns[prefix])
            self.turns[prefix] += 1

    def cancel_some(self, one_in: int) -> None:
        if self.plans and self.dice.randint(1, one_in) == 1:
            plan = self.dice.choice(list(self.plans.values())[-12:])
            self.scheduler.cancel(plan.request.id)
            if plan.state != "ended":
                self.cancelled.add(plan.request.id)

    def prepare_the_runner(self) -> None:
        """At most one failure a step, and no third in a row unless the scheduler may go down."""

        def inside(request_ids: object) -> None:
            self.clock.now += self.dice.randint(0, 1)
            self.cancel_some(one_in=12)

        self.runner.on_prefill = self.runner.on_decode = inside
        self.runner.fail_begin.clear()
        self.runner.fail_prefill.clear()
        self.runner.fail_decode.clear()
        fate = self.dice.randint(1, 24)
        if fate == 1 and (self.may_go_down or self.failures_in_a_row["decode"] < 2):
            self.runner.fail_decode.append(RuntimeError("decode failed"))
        elif fate in (2, 3) and (self.may_go_down or self.failures_in_a_row["prefill"] < 2):
            self.arm(RuntimeError("prefill failed"))
        elif fate == 4:
            self.arm(BadRequest("no pixels"))
        elif fate == 5 and self.may_go_down and self.dice.randint(1, 4) == 1:
            self.runner.fail_decode.append(RunnerDown("device gone"))

    def arm(self, error: Exception) -> None:
        """Whoever begins next, or is read to the end, fails."""
        armed = self.dice.choice([self.runner.fail_begin, self.runner.fail_prefill])
        armed |= {plan.request.id: error for plan in self.plans.values() if plan.state != "ended"}

    # --- a step, and what must be true of it ---

    def step(self) -> None:
        due = {name for name in self.cancelled if self.plans[name].state != "ended"}
        self.cancelled.clear()
        expired = {
            plan.request.id
            for plan in self.those("waiting") + self.those("running")
            if plan.request.time_limit_s is not None and self.clock.now - plan.submitted_at > plan.request.time_limit_s
        }
        leaving = due | expired
        waiting = [plan for plan in self.those("waiting") if plan.request.id not in leaving]
        staying = [plan for plan in self.those("running") if plan.request.id not in leaving]
        next_one = self.next_of(waiting) if waiting else None
        reading = next((plan for plan in staying if not plan.is_read), None)
        if reading is not None or len(staying) == self.runner.slots:
            next_one = None

        calls_before = len(self.runner.calls)
        armed = {
            "begin": dict(self.runner.fail_begin),
            "read_piece": dict(self.runner.fail_prefill),
            "decode": list(self.runner.fail_decode),
        }
        events = self.scheduler.step()
        calls = self.runner.calls[calls_before:]
        for name, event in events:
            self.plans[name].events.append(event)

        finishes = {name: event for name, event in events if isinstance(event, FinishEvent)}
        begun = [call.requests[0] for call in calls if call.method == "begin"]
        read = [call.requests[0] for call in calls if call.method == "read_piece"]
        decodes = [set(call.requests) for call in calls if call.method == "decode"]
        is_down = self.scheduler.status().down is not None

        # 1. who had to leave left, before anything else
        assert {name for name, _ in events[: len(leaving)]} == leaving
        for name in leaving:
            assert finishes[name].reason in ["cancelled"] * (name in due) + ["time_limit"] * (name in expired)
        # 2. whose turn it was got the slot, unless a prompt is being read; one piece of one prompt was read
        assert begun == ([next_one.request.id] if next_one else [])
        reader = reading or next_one
        if reader and (reader is reading or reader.request.id not in armed["begin"]):
            assert read == [reader.request.id]
        if next_one:
            self.serve(next_one.request.queue_path)
        # 3. all that were read decoded together; one cancelled meanwhile may be left out
        everyone = {plan.request.id for plan in staying if plan is not reading}
        assert len(decodes) <= 1
        assert all(everyone - self.cancelled <= together <= everyone | set(read) for together in decodes)
        assert decodes or is_down or everyone <= self.cancelled
        # 4. who failed failed for the right reason, and nobody else did
        failed = self.count_failures(calls, armed)
        assert is_down == self.fatal
        errors = {name: cause_of(finish.error) for name, finish in finishes.items() if finish.reason == "error"}
        assert all(cause in errors[name] for name, cause in failed.items())
        assert self.fatal or errors.keys() == failed.keys()
        # 5. slots are held by those who run
        assert set(self.runner.holders.values()) == {plan.request.id for plan in self.those("running")}

    def count_failures(self, calls: list[Call], armed: dict[str, Any]) -> dict[str, str]:
        """The cause for each request that the calls of this step failed."""
        failed: dict[str, str] = {}
        for call in calls:
            name = call.requests[0]
            if call.method == "release" or (call.method == "read_piece" and self.has_more_to_read(name)):
                continue
            kind = "decode" if call.method == "decode" else "prefill"
            error = next(iter(armed["decode"]), None) if kind == "decode" else armed[call.method].get(name)
            if error is None:
                if call.method != "begin":
                    self.failures_in_a_row[kind] = 0
                if kind == "decode":
                    self.failures_in_a_row["prefill"] = 0
                continue
            failed |= dict.fromkeys(call.requests, str(error))
            self.failures_in_a_row[kind] += not isinstance(error, BadRequest)
            self.fatal |= isinstance(error, RunnerDown) or self.failures_in_a_row[kind] >= 3
        return failed

    def has_more_to_read(self, name: str) -> bool:
        read = sum(call.method == "read_piece" and call.requests == (name,) for call in self.runner.calls)
        return read < self.runner.pieces[name]

    def check_the_end(self) -> None:
        assert not self.scheduler.has_work()
        assert self.runner.violations == []
        assert self.runner.holders == {}
        assert (self.scheduler.status().running, self.scheduler.status().waiting) == (0, 0)
        prefilled = set(self.runner.prefilled())
        for name, plan in self.plans.items():
            check_legal(plan.request, plan.events, name in prefilled)
            finish = plan.events[-1]
            assert isinstance(finish, FinishEvent)
            tokens = [event for event in plan.events if isinstance(event, TokenEvent)]
            assert "".join(chr(event.token_id) for event in tokens) == plan.script[: len(tokens)]
            said = plan.script[: len(tokens)]
            if finish.reason in ("cancelled", "time_limit"):
                assert plan.text == said
            elif finish.reason == "error":
                assert said.startswith(plan.text)
            else:
                assert (finish.reason, plan.text, len(tokens)) in plan.outcomes(self.runner.max_seq_len)


@pytest.mark.slow
def test_a_thousand_requests_all_end_once() -> None:
    reasons: dict[str, int] = {}
    total = 0
    for seed in range(4):
        storm = Storm(random.Random(seed), requests=250, may_go_down=False)
        storm.run()
        total += len(storm.plans) + storm.refused
        for plan in storm.plans.values():
            finish = plan.events[-1]
            reasons[finish.reason] = reasons.get(finish.reason, 0) + 1
    assert total == 1_000
    assert min(reasons.values()) >= 10, reasons
    assert len(reasons) == 7


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(dice=st.randoms(use_true_random=False), requests=st.integers(1, 12), may_go_down=st.booleans())
def test_any_small_load_ends_well(dice: random.Random, requests: int, may_go_down: bool) -> None:
    Storm(dice, requests, may_go_down).run()
