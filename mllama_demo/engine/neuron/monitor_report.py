"""Reads one report of AWS's program neuron-monitor.

The format is that of the "Neuron Monitor User Guide", section "The JSON output format" (github.com/aws-neuron/aws-neuron-sdk,
tools/neuron-sys-tools/neuron-monitor-user-guide.rst, as of August 2026). A report has the groups that were collected since the
last one. Releases add fields, so any group and any field may be missing or new. A missing or strange value is left out; it never
spoils the rest.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_INDEX = re.compile(r"\d{1,4}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")  # of a field that becomes a label


@dataclass(frozen=True)
class MonitorReport:
    """The figures of one report. None, or an empty mapping of counts, stands for a group that the report does not have.

    Attributes:
        utilization: Share of the time that each NeuronCore in use computed, 0 to 1, by the number of the core.
        memory: Bytes of device memory by the number of the core and by use, such as "tensors" or "constants" (weights).
        host_bytes: Memory of the host that the applications on Neuron use.
        latency_s: Seconds that a step took on the device, by percentile, such as "p50": of all applications the slowest.
        ecc_events: Memory errors since the driver was loaded, by the number of the device and by kind.
        core_bytes: Device memory of each NeuronCore.
        errors: Failed steps since the last report, by kind.
        executions: Steps since the last report, by outcome.
        problems: What neuron-monitor could not collect, in its words.
    """

    utilization: dict[int, float] | None = None
    memory: dict[int, dict[str, int]] | None = None
    host_bytes: int | None = None
    latency_s: dict[str, float] | None = None
    ecc_events: dict[tuple[int, str], int] | None = None
    core_bytes: int | None = None
    errors: Counter[str] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    problems: tuple[str, ...] = ()


def read_report(text: str | bytes) -> MonitorReport | None:
    """Reads a report; None for a text that is none."""
    try:
        report = json.loads(text)
    except ValueError:
        return None
    if not isinstance(report, dict) or not report.keys() & {"neuron_runtime_data", "system_data", "neuron_hardware_info"}:
        return None
    runtimes = [one for one in _list(report.get("neuron_runtime_data")) if isinstance(one, dict)]
    groups = [_mapping(one.get("report")) for one in runtimes]
    system, hardware = _mapping(report.get("system_data")), _mapping(report.get("neuron_hardware_info"))
    cores = [_mapping(group["neuroncore_counters"]) for group in groups if "neuroncore_counters" in group]
    used = [_mapping(group["memory_used"]) for group in groups if "memory_used" in group]
    steps = [_mapping(group["execution_stats"]) for group in groups if "execution_stats" in group]
    nobody = "neuron_runtime_data" in report and not runtimes  # no application uses Neuron now
    errors, executions = Counter[str](), Counter[str]()
    for group in steps:
        errors.update(_counts(group.get("error_summary")))
        executions.update(_counts(group.get("execution_summary")))
    return MonitorReport(
        utilization=_utilization(cores) if cores or nobody else None,
        memory=_memory(used) if used or nobody else None,
        host_bytes=sum(filter(None, map(_host_bytes, used))) if used or nobody else None,
        latency_s=_latency(steps) if steps or nobody else None,
        ecc_events=_ecc_events(_mapping(system["neuron_hw_counters"])) if "neuron_hw_counters" in system else None,
        core_bytes=_core_bytes(hardware),
        errors=errors,
        executions=executions,
        problems=tuple(dict.fromkeys(_problems(report))),
    )


def _utilization(groups: list[Mapping[str, Any]]) -> dict[int, float]:
    found: dict[int, float] = {}
    for group in groups:
        for core, figures in _by_index(group.get("neuroncores_in_use")):
            percent = _number(figures.get("neuroncore_utilization"))
            if percent is not None:
                found[core] = percent / 100
    return found


def _memory(groups: list[Mapping[str, Any]]) -> dict[int, dict[str, int]]:
    found: dict[int, Counter[str]] = {}
    for group in groups:
        breakdown = _mapping(_mapping(group.get("neuron_runtime_used_bytes")).get("usage_breakdown"))
        for core, figures in _by_index(breakdown.get("neuroncore_memory_usage")):
            found.setdefault(core, Counter()).update(_counts(figures))
    return {core: dict(uses) for core, uses in found.items()}


def _host_bytes(group: Mapping[str, Any]) -> int | None:
    used = _number(_mapping(group.get("neuron_runtime_used_bytes")).get("host"))
    return None if used is None else int(used)


def _latency(groups: list[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for group in groups:
        # null while nothing is computed
        for percentile, value in _mapping(_mapping(group.get("latency_stats")).get("device_latency")).items():
            seconds = _number(value)
            if seconds is not None and re.fullmatch(r"p\d{1,3}", percentile):
                found[percentile] = max(seconds, found.get(percentile, 0.0))
    return found


def _ecc_events(group: Mapping[str, Any]) -> dict[tuple[int, str], int]:
    found: dict[tuple[int, str], int] = {}
    for device in _list(group.get("neuron_devices")):
        index = _number(_mapping(device).get("neuron_device_index"))
        if index is not None:
            found |= {(int(index), kind): count for kind, count in _counts(device).items() if "_ecc_" in kind}
    return found


def _core_bytes(hardware: Mapping[str, Any]) -> int | None:
    """neuroncore_per_device_count is that of the logical cores where several physical ones form one."""
    size, cores = _number(hardware.get("neuron_device_memory_size")), _number(hardware.get("neuroncore_per_device_count"))
    return int(size / cores) if size and cores else None


def _problems(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """The fields `error` that are not empty, with the group that they stand in."""
    if depth > 6:
        return
    if isinstance(value, list):
        for one in value:
            yield from _problems(one, path, depth + 1)
    elif isinstance(value, dict):
        error = value.get("error")
        if isinstance(error, str) and error.strip():
            yield f"{path or 'report'}: {error.strip()[:300]}"
        for key, inner in value.items():
            if isinstance(inner, dict | list):
                yield from _problems(inner, str(key)[:60], depth + 1)


def _by_index(value: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for key, inner in _mapping(value).items():
        if _INDEX.fullmatch(key) and isinstance(inner, dict):
            yield int(key), inner


def _counts(value: Any) -> dict[str, int]:
    """The whole numbers from 0 on of a mapping, by name."""
    numbers = {key: _number(inner) for key, inner in _mapping(value).items() if _NAME.fullmatch(key)}
    return {key: int(number) for key, number in numbers.items() if number is not None}


def _number(value: Any) -> float | None:
    """A finite number from 0 on; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
