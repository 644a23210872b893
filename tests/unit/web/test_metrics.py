"""What Prometheus is told about requests that come and go, read back with its own parser."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.errors import BackendBusy, BackendUnavailable
from mllama_demo.web.activity import Activity
from mllama_demo.web.metrics import MeasuredBackend, Metrics
from tests.support.manual_backend import READ, ManualBackend, finished


class Setup:
    def __init__(self) -> None:
        self.manual = ManualBackend()
        self.metrics = Metrics(self.manual, "tiny")
        self.backend = MeasuredBackend(self.manual, self.metrics, Activity())

    def value(self, name: str, **labels: str) -> float | None:
        page, _ = self.metrics.render()
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == {"model_name": "tiny", **labels}:
                    return sample.value
        return None

    async def ask(self, *texts: str, end: Any = None) -> None:
        async def read() -> None:
            async with aclosing(self.backend.generate(GenerationRequest((1, 2)))) as events:
                async for _ in events:
                    pass

        reading = asyncio.create_task(read())
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
