"""The figures of neuron-monitor, read from reports in the format that AWS documents, see tests/support/neuron_monitor.py."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mllama_demo.engine.neuron import monitor
from mllama_demo.engine.neuron.monitor import NeuronFigures, NeuronMonitor
from mllama_demo.engine.neuron.monitor_report import MonitorReport, read_report
from tests.support.neuron_monitor import reports, write_player
from tests.support.waiting import wait_until

EMPTY, LOADING, ANSWERING, FAILING = reports()


def read(report: Any) -> MonitorReport:
    found = read_report(json.dumps(report))
    assert found is not None
    return found


def changed(report: dict[str, Any], change: Callable[[dict[str, Any], dict[str, Any]], None]) -> MonitorReport:
    """Reads a copy of the report after change(report, the groups of its first application)."""
    copy = json.loads(json.dumps(report))
    change(copy, copy["neuron_runtime_data"][0]["report"] if copy["neuron_runtime_data"] else {})
    return read(copy)


def test_a_report_of_a_model_that_answers() -> None:
    found = read(ANSWERING)
    assert found.utilization is not None
    assert sorted(found.utilization) == list(range(32))
    assert (found.utilization[0], found.utilization[3]) == (0.42, 0.4125)
    assert found.memory is not None
    assert found.memory[31]["constants"] == 5905580032
    assert sum(found.memory[0].values()) == 7971399040
    assert found.core_bytes == 16 * 2**30
    assert found.host_bytes == 6997643264
    assert found.latency_s is not None
    assert (found.latency_s["p50"], found.latency_s["p99"]) == (0.0312, 0.0371)
    assert (found.executions["completed"], found.executions["timed_out"]) == (240, 0)
    assert set(found.errors) == {"generic", "numerical", "transient", "model", "runtime", "hardware"}
    assert found.errors.total() == 0
    assert found.ecc_events is not None
    assert found.ecc_events[3, "mem_ecc_corrected"] == 1
    assert found.problems == ()


def test_without_an_application_no_core_is_used() -> None:
    found = read(EMPTY)
    assert (found.utilization, found.memory, found.host_bytes, found.latency_s) == ({}, {}, 0, {})
    assert found.core_bytes == 16 * 2**30


def test_two_applications_share_the_cores() -> None:
    second = json.loads(json.dumps(ANSWERING["neuron_runtime_data"][0]))
    second["report"]["neuroncore_counters"]["neuroncores_in_use"] = {"31": {"neuroncore_utilization": 7.0}}
    second["report"]["execution_stats"]["latency_stats"]["device_latency"] = {"p50": 0.5}
    found = read({**ANSWERING, "neuron_runtime_data": [*ANSWERING["neuron_runtime_data"], second]})
    assert found.utilization is not None
    assert (found.utilization[30], found.utilization[31]) == (0.415, 0.07)
    assert found.memory is not None
    assert found.memory[0]["constants"] == 2 * 5905580032
    assert found.host_bytes == 2 * 6997643264
    assert found.executions["completed"] == 480
    assert found.latency_s is not None
    assert (found.latency_s["p50"], found.latency_s["p99"]) == (0.5, 0.0371)


@pytest.mark.parametrize(
    ("group", "figures"),
    [
        ("neuroncore_counters", {"utilization": None}),
        ("memory_used", {"memory": None, "host_bytes": None}),
        ("execution_stats", {"latency_s": None}),
    ],
)
def test_a_group_that_was_not_collected_leaves_the_others(group: str, figures: dict[str, None]) -> None:
    def remove(_: dict[str, Any], groups: dict[str, Any]) -> None:
        del groups[group]

    found, whole = changed(ANSWERING, remove), read(ANSWERING)
    for name in ("utilization", "memory", "host_bytes", "latency_s", "ecc_events", "core_bytes"):
        assert getattr(found, name) == figures.get(name, getattr(whole, name)), name


def test_fields_that_are_new_or_missing_leave_the_others() -> None:
    def change(report: dict[str, Any], groups: dict[str, Any]) -> None:
        report["future"] = {"error": ""}
        del report["neuron_hardware_info"]["neuron_device_memory_size"]
        groups["neuroncore_counters"]["neuroncores_in_use"]["0"] = {"flops": 1}
        groups["execution_stats"]["error_summary"]["cosmic"] = 3
        groups["memory_used"]["neuron_runtime_used_bytes"]["usage_breakdown"]["neuroncore_memory_usage"]["1"]["paging"] = 5
        report["system_data"]["neuron_hw_counters"]["neuron_devices"][0]["mem_ecc_repairable_uncorrected"] = 2

    found = changed(ANSWERING, change)
    assert found.core_bytes is None
    assert found.utilization is not None
    assert sorted(found.utilization) == list(range(1, 32))
    assert found.errors["cosmic"] == 3
    assert found.memory is not None
    assert found.memory[1]["paging"] == 5
    assert found.ecc_events is not None
    assert found.ecc_events[0, "mem_ecc_repairable_uncorrected"] == 2


@pytest.mark.parametrize("value", [None, -1, True, "7", [], {}, float("nan"), float("inf"), 1e400])
def test_a_value_that_is_no_amount_is_left_out(value: Any) -> None:
    def change(report: dict[str, Any], groups: dict[str, Any]) -> None:
        groups["neuroncore_counters"]["neuroncores_in_use"]["0"]["neuroncore_utilization"] = value
        groups["memory_used"]["neuron_runtime_used_bytes"]["host"] = value
        groups["execution_stats"]["error_summary"]["hardware"] = value
        report["neuron_hardware_info"]["neuroncore_per_device_count"] = value

    found = changed(ANSWERING, change)
    assert found.utilization is not None
    assert 0 not in found.utilization
    assert (found.host_bytes, found.core_bytes, found.errors["hardware"]) == (0, None, 0)
    assert found.memory == read(ANSWERING).memory


def test_what_could_not_be_collected_is_told_with_its_place() -> None:
    def change(report: dict[str, Any], groups: dict[str, Any]) -> None:
        report["neuron_hardware_info"]["error"] = "the driver is not running"
        groups["memory_used"]["error"] = "no access"

    assert changed(ANSWERING, change).problems == (
        "memory_used: no access",
        "neuron_hardware_info: the driver is not running",
    )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*path, key))


@given(path=st.sampled_from([path for path in paths(FAILING) if path]), value=_JSON)
def test_anything_in_the_place_of_anything_raises_nothing(path: tuple[Any, ...], value: Any) -> None:
    copy = json.loads(json.dumps(FAILING))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    report = read_report(json.dumps(copy))
    assert report is not None
    figures = NeuronFigures().after(report)
    assert all(share >= 0 for share in figures.utilization.values())


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "3", '"x"', "{}", '{"level": "error"}', "\x00", "Neuron driver not found"]
)
def test_a_line_that_is_no_report(text: str) -> None:
    assert read_report(text) is None


# --- the program ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NeuronMonitor]]:
    """Starts monitors of programs that print the lines, and start again after a moment."""
    monkeypatch.setattr(monitor, "RESTART_DELAYS_S", (0.02,))
    made: list[NeuronMonitor] = []

    def start(*lines: str, **options: Any) -> NeuronMonitor:
        clock = {"now": options.pop("now")} if "now" in options else {}
        made.append(NeuronMonitor([str(write_player(tmp_path / "neuron-monitor", *lines, **options))], **clock))
        made[-1].start()
        return made[-1]

    yield start
    for one in made:
        one.close()
        assert one._process is None or one._process.poll() is not None


def test_the_stream_gives_the_latest_figures_and_sums_of_the_counts(run) -> None:
    made = run()
    wait_until(lambda: made.totals().executions["completed"] == 480, "all reports are read")
    figures = made.figures()
    assert figures is not None
    assert figures.utilization[0] == 0.41
    assert (figures.errors["hardware"], figures.errors["numerical"], figures.errors["generic"]) == (2, 1, 0)
    assert "generic" in figures.errors  # a counter that is not there yet would hide its first increase
    assert figures.ecc_events[3, "mem_ecc_uncorrected"] == 1


def test_figures_that_are_not_reported_for_long_are_not_shown(run) -> None:
    times = [0.0]
    made = run(now=lambda: times[0])
    wait_until(lambda: made.totals().executions["completed"] == 480, "all reports are read")
    times[0] = monitor.STALE_S - 1
    assert made.figures() is not None
    times[0] = monitor.STALE_S
    assert made.figures() is None
    assert made.totals().executions["completed"] == 480


def test_a_program_that_ends_is_started_again_and_said_once(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = run("the driver is not loaded", json.dumps(ANSWERING), end="sys.exit(3)")
    wait_until(lambda: made.totals().executions["completed"] >= 3 * 240, "three programs have reported")
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "ended with exit code 3 (the driver is not loaded)" in said[0]


def test_lines_between_the_reports_and_reports_over_several_lines_are_read(run) -> None:
    made = run("starting", json.dumps(ANSWERING, indent=2), "{ half", json.dumps(ANSWERING))
    wait_until(lambda: made.totals().executions["completed"] == 480, "both reports are read")


@pytest.mark.slow
def test_a_program_that_ignores_the_signal_to_end_is_killed(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_CLOSE_S", 1.0)
    ignores = tmp_path / "ignores"
    made = run(end=f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(ignores)!r}, 'w'); time.sleep(600)")
    wait_until(ignores.exists, "the program ignores SIGTERM")
    process = made._process
    made.close()
    assert process.poll() is not None
    assert not made._thread.is_alive()


def test_a_program_that_cannot_be_started_leaves_no_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = NeuronMonitor([str(tmp_path / "missing")])
    made.start()
    wait_until(lambda: bool(caplog.records), "the failure is logged")
    assert "neuron-monitor could not be run" in caplog.text
    assert made.figures() is None
    made.close()


def test_the_program_of_the_machine_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_USUAL_PLACES", str(tmp_path / "opt"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/nowhere")
    assert NeuronMonitor.installed() is None
    (tmp_path / "opt").mkdir()
    found = write_player(tmp_path / "opt" / "neuron-monitor")
    made = NeuronMonitor.installed()
    assert made is not None
    assert made._command == [str(found)]


def test_a_hardware_error_goes_to_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    made = NeuronMonitor(["none"])
    for report in (ANSWERING, FAILING, ANSWERING, changed_count(2), changed_count(2)):
        made.take(read(report))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(";")[0] for line in lines] == [
        "Steps on the Neuron devices failed because of the hardware",
        "Neuron device 3 has 1 memory errors that could not be corrected (mem_ecc_uncorrected)",
        "Neuron device 3 has 2 memory errors that could not be corrected (mem_ecc_uncorrected)",
    ]
    assert all("stop the instance" in line for line in lines)


def changed_count(count: int) -> dict[str, Any]:
    copy = json.loads(json.dumps(ANSWERING))
    copy["system_data"]["neuron_hw_counters"]["neuron_devices"][3]["mem_ecc_uncorrected"] = count
    return copy
