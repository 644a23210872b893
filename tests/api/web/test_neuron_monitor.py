"""The figures of neuron-monitor in the real program, with a program in its place that plays tests/unit/engine/data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.neuron_monitor import write_player
from tests.support.program import Program, running, visitor
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
KEY = "the-operators-key"


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A neuron-monitor in the PATH of the program. It writes its process id into the file `pid` beside it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    end = f"import os; open({str(folder / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    return write_player(folder / "neuron-monitor", end=end)


@pytest.fixture
def demo(player: Path, tmp_path: Path) -> Iterator[Program]:
    home = tmp_path / "home"
    home.mkdir()
    with running(home, "--admin-key", KEY) as started:
        started.wait_ready()
        yield started


def value(demo: Program, name: str, **labels: str) -> float | None:
    page = demo.get("/metrics")
    assert page is not None
    for family in text_string_to_metric_families(page.text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return None


def operator(demo: Program) -> requests.Session:
    session = visitor()
    answer = session.post(f"{demo.url}/admin", data={"password": KEY}, headers={"Origin": demo.url})
    assert answer.status_code == 200
    return session


def test_the_figures_are_on_metrics_and_on_the_operators_page_and_the_program_ends_with_the_demo(demo: Program, player: Path):
    wait_until(lambda: value(demo, "mllama_demo_neuron_executions_total", outcome="completed") == 480, "the stream is read")
    assert value(demo, "mllama_demo_neuron_monitor_up") == 1
    assert value(demo, "mllama_demo_neuron_core_utilization_ratio", core="0") == 0.41
    assert value(demo, "mllama_demo_neuron_execution_errors_total", kind="hardware") == 2
    figures = operator(demo).get(f"{demo.url}/admin/figures").json()
    assert len(figures["neuron"]["cores"]) == 32
    assert figures["neuron"]["uncorrected"] == 1
    assert figures["idle_s"] >= 0
    pid = int(wait_until(lambda: (player.parent / "pid").exists() and (player.parent / "pid").read_text(), "it runs"))
    assert demo.interrupt() == 0
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "neuron-monitor has ended")


def test_the_idle_time_is_on_metrics_and_0_while_a_request_runs(demo: Program):
    wait_until(lambda: (value(demo, "mllama_demo_idle_seconds") or 0) > 0, "the demo is idle")
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with visitor().post(f"{demo.url}/v1/chat/completions", json=body, stream=True) as answer:
        lines = answer.iter_lines()  # kept: to collect this generator closes the connection, which cancels the request
        assert next(lines)
        wait_until(lambda: value(demo, "mllama_demo_idle_seconds") == 0, "the demo is not idle")
    wait_until(lambda: (value(demo, "mllama_demo_idle_seconds") or 0) > 0, "the demo is idle again")


def test_a_machine_without_the_program_has_no_such_metrics(tmp_path: Path):
    with running(tmp_path, "--admin-key", KEY) as started:
        started.wait_ready()
        page = started.get("/metrics")
        assert page is not None
        assert "mllama_demo_neuron" not in page.text
        assert operator(started).get(f"{started.url}/admin/figures").json()["neuron"] is None
