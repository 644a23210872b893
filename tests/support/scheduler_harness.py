"""A scheduler, its scripted runner and its clock, watched in every step."""

from __future__ import annotations

import re

import pytest

from mllama_demo.engine.base import Event, FinishEvent, GenerationRequest, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.engine.scheduler import Scheduler
from mllama_demo.sampling import SamplingParams
from tests.support.scripted_runner import END_IDS, LETTER, Clock, ScriptedRunner, SpelledStream, check_legal


class SchedulerHarness:
    """A scheduler, its scripted runner and its clock, with every event so far. What must hold for any request at any time
    is checked in every step and by `check`."""

    def __init__(
        self,
        slots: int = 2,
        max_waiting: int = 64,
        max_seq_len: int = 64,
        probe: GenerationRequest | None = None,
        **scripts: str,
    ) -> None:
        self.probe = probe
        self.clock = Clock()
        self.runner = ScriptedRunner(slots, max_seq_len, scripts)
        self.scheduler = Scheduler(
            self.runner,
            new_text_stream=SpelledStream,
            end_of_turn_ids=END_IDS,
            max_waiting=max_waiting,
            probe=probe,
            clock=self.clock,
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
            probed = () if self.probe is None else (self.probe.id,)
            calls = [call for call in self.runner.calls[calls_before:] if call.requests != probed]
            read = [call.method for call in calls if not all(map(self.is_cached, call.requests))]
            assert read.count("begin") <= 1
            assert read.count("read_piece") <= 1
            assert [call.method for call in calls].count("decode") <= 1
            assert set(self.runner.holders.values()) == self.running(), "a slot is held exactly while its request runs"
        return events

    def is_cached(self, name: str) -> bool:
        """Whether the runner need not read a token of the prompt."""
        return name in self.requests and self.runner.reused.get(name) == len(self.requests[name].prompt_ids)

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
