"""What Prometheus and the operator's page are told of the Neuron devices, from the stream of tests/support/neuron_monitor.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mllama_demo.engine.neuron.monitor import STALE_S, NeuronMonitor
from mllama_demo.engine.neuron.monitor_report import read_report
from mllama_demo.web.metrics import Metrics
from mllama_demo.web.neuron_metrics import neuron_view
from tests.support.manual_backend import ManualBackend
from tests.support.neuron_monitor import reports

EMPTY, LOADING, ANSWERING, FAILING = reports()


class Setup:
    """A monitor that was told reports without a program."""

    def __init__(self, *told: dict[str, Any]) -> None:
        self.time = 0.0
        self.monitor = NeuronMonitor(["none"], now=lambda: self.time)
        self.metrics = Metrics(ManualBackend(), "tiny", neuron=self.monitor)
        for report in told:
            self.tell(report)

    def tell(self, report: dict[str, Any]) -> None:
        found = read_report(json.dumps(report))
        assert found is not None
        self.monitor.take(found)

    def value(self, name: str, **labels: str) -> float | None:
        for family in text_string_to_metric_families(self.metrics.render()[0].decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == {"model_name": "tiny", **labels}:
                    return sample.value
        return None


def test_the_metrics_of_devices_that_answer() -> None:
    setup = Setup(EMPTY, LOADING, ANSWERING)
    assert setup.value("mllama_demo_neuron_monitor_up") == 1
    assert setup.value("mllama_demo_neuron_core_utilization_ratio", core="31") == pytest.approx(0.4125)
    assert setup.value("mllama_demo_neuron_core_memory_bytes", core="31", use="constants") == 5905580032
    assert setup.value("mllama_demo_neuron_core_memory_limit_bytes") == 16 * 2**30
    assert setup.value("mllama_demo_neuron_host_memory_bytes") == 6997643264
    assert setup.value("mllama_demo_neuron_device_latency_seconds", percentile="p99") == 0.0371
    assert setup.value("mllama_demo_neuron_executions_total", outcome="completed") == 240
    assert setup.value("mllama_demo_neuron_execution_errors_total", kind="hardware") == 0
    assert setup.value("mllama_demo_neuron_ecc_events_total", device="3", kind="mem_ecc_corrected") == 1


def test_errors_are_summed_up_over_the_reports() -> None:
    setup = Setup(FAILING, ANSWERING, FAILING)
    assert setup.value("mllama_demo_neuron_execution_errors_total", kind="hardware") == 4
    assert setup.value("mllama_demo_neuron_executions_total", outcome="completed") == 720
    assert setup.value("mllama_demo_neuron_ecc_events_total", device="3", kind="mem_ecc_uncorrected") == 1


def test_a_monitor_that_does_not_report_leaves_the_sums_and_says_so() -> None:
    setup = Setup(FAILING)
    setup.time = STALE_S
    assert setup.value("mllama_demo_neuron_monitor_up") == 0
    assert setup.value("mllama_demo_neuron_core_utilization_ratio", core="0") is None
    assert setup.value("mllama_demo_neuron_execution_errors_total", kind="hardware") == 2
    view = neuron_view(setup.monitor)
    assert (view["up"], view["cores"], view["errors"]) == (False, [], {"hardware": 2, "numerical": 1})


def test_a_machine_without_the_monitor_has_none_of_the_metrics() -> None:
    assert b"neuron" not in Metrics(ManualBackend(), "tiny").render()[0]


def test_what_the_operators_page_draws() -> None:
    view = neuron_view(Setup(FAILING).monitor)
    assert (view["up"], view["core_bytes"], view["latency_s"], view["uncorrected"]) == (True, 16 * 2**30, 0.0312, 1)
    assert [one["core"] for one in view["cores"]] == list(range(32))
    assert view["cores"][0] == {
        "core": 0,
        "utilization": 0.41,
        "bytes": 7971399040,
        "uses": {
            "weights": 5905580032,
            "tensors": 805306368,
            "scratchpad": 1073741824,
            "code": 176285056,
            "runtime": 10485760,
        },
    }
    assert list(view["cores"][0]["uses"]) == ["weights", "tensors", "scratchpad", "code", "runtime"]


def test_before_the_model_is_loaded_no_core_is_drawn() -> None:
    assert neuron_view(Setup(EMPTY).monitor)["cores"] == []
