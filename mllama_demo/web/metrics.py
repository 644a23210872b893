"""Prometheus metrics of a backend, under the names of vLLM so that dashboards for vLLM work.

MeasuredBackend wraps the backend, so requests of the chat count as requests of the API do. Metrics that vLLM does not have
begin with mllama_demo.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from mllama_demo.engine.base import (
    MODEL_DOWN,
    MODEL_STOPPED,
    SHUTTING_DOWN,
    Backend,
    BackendInfo,
    BackendStatus,
    Event,
    FinishEvent,
    GenerationRequest,
    TokenEvent,
)
from mllama_demo.engine.neuron.monitor import NeuronMonitor
from mllama_demo.errors import BackendBusy, BackendUnavailable
from mllama_demo.runtime.failures import FAILURES, LIMITS, REASONS, FailureLog
from mllama_demo.web.activity import Activity
from mllama_demo.web.neuron_metrics import NeuronCollector
from mllama_demo.web.shutdown import CUT_OFF, Shutdown
from mllama_demo.web.token_count import TokenCount

# Bucket edges in seconds and in tokens: those of vLLM, and finer ones below for small models.
_TTFT_EDGES = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0)
_TOKEN_EDGES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0)
_REQUEST_EDGES = (0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_LENGTH_EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
# vLLM's finished_reason of each FinishReason; all others are "length".
_FINISHED_REASONS = {"end_of_turn": "stop", "stop_string": "stop", "cancelled": "abort", "error": "error"}
# The reason of a failure in the metrics, by what the FinishEvent says. All others are "generation".
_FAILURE_REASONS = {MODEL_STOPPED: "engine_restarted", MODEL_DOWN: "model_down", SHUTTING_DOWN: "shutdown", CUT_OFF: "shutdown"}


class Metrics:
    """The metrics of one backend. Every sample has the label model_name.

    Args:
        backend: What is measured.
        model_name: The label of all samples.
        database_failure: Returns why the database does not answer; None while it does. None for a server without one.
        failures: Counts of failures and refusals.
        idle_s: Returns for how long there was no request; None leaves the metric out.
        neuron: The figures of the Neuron devices; None on a machine without neuron-monitor.
    """

    def __init__(
        self,
        backend: Backend,
        model_name: str,
        database_failure: Callable[[], str | None] | None = None,
        failures: FailureLog = FAILURES,
        idle_s: Callable[[], float] | None = None,
        neuron: NeuronMonitor | None = None,
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self._model = model_name
        self._failures = failures
        registry.register(_StatusCollector(backend, model_name, database_failure, idle_s))
        if neuron is not None:
            registry.register(NeuronCollector(neuron, model_name))
        registry.register(_FailureCollector(failures, model_name))
        labels = ["model_name"]

        def histogram(name: str, text: str, edges: Iterable[float]) -> Histogram:
            return Histogram(f"vllm:{name}", text, labels, registry=registry, buckets=tuple(edges)).labels(model_name)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"vllm:{name}", text, labels, registry=registry).labels(model_name)

        self.ttft = histogram("time_to_first_token_seconds", "Seconds from a request to its first token.", _TTFT_EDGES)
        self.per_token = histogram("time_per_output_token_seconds", "Seconds between two tokens of an answer.", _TOKEN_EDGES)
        self.e2e = histogram("e2e_request_latency_seconds", "Seconds from a request to its end.", _REQUEST_EDGES)
        self.queued = histogram("request_queue_time_seconds", "Seconds that a request waited for a slot.", _REQUEST_EDGES)
        self.decoding = histogram("request_decode_time_seconds", "Seconds from the first token to the last.", _REQUEST_EDGES)
        self.prompt_length = histogram("request_prompt_tokens", "Tokens of a prompt.", _LENGTH_EDGES)
        self.answer_length = histogram("request_generation_tokens", "Tokens of an answer.", _LENGTH_EDGES)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens, read or found in the prefix cache.")
        self.prefix_queries = counter("prefix_cache_queries", "Prompt tokens that were looked up in the prefix cache.")
        self.prefix_hits = counter("prefix_cache_hits", "Prompt tokens that the prefix cache had, so that they were not read.")
        self.generation_tokens = counter("generation_tokens", "Tokens generated.")
        self._ended = Counter(
            "vllm:request_success", "Requests by how they ended.", [*labels, "finished_reason"], registry=registry
        )
        self._refused = Counter(
            "mllama_demo_requests_refused", "Requests that were refused.", [*labels, "reason"], registry=registry
        )
        self._responses = Counter(
            "mllama_demo_http_responses",
            "Responses by family of routes and status.",
            [*labels, "route", "status"],
            registry=registry,
        )
        for reason in ("stop", "length", "abort", "error"):
            self._ended.labels(model_name, reason)
        for reason in ("busy", "unavailable"):
            self._refused.labels(model_name, reason)

    def ended(self, reason: str) -> None:
        """reason: a FinishReason, or "abort" when the client disconnected first."""
        self._ended.labels(self._model, _FINISHED_REASONS.get(reason, "abort" if reason == "abort" else "length")).inc()

    def refused(self, error: BackendBusy | BackendUnavailable) -> None:
        self._refused.labels(self._model, "busy" if isinstance(error, BackendBusy) else "unavailable").inc()

    def failed(self, finish: FinishEvent, request: GenerationRequest) -> None:
        """Counts a request that ended with an error, or at its time limit."""
        if finish.reason == "time_limit":
            sentence = (
                f"The time limit of {request.time_limit_s:g} s is over." if request.time_limit_s else "The time limit is over."
            )
            self._failures.add("time_limit", sentence, request.request_id)
        elif finish.reason == "error":
            error = finish.error or ""
            self._failures.add(_FAILURE_REASONS.get(str(error), "generation"), error, request.request_id)

    def responded(self, route: str, status: int) -> None:
        """Counts a response. route: the family of the route, see web/http_metrics.py."""
        self._responses.labels(self._model, route, str(status)).inc()

    def render(self) -> tuple[bytes, str]:
        """Returns the metrics and their content type. The text format 0.0.4 keeps the colon of vLLM's names for every scraper."""
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class _StatusCollector(Collector):
    """The state of the backend and of the database, which is read when Prometheus requests it."""

    def __init__(
        self,
        backend: Backend,
        model_name: str,
        database_failure: Callable[[], str | None] | None,
        idle_s: Callable[[], float] | None,
    ) -> None:
        self._backend = backend
        self._idle_s = idle_s
        self._model = model_name
        self._database_failure = database_failure

    def collect(self) -> Iterator[Metric]:
        status = self._backend.status()
        gauges = [
            ("vllm:num_requests_running", "Requests that have a slot.", status.running),
            ("vllm:num_requests_waiting", "Requests that wait for a slot.", status.waiting),
            ("mllama_demo_slots", "Requests that can have a slot at the same time.", status.slots),
            ("mllama_demo_queue_limit", "Requests that may wait; more are refused.", status.max_waiting),
            ("mllama_demo_ready", "1 when a request would be accepted, 0 while loading or down.", status.state == "ready"),
        ]
        if status.estimated_wait_s is not None:
            help = "Seconds that a request sent now would wait for a slot."
            gauges.append(("mllama_demo_estimated_wait_seconds", help, status.estimated_wait_s))
        if self._idle_s is not None:
            help = "Seconds since the last request ended; 0 while there is one or the model loads."
            gauges.append(("mllama_demo_idle_seconds", help, self._idle_s()))
        if self._database_failure is not None:
            up = self._database_failure() is None
            gauges.append(("mllama_demo_database_up", "1 while the database of conversations answers, else 0.", up))
        for name, text, value in gauges:
            family = GaugeMetricFamily(name, text, labels=["model_name"])
            family.add_metric([self._model], float(value))
            yield family
        help = "Requests of each copy of the model, where there are several."
        replicas = GaugeMetricFamily("mllama_demo_replica_requests", help, labels=["model_name", "replica", "phase"])
        for one in status.replicas:
            replicas.add_metric([self._model, one.name, "running"], float(one.running))
            replicas.add_metric([self._model, one.name, "waiting"], float(one.waiting))
        if status.replicas:
            yield replicas
        help = "How often the process of the model was started again."
        restarts = CounterMetricFamily("mllama_demo_engine_restarts", help, labels=["model_name"])
        restarts.add_metric([self._model], float(status.restarts))
        yield restarts


class _FailureCollector(Collector):
    """Failures by reason, and refusals by limit."""

    def __init__(self, failures: FailureLog, model_name: str) -> None:
        self._failures = failures
        self._model = model_name

    def collect(self) -> Iterator[Metric]:
        reasons, limits = self._failures.counts()
        families = (
            ("mllama_demo_failures", "Failures that visitors and clients were told of, by reason.", "reason", REASONS, reasons),
            ("mllama_demo_limit_refusals", "Requests that a limit refused, by limit.", "limit", LIMITS, limits),
        )
        for name, text, label, known, counts in families:
            family = CounterMetricFamily(name, text, labels=["model_name", label])
            for value in sorted({*known, *counts}):
                family.add_metric([self._model, value], float(counts.get(value, 0)))
            yield family


class MeasuredBackend:
    """A Backend that counts the requests to another one, and takes none while the program ends."""

    def __init__(self, backend: Backend, metrics: Metrics, activity: Activity, shutdown: Shutdown) -> None:
        self._backend = backend
        self._metrics = metrics
        self._activity = activity
        self._shutdown = shutdown

    @property
    def info(self) -> BackendInfo:
        return self._backend.info

    def status(self) -> BackendStatus:
        return self._shutdown.seen_in_status(self._backend.status())

    def cancel(self, request_id: str) -> None:
        self._backend.cancel(request_id)

    def close(self) -> None:
        self._backend.close()

    def require_capacity(self) -> None:
        """Raises BackendUnavailable or BackendBusy when a request would be refused now, and counts the refusal.

        Callers ask before they fetch an image for the request. The backend itself decides when the request is submitted.
        """
        status = self.status()
        error: BackendBusy | BackendUnavailable | None = None
        if status.state == "loading":
            error = BackendUnavailable.loading(status.detail)
        elif status.state == "down":
            error = BackendUnavailable(status.detail)
        elif status.waiting - max(0, status.slots - status.running) >= status.max_waiting:
            error = BackendBusy.behind(status.waiting)
        if error is not None:
            self._metrics.refused(error)
            raise error

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        metrics, last_token, reason, accepted = self._metrics, None, "abort", False
        count = TokenCount()
        self._activity.started(request.id, image=request.image is not None)
        try:
            self._shutdown.check()
            self._shutdown.opened(request.id)
            async with aclosing(self._backend.generate(request)) as events:
                async for event in events:
                    accepted = True
                    event = self._shutdown.seen_in(event)
                    new = count.add(event)
                    metrics.generation_tokens.inc(new)
                    self._activity.on_event(request.id, event, new)
                    if isinstance(event, TokenEvent):
                        now = time.perf_counter()
                        if last_token is not None:
                            for _ in range(new):
                                metrics.per_token.observe((now - last_token) / new)
                        last_token = now
                    elif isinstance(event, FinishEvent):
                        reason = event.reason
                        self._observe(event)
                        metrics.failed(event, request)
                    yield event
        except (BackendBusy, BackendUnavailable) as error:
            metrics.refused(error)
            self._activity.refused()
            raise
        finally:
            self._shutdown.closed(request.id)
            self._activity.ended(request.id)
            if accepted:
                metrics.ended(reason)
            if last_token is not None:  # also of an answer that nobody waited for
                metrics.prompt_tokens.inc(count.prompt)

    def _observe(self, finish: FinishEvent) -> None:
        metrics, timings = self._metrics, finish.timings
        metrics.e2e.observe(timings.total_s)
        metrics.queued.observe(timings.waited_s)
        if timings.ttft_s is not None:
            metrics.ttft.observe(timings.ttft_s)
            metrics.decoding.observe(timings.decode_s)
            metrics.prefix_queries.inc(finish.prompt_tokens)
            metrics.prefix_hits.inc(finish.reused)
            metrics.prompt_length.observe(finish.prompt_tokens)
            metrics.answer_length.observe(finish.completion_tokens)
