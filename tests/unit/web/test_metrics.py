"""What Prometheus is told about requests that come and go, read back with its own parser."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mllama_demo.engine.base import MODEL_DOWN, MODEL_STOPPED, GenerationRequest, TokenEvent, TokenLogprobs
from mllama_demo.errors import BackendBusy, BackendUnavailable, Failure
from mllama_demo.runtime.failures import LIMITS, REASONS, FailureLog
from mllama_demo.runtime.logs import REQUEST_ID
from mllama_demo.web.activity import Activity
from mllama_demo.web.metrics import MeasuredBackend, Metrics
from mllama_demo.web.shutdown import CUT_OFF, Shutdown
from tests.support.manual_backend import READ, ManualBackend, finished
from tests.support.waiting import until


class Setup:
    def __init__(self) -> None:
        self.manual = ManualBackend()
        self.failures = FailureLog()
        self.database_failure: str | None = None
        self.metrics = Metrics(self.manual, "tiny", lambda: self.database_failure, self.failures)
        self.activity = Activity()
        self.backend = MeasuredBackend(self.manual, self.metrics, self.activity, Shutdown())

    def value(self, name: str, **labels: str) -> float | None:
        page, _ = self.metrics.render()
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == {"model_name": "tiny", **labels}:
                    return sample.value
        return None

    def ask_by_hand(self) -> asyncio.Task[None]:
        async def read() -> None:
            async with aclosing(self.backend.generate(GenerationRequest((1, 2)))) as events:
                async for _ in events:
                    pass

        return asyncio.create_task(read())

    async def ask(self, *texts: str, end: Any = None) -> None:
        reading = self.ask_by_hand()
        await self.manual.taken()
        self.manual.send(READ)
        self.manual.say(*texts)
        self.manual.send(end or finished(tokens=len(texts)))
        await reading


@pytest.fixture
def setup() -> Setup:
    return Setup()


async def test_an_answer_is_counted_and_timed(setup: Setup) -> None:
    await setup.ask("a", "b", "c")
    assert setup.value("vllm:prompt_tokens_total") == 5
    assert setup.value("vllm:generation_tokens_total") == 3
    assert setup.value("vllm:request_success_total", finished_reason="stop") == 1
    assert setup.value("vllm:time_to_first_token_seconds_sum") == 1.5
    assert setup.value("vllm:time_per_output_token_seconds_count") == 2
    assert setup.value("vllm:e2e_request_latency_seconds_sum") == 3.5
    assert setup.value("vllm:request_queue_time_seconds_sum") == 0.5
    assert setup.value("vllm:request_generation_tokens_sum") == 3
    assert setup.value("vllm:prefix_cache_hits_total") == 0


async def test_the_tokens_of_an_answer_are_counted_once_and_alike_however_many_come_in_an_event(setup: Setup) -> None:
    """A server may send several tokens in an event, with a log probability for each or without any."""
    asked = setup.ask_by_hand()
    await setup.manual.taken()
    three = tuple(TokenLogprobs(text, -1.0) for text in "abc")
    setup.manual.send(READ, TokenEvent(0, -1, "abc", logprobs=three), TokenEvent(3, -1, "defg"))
    await until(lambda: setup.activity.requests()[0].tokens == 4, "both events are counted")
    setup.manual.send(finished(tokens=7))
    await asked
    assert setup.value("vllm:generation_tokens_total") == 7
    assert setup.value("vllm:request_generation_tokens_sum") == 7
    assert setup.value("vllm:time_per_output_token_seconds_count") == 1
    assert sum(minute.tokens for minute in setup.activity.minutes()) == 7


async def test_the_tokens_of_an_answer_that_its_reader_leaves_are_counted_with_those_of_its_prompt(setup: Setup) -> None:
    for number, tokens in enumerate((0, 2)):
        asked = setup.ask_by_hand()
        await setup.manual.taken()
        setup.manual.send(READ)
        setup.manual.say(*"ab"[:tokens])
        phase = ("reading", "writing")[number]
        await until(lambda phase=phase: setup.activity.requests()[0].phase == phase, "the events are counted")
        await until(lambda tokens=tokens: setup.activity.requests()[0].tokens == tokens, "all tokens are")
        asked.cancel()
        await asyncio.wait([asked])
        assert setup.value("vllm:prompt_tokens_total") == (0, 5)[number], "a prompt counts once there was a token"
    assert setup.value("vllm:generation_tokens_total") == 2
    assert setup.value("vllm:request_success_total", finished_reason="abort") == 2
    assert setup.value("vllm:request_prompt_tokens_count") == 0


async def test_prompt_tokens_that_were_not_read_are_summed_up(setup: Setup) -> None:
    for reused in (3, 0, 1):
        await setup.ask("a", end=replace(finished(tokens=1), reused=reused))
    assert setup.value("vllm:prefix_cache_queries_total") == 15
    assert setup.value("vllm:prefix_cache_hits_total") == 4


@pytest.mark.parametrize(
    ("reason", "counted"),
    [
        ("end_of_turn", "stop"),
        ("stop_string", "stop"),
        ("max_tokens", "length"),
        ("context_full", "length"),
        ("time_limit", "length"),
        ("cancelled", "abort"),
        ("error", "error"),
    ],
)
async def test_requests_are_counted_by_how_they_end(setup: Setup, reason: Any, counted: str) -> None:
    await setup.ask("a", end=finished(reason))
    for name in ("stop", "length", "abort", "error"):
        assert setup.value("vllm:request_success_total", finished_reason=name) == (name == counted)


async def test_a_request_whose_stream_is_closed_early_counts_as_an_abort(setup: Setup) -> None:
    async with aclosing(setup.backend.generate(GenerationRequest((1,)))) as events:
        beginning = asyncio.ensure_future(anext(events))
        await setup.manual.taken()
        setup.manual.send(READ)
        await beginning
    assert setup.value("vllm:request_success_total", finished_reason="abort") == 1
    assert setup.manual.closed


@pytest.mark.parametrize(("error", "reason"), [(BackendBusy("Full."), "busy"), (BackendUnavailable("Down."), "unavailable")])
async def test_a_refusal_is_counted_and_raised(setup: Setup, error: Exception, reason: str) -> None:
    setup.manual.refusal = error
    with pytest.raises(type(error)):
        await anext(setup.backend.generate(GenerationRequest((1,))))
    assert setup.value("mllama_demo_requests_refused_total", reason=reason) == 1
    assert setup.value("vllm:request_success_total", finished_reason="abort") == 0


def test_gauges_show_the_current_queue_and_slots(setup: Setup) -> None:
    assert (setup.value("mllama_demo_slots"), setup.value("mllama_demo_queue_limit")) == (2, 8)
    assert (setup.value("vllm:num_requests_running"), setup.value("mllama_demo_ready")) == (0, 1)
    setup.manual.state = "down"
    assert setup.value("mllama_demo_ready") == 0


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (finished("error", error=Failure(MODEL_STOPPED, "was killed")), "engine_restarted"),
        (finished("error", error=Failure(MODEL_DOWN, "the device is gone")), "model_down"),
        (finished("error", error=CUT_OFF), "shutdown"),
        (finished("error", error="The model failed on this request."), "generation"),
        (finished("time_limit"), "time_limit"),
    ],
)
async def test_requests_that_fail_are_counted_by_reason(setup: Setup, end: Any, reason: str) -> None:
    await setup.ask("a", end=end)
    counted = {name: setup.value("mllama_demo_failures_total", reason=name) for name in REASONS}
    assert counted == {name: float(name == reason) for name in REASONS}


@pytest.mark.parametrize("reason", ["end_of_turn", "max_tokens", "cancelled"])
async def test_an_answer_that_ends_as_it_should_is_no_failure(setup: Setup, reason: Any) -> None:
    await setup.ask("a", end=finished(reason))
    assert setup.failures.counts()[0] == {}


async def test_a_failure_is_found_by_the_id_of_its_http_request(setup: Setup) -> None:
    token = REQUEST_ID.set("abc")
    await setup.ask("a", end=finished("error", error=Failure(MODEL_STOPPED, "was killed by the system")))
    REQUEST_ID.reset(token)
    [record] = setup.failures.latest()
    assert (record.request_id, record.cause) == ("abc", "was killed by the system")


def test_every_limit_has_a_counter_from_the_start(setup: Setup) -> None:
    assert {setup.value("mllama_demo_limit_refusals_total", limit=limit) for limit in LIMITS} == {0.0}
    setup.failures.add_limit("queue")
    assert setup.value("mllama_demo_limit_refusals_total", limit="queue") == 1


def test_a_database_that_does_not_answer_is_seen(setup: Setup) -> None:
    assert setup.value("mllama_demo_database_up") == 1
    setup.database_failure = "The database does not answer."
    assert setup.value("mllama_demo_database_up") == 0


def test_restarts_of_the_process_of_the_model_are_counted(setup: Setup) -> None:
    assert setup.value("mllama_demo_engine_restarts_total") == 0
    setup.manual.restarts = 2
    assert setup.value("mllama_demo_engine_restarts_total") == 2
