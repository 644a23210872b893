"""Runs AWS's program neuron-monitor, where it is installed, and keeps its latest figures.

The program reports on all applications that use Neuron on this machine. It runs as a child process, and is started again when it
ends. Without it there are no figures, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from mllama_demo.engine.neuron.monitor_report import MonitorReport, read_report
from mllama_demo.engine.neuron.runtime_errors import REPLACE_HARDWARE

log = logging.getLogger(__name__)
_PROGRAM = "neuron-monitor"
_USUAL_PLACES = "/opt/aws/neuron/bin"  # not always in the PATH of a service
# neuron-monitor reports every 5 seconds by default. Figures older than this are not shown.
STALE_S = 30.0
# Seconds before the first, second … start after the program has ended.
RESTART_DELAYS_S = (1.0, 5.0, 30.0, 120.0)
_MAX_REPORT_BYTES = 8 * 2**20
_CLOSE_S = 2.0


@dataclass(frozen=True)
class NeuronFigures:
    """What is known of the Neuron devices.

    Attributes:
        utilization, memory, host_bytes, latency_s, ecc_events, core_bytes: See MonitorReport; the latest that were reported.
        errors, executions: See MonitorReport; sums since this program was started.
        problems: See MonitorReport; those of the latest report.
    """

    utilization: dict[int, float] = field(default_factory=dict)
    memory: dict[int, dict[str, int]] = field(default_factory=dict)
    host_bytes: int | None = None
    latency_s: dict[str, float] = field(default_factory=dict)
    ecc_events: dict[tuple[int, str], int] = field(default_factory=dict)
    core_bytes: int | None = None
    errors: Counter[str] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    problems: tuple[str, ...] = ()

    def after(self, report: MonitorReport) -> NeuronFigures:
        """The figures after another report."""
        names = ("utilization", "memory", "host_bytes", "latency_s", "ecc_events", "core_bytes")
        newer = {name: value for name in names if (value := getattr(report, name)) is not None}
        errors, executions = self.errors.copy(), self.executions.copy()
        errors.update(report.errors)  # keeps kinds with a count of 0, unlike a sum of counters
        executions.update(report.executions)
        return replace(self, **newer, errors=errors, executions=executions, problems=report.problems)


class NeuronMonitor:
    """The figures of one neuron-monitor.

    Args:
        command: The program and its arguments.
        now: The clock, in seconds.
    """

    def __init__(self, command: Sequence[str], now: Callable[[], float] = time.monotonic) -> None:
        self._command = list(command)
        self._now = now
        self._figures = NeuronFigures()
        self._reported: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="neuron-monitor", daemon=True)

    @classmethod
    def installed(cls) -> NeuronMonitor | None:
        """The monitor of this machine; None where neuron-monitor is not installed."""
        found = shutil.which(_PROGRAM) or shutil.which(_PROGRAM, path=_USUAL_PLACES)
        return None if found is None else cls([found])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the program. One that has not ended after _CLOSE_S is killed."""
        self._closing.set()
        for end in (subprocess.Popen.terminate, subprocess.Popen.kill):
            with self._lock:
                process = self._process
            if process is not None:
                with contextlib.suppress(OSError):
                    end(process)
            if self._thread.is_alive():
                self._thread.join(_CLOSE_S)
            if not self._thread.is_alive():
                return

    def figures(self) -> NeuronFigures | None:
        """The figures; None while there is no report of the last STALE_S seconds."""
        with self._lock:
            fresh = self._reported is not None and self._now() - self._reported < STALE_S
            return self._figures if fresh else None

    def totals(self) -> NeuronFigures:
        """The figures, whatever their age. The sums are right at any age."""
        with self._lock:
            return self._figures

    def take(self, report: MonitorReport) -> None:
        """Adds a report. Hardware errors that were not reported before go to the log."""
        with self._lock:
            before, self._figures = self._figures, self._figures.after(report)
            after, self._reported = self._figures, self._now()
        if after.errors["hardware"] > before.errors["hardware"]:
            log.error("Steps on the Neuron devices failed because of the hardware; %s.", REPLACE_HARDWARE)
        for (device, kind), count in after.ecc_events.items():
            if kind.endswith("uncorrected") and count > before.ecc_events.get((device, kind), 0):
                what = "Neuron device %d has %d memory errors that could not be corrected (%s); %s."
                log.error(what, device, count, kind, REPLACE_HARDWARE)

    # --- the thread -----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        starts, logged = 0, ""
        while not self._closing.is_set():
            began = self._now()
            try:
                problem = self._run_program()
            except Exception as error:
                problem = f"{_PROGRAM} could not be run: {error}"
            if self._closing.is_set():
                return
            starts = 0 if self._now() - began > RESTART_DELAYS_S[-1] else starts + 1
            delay = RESTART_DELAYS_S[min(max(starts, 1), len(RESTART_DELAYS_S)) - 1]
            if problem != logged:  # a machine without a driver would fill the log
                log.warning("%s; it is started again, and the figures of the Neuron devices are missing until then", problem)
                logged = problem
            self._closing.wait(delay)

    def _run_program(self) -> str:
        """Runs the program to its end. Returns how it ended, with the last line that was no report."""
        # A process group of its own: Ctrl-C reaches this program, which ends the other.
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        with self._lock:
            self._process = process
        if self._closing.is_set():
            process.terminate()
        try:
            said = self._read(process.stdout)
        finally:
            process.kill()
            code = process.wait()
            process.stdout.close()
        return f"{_PROGRAM} ended with exit code {code}" + (f" ({said})" if said else "")

    def _read(self, stream: IO[bytes]) -> str:
        """Reads reports until the program ends. A report is one line, or an object over several lines."""
        said, lines, size = "", list[bytes](), 0
        while line := stream.readline(_MAX_REPORT_BYTES):
            stripped = line.strip()
            if not lines and stripped != b"{":
                report = read_report(stripped) if stripped.startswith(b"{") else None
                if report is None:
                    said = stripped.decode(errors="replace")[:300] or said
            else:
                lines.append(line)
                size += len(line)
                if line.rstrip() != b"}" and size < _MAX_REPORT_BYTES:
                    continue
                report, lines, size = read_report(b"".join(lines)), [], 0
            if report is not None:
                self.take(report)
        return said
