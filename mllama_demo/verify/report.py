"""The report of a verification, as JSON and as Markdown. It may be sent to strangers: it has no path, host name, user or key."""

from __future__ import annotations

import getpass
import json
import math
import os
import platform
import re
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mllama_demo.config.settings import Settings
from mllama_demo.verify.comparison import Comparison
from mllama_demo.verify.faults import Fault
from mllama_demo.verify.measure import MemoryFound, Timing

FORMAT = 1
GIB = 2**30
_REST = r"[^\s'\",;:()\[\]<>]*"  # of a path
_PATH = re.compile(rf"(?<![\w/.\]])(?:~|[A-Za-z]:)?[/\\]{_REST}")
_ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b|\bip-\d+(?:-\d+){3}[\w.-]*")
_SECRETS = ("remote_api_key", "api_keys", "admin_key", "users", "database_url", "limits_storage", "remote_url")


@dataclass(frozen=True)
class Report:
    """All that was found.

    Attributes:
        machine, model, configuration: Facts by name, without private ones.
        reference: What the engine was compared with, in words.
        problem: Why the verification ended early, or empty.
    """

    date: str
    program: str
    machine: dict[str, Any]
    model: dict[str, Any]
    configuration: dict[str, Any]
    reference: str
    comparisons: Sequence[Comparison]
    faults: Sequence[Fault]
    timings: Sequence[Timing]
    memory: MemoryFound | None
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and bool(self.comparisons) and all(c.agrees for c in self.comparisons) and not self.harmful

    @property
    def harmful(self) -> list[Fault]:
        return [fault for fault in self.faults if fault.harm]

    def as_json(self) -> str:
        content = {"format": FORMAT, "passed": self.passed, **asdict(self)}
        return json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        failed = [c for c in self.comparisons if not c.agrees]
        result = "passed" if self.passed else "FAILED"
        lines = ["# Verification of a Llama 3.2 Vision engine", "", f"Written by {self.program} on {self.date}.", ""]
        lines += [f"**Result: {result}.** {self._summary(failed)}", ""]
        lines += _facts("Machine", self.machine) + _facts("Model", self.model) + _facts("Configuration", self.configuration)
        if self.comparisons:
            lines += ["## Comparisons", "", f"With {self.reference}. A difference is one of logits; see docs/verify.md.", ""]
            lines += ["| group | case | difference | allowed | result |", "|---|---|---|---|---|"]
            lines += [_row(c) for c in (*failed, *(c for c in self.comparisons if c.agrees))]
        if self.faults:
            lines += ["", "## Known faults of NxD Inference", "", "| fault | state | found |", "|---|---|---|"]
            lines += [f"| {f.name} | {f.state} | {f.found} |" for f in self.faults]
        if self.timings:
            lines += [
                "",
                "## Times",
                "",
                "| step | bucket | longest prompt | slots | measured | median | fastest | slowest |",
                "|---|---|---|---|---|---|---|---|",
            ]
            lines += [_time_row(timing) for timing in self.timings]
        if self.memory:
            lines += ["", "## Device memory", "", _memory_sentence(self.memory)]
        return "\n".join(lines) + "\n"

    def _summary(self, failed: Sequence[Comparison]) -> str:
        if self.problem:
            return self.problem
        if failed:
            return f"{len(failed)} of {len(self.comparisons)} comparisons failed."
        if self.harmful:
            return "A known fault makes answers wrong."
        return f"All {len(self.comparisons)} comparisons agree."


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Writes report.md and report.json into the folder, which is made if it is missing. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, data = folder / "report.md", folder / "report.json"
    markdown.write_text(report.as_markdown(), encoding="utf-8")
    data.write_text(report.as_json(), encoding="utf-8")
    return markdown, data


class Redaction:
    """Replaces in a text what only the owner of a machine should know: paths, addresses, host and user names, keys.

    Args:
        checkpoint: the name of its folder, which is private too.
    """

    def __init__(self, settings: Settings, checkpoint: str = "") -> None:
        words = {checkpoint, socket.gethostname(), platform.node(), os.environ.get("HOSTNAME", ""), _user()}
        for name in _SECRETS:
            value = getattr(settings, name)
            words |= set(value) if isinstance(value, list) else {value or ""}
        places = (settings.model_path, settings.data_dir, settings.compiled_artifacts or "", Path.cwd(), Path.home())
        paths = {str(place) for place in places}
        self._paths = sorted((path for path in paths if len(path) > 1), key=len, reverse=True)
        self._words = sorted((word for word in words if len(word) > 1), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for path in self._paths:  # first, as they may have spaces
            text = re.sub(re.escape(path) + _REST, "[path]", text)
        text = _ADDRESS.sub("[address]", _PATH.sub("[path]", text))
        for word in self._words:
            text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "[removed]", text)
        return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return ""


def _facts(title: str, facts: dict[str, Any]) -> list[str]:
    return [f"## {title}", "", *(f"- {name}: {_words(value)}" for name, value in facts.items()), ""]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items())
    if isinstance(value, int) and value >= 10**6:
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _row(c: Comparison) -> str:
    found = "–" if c.difference is None else f"{c.difference:.3g}"
    result = ("agrees" if c.agrees else "**DIFFERS**") + (f": {c.note}" if c.note else "")
    return f"| {c.group} | {c.name} | {found} | {c.tolerance:g} | {result.replace('|', '/')} |"


def _time_row(t: Timing) -> str:
    what = t.what + (", image" if t.image else "")
    seconds = " | ".join(f"{value * 1000:,.1f} ms" for value in (t.median, t.fastest, t.slowest))
    return f"| {what} | {t.bucket} | {t.prompt_tokens} | {t.slots} | {t.times} times | {seconds} |"


def _memory_sentence(m: MemoryFound) -> str:
    planned = f"`plan` computes {m.planned / GIB:.2f} GiB for each core"
    if m.fullest is None:
        return f"{planned}. Not measured: the Neuron driver shows no memory here."
    share = m.fullest / m.planned
    return f"{planned}. The fullest of {m.cores} cores has {m.fullest / GIB:.2f} GiB in use, {share:.0%} of that."


def _finite(value: Any) -> Any:
    """JSON has no infinity: a difference without bound becomes the text "infinite"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "infinite"
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value
