"""The command `doctor`: says whether this machine is ready for a configuration, and what to do when it is not.

doctor_checks.py has the checks; this module runs them and prints their findings as text or as JSON.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mllama_demo.checkpoint.doctor_checks import CHECKS
from mllama_demo.checkpoint.findings import DoctorContext, Finding
from mllama_demo.checkpoint.machine import Machine, this_machine
from mllama_demo.checkpoint.neuron_sdks import PACKAGES
from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.runtime.words import counted

NOT_READY = 2
_WIDTH = 110


def main(options: Sequence[str], as_json: bool) -> int:
    """The command `doctor`, with the options of `serve`. Exit code 2 when a check fails; a warning is no failure."""
    settings = load_settings(options)
    found = examine(this_machine((*PACKAGES, "torch", "gradio", "openai", "ray")), settings)
    print(json.dumps(_as_json(settings, found), indent=2) if as_json else report(found))
    return NOT_READY if _failures(found) else 0


def examine(machine: Machine, settings: Settings) -> list[Finding]:
    """Runs all checks."""
    context = DoctorContext(machine, settings)
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(context)
        except OSError as error:  # mostly a folder without permission
            text = f"{error.filename} cannot be read ({error.strerror})"
            found.append(Finding(check.__name__.replace("_", " "), "fail", text, "check its permissions"))
    return found


def report(found: Sequence[Finding]) -> str:
    """The findings as text."""
    width = max(len(finding.check) for finding in found)
    lines = []
    for finding in found:
        start = f"{finding.status:4}  {finding.check:{width}}  "
        hang = " " * len(start)
        lines += _wrapped(start, hang, finding.text)
        if finding.remedy:
            lines += _wrapped(hang + "→ ", hang + "  ", finding.remedy)
    failures, warnings = _failures(found), sum(finding.status == "warn" for finding in found)
    if failures:
        end = f"Not ready: {counted(failures, 'thing')} must be put right."
    elif warnings:
        end = f"Ready, as far as can be seen; {counted(warnings, 'warning')}."
    else:
        end = "Ready."
    return "\n".join([*lines, "", end])


def _wrapped(start: str, hang: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=start, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
    )


def _failures(found: Sequence[Finding]) -> int:
    return sum(finding.status == "fail" for finding in found)


def _as_json(settings: Settings, found: Sequence[Finding]) -> dict[str, Any]:
    return {"ready": not _failures(found), "backend": settings.backend, "findings": [asdict(finding) for finding in found]}
