"""The configuration for Prometheus and Grafana: valid, tested, and about metrics and labels that /metrics has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mllama_demo.engine.neuron.monitor import NeuronMonitor
from mllama_demo.engine.neuron.monitor_report import read_report
from mllama_demo.web.http_metrics import FAMILIES
from mllama_demo.web.metrics import Metrics
from tests.support.manual_backend import ManualBackend
from tests.support.neuron_monitor import STREAM
from tests.support.paths import ROOT

FOLDER = ROOT / "deploy" / "monitoring"
ALERTS = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((FOLDER / "grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
# Names that Prometheus itself or PromQL has, and labels of every series.
SCRAPED = {"up", "job", "instance"}
PROMQL = {"sum", "min", "max", "avg", "by", "and", "or", "on", "rate", "increase", "histogram_quantile", "label_values"}

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of the package prometheus")


def samples() -> dict[str, list[dict[str, str]]]:
    """What /metrics renders: the labels of the samples, by name."""
    neuron = NeuronMonitor(["none"])
    for line in STREAM.read_text(encoding="utf-8").splitlines():
        report = read_report(line)
        assert report is not None
        neuron.take(report)
    metrics = Metrics(ManualBackend(), "m", lambda: None, idle_s=lambda: 0.0, neuron=neuron)
    for family in FAMILIES:
        for status in (200, 401, 429, 500, 503):
            metrics.responded(family, status)
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


EXPRESSIONS = [*((rule["alert"], rule["expr"]) for rule in ALERTS), *dashboard_expressions()]


def without_variables(expression: str) -> str:
    return re.sub(r"\$(instance|model)\b", ".*", expression.replace("$__rate_interval", "5m"))


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_an_expression_uses_metrics_and_labels_that_there_are(name: str, expression: str) -> None:
    rendered = samples()
    selectors = re.findall(r"((?:vllm:|mllama_demo_)\w+|\bup\b)(?:\{([^}]*)\})?", without_variables(expression))
    assert selectors
    for metric, matchers in selectors:
        if metric == "up":
            continue
        assert metric in rendered
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', matchers):
            if label in SCRAPED:
                continue
            values = {labels[label] for labels in rendered[metric]}  # KeyError: no such label
            pattern = value if operator in ("=~", "!~") else re.escape(value)
            assert any(re.fullmatch(pattern, one) for one in values), f"{metric} has no {label} {value}"
    # Every label that is grouped by is one of a metric in the expression.
    labels = {label for metric, _ in selectors for one in rendered.get(metric, ()) for label in one} | SCRAPED
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= labels


def test_no_word_of_an_expression_is_an_unknown_metric() -> None:
    known = set(samples()) | SCRAPED | PROMQL
    for name, expression in EXPRESSIONS:
        plain = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|on)\s*\([^)]*\)', " ", without_variables(expression))
        words = {word for word in re.findall(r"[A-Za-z_:][\w:]*", plain) if word not in ("model_name", "instance")}
        assert words <= known, name


def test_every_alert_is_documented_and_has_a_unit_test() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    raised = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    silent = {case["alertname"] for test in tests for case in test["alert_rule_test"] if not case["exp_alerts"]}
    for rule in ALERTS:
        name = rule["alert"]
        assert f"### {name}\n" in page
        assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert name in raised
        assert name in silent


def test_every_reason_limit_and_route_is_documented() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rendered = samples()
    values = {
        *(labels["reason"] for labels in rendered["mllama_demo_failures_total"]),
        *(labels["limit"] for labels in rendered["mllama_demo_limit_refusals_total"]),
        *FAMILIES,
    }
    assert {value for value in values if f"`{value}`" not in page} == set()


def test_the_panels_have_own_ids_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place: dict[str, Any] = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) is panel["title"]


def check(*command: str | Path) -> None:
    done = subprocess.run(["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    check("check", "config", "prometheus.yml")


@pytest.mark.slow
@promtool
def test_the_alerts_pass_their_unit_tests() -> None:
    check("test", "rules", "alerts_test.yml")


@promtool
def test_prometheus_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [expression for _, expression in dashboard_expressions() if not expression.startswith("label_values")]
    rules = [{"record": f"panel:{number}", "expr": without_variables(one)} for number, one in enumerate(expressions)]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    check("check", "rules", file)
    assert len(rules) > 20
