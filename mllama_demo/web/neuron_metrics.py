"""The figures of neuron-monitor as metrics and for the operator's page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mllama_demo.engine.neuron.monitor import NeuronFigures, NeuronMonitor

# Of device memory, in the order of the page: weights first.
_WORDS = {
    "constants": "weights",
    "tensors": "tensors",
    "model_shared_scratchpad": "scratchpad",
    "model_code": "code",
    "runtime_memory": "runtime",
}


class NeuronCollector(Collector):
    """The metrics mllama_demo_neuron_*. While there is no fresh report, only sums and the state of the monitor are shown."""

    def __init__(self, monitor: NeuronMonitor, model_name: str) -> None:
        self._monitor, self._model = monitor, model_name

    def collect(self) -> Iterator[Metric]:
        figures, totals = self._monitor.figures(), self._monitor.totals()
        help = "1 while neuron-monitor reports on the Neuron devices, else 0."
        yield self._gauge("mllama_demo_neuron_monitor_up", help, [((), figures is not None)])
        if figures is not None:
            yield from self._latest(figures)
        help = "Failed steps of the Neuron devices since the program was started, by kind."
        errors = CounterMetricFamily("mllama_demo_neuron_execution_errors", help, labels=["model_name", "kind"])
        for kind, count in sorted(totals.errors.items()):
            errors.add_metric([self._model, kind], float(count))
        yield errors
        help = "Steps of the Neuron devices since the program was started, by outcome."
        executions = CounterMetricFamily("mllama_demo_neuron_executions", help, labels=["model_name", "outcome"])
        for outcome, count in sorted(totals.executions.items()):
            executions.add_metric([self._model, outcome], float(count))
        yield executions
        help = "Memory errors of the Neuron devices since the driver was loaded, by device and kind."
        ecc = CounterMetricFamily("mllama_demo_neuron_ecc_events", help, labels=["model_name", "device", "kind"])
        for (device, kind), count in sorted(totals.ecc_events.items()):
            ecc.add_metric([self._model, str(device), kind], float(count))
        yield ecc

    def _latest(self, figures: NeuronFigures) -> Iterator[Metric]:
        name, help = "mllama_demo_neuron_core_utilization_ratio", "Share of the time that a NeuronCore computes, 0 to 1."
        yield self._gauge(name, help, [((str(core),), used) for core, used in sorted(figures.utilization.items())], ["core"])
        name, help = "mllama_demo_neuron_core_memory_bytes", "Device memory that a NeuronCore uses, by use."
        memory = [((str(core), use), size) for core, uses in sorted(figures.memory.items()) for use, size in sorted(uses.items())]
        yield self._gauge(name, help, memory, ["core", "use"])
        name, help = "mllama_demo_neuron_device_latency_seconds", "Seconds that a step takes on the device, by percentile."
        latency = [((percentile,), seconds) for percentile, seconds in sorted(figures.latency_s.items())]
        yield self._gauge(name, help, latency, ["percentile"])
        if figures.core_bytes is not None:
            help = "Device memory that each NeuronCore has."
            yield self._gauge("mllama_demo_neuron_core_memory_limit_bytes", help, [((), figures.core_bytes)])
        if figures.host_bytes is not None:
            help = "Memory of the host that applications on Neuron use."
            yield self._gauge("mllama_demo_neuron_host_memory_bytes", help, [((), figures.host_bytes)])

    def _gauge(
        self, name: str, help: str, samples: Sequence[tuple[tuple[str, ...], float]], labels: Sequence[str] = ()
    ) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, help, labels=["model_name", *labels])
        for values, value in samples:
            family.add_metric([self._model, *values], float(value))
        return family


def neuron_view(monitor: NeuronMonitor) -> dict[str, Any]:
    """The figures as the operator's page draws them."""
    figures, totals = monitor.figures(), monitor.totals()
    shown = figures or NeuronFigures()
    cores = []
    for core in sorted({*shown.utilization, *shown.memory}):
        uses = shown.memory.get(core)
        words = {_WORDS.get(use, use): size for use, size in sorted((uses or {}).items(), key=_place) if size}
        total = None if uses is None else sum(uses.values())
        cores.append({"core": core, "utilization": shown.utilization.get(core), "bytes": total, "uses": words})
    ecc = sum(count for (_, kind), count in totals.ecc_events.items() if "uncorrected" in kind)
    return {
        "up": figures is not None,
        "cores": cores,
        "core_bytes": shown.core_bytes,
        "host_bytes": shown.host_bytes,
        "latency_s": shown.latency_s.get("p50"),
        "errors": {kind: count for kind, count in sorted(totals.errors.items()) if count},
        "uncorrected": ecc,
        "problems": list(shown.problems),
    }


def _place(item: tuple[str, int]) -> int:
    return list(_WORDS).index(item[0]) if item[0] in _WORDS else len(_WORDS)
