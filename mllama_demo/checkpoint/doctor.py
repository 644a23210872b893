"""`python -m mllama_demo doctor --config …`: is this machine ready for that configuration? Every line says what to do about it.

The checks are in checks.py; this is the verb and its two ways to tell.
"""

from __future__ import annotations

import argparse
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
from mllama_demo.runtime.command_line import settings_parser

NOT_READY = 2
_WIDTH = 110


def main(argv: Sequence[str]) -> int:
    """The verb `doctor`. Exit code 0 when nothing fails, warnings or not; 2 when something does or the options are wrong."""
    parser = _parser()
    own, rest = parser.parse_known_args(argv)
    settings = load_settings(rest, program=parser.prog)
    found = examine(this_machine((*PACKAGES, "torch", "gradio")), settings)
    print(json.dumps(_as_json(settings, found), indent=2) if own.json else report(found))
    return NOT_READY if _failures(found) else 0


def examine(machine: Machine, settings: Settings) -> list[Finding]:
    """Everything that there is to say about running this configuration on this machine."""
    sight = DoctorContext(machine, settings)
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(sight)
        except OSError as error:  # above all a folder that this user may not look into
            text = f"{error.filename} cannot be read ({error.strerror})"
            found.append(Finding(check.__name__.replace("_", " "), "fail", text, "check its permissions"))
    return found


def report(found: Sequence[Finding]) -> str:
    """What people read."""
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
        end = f"Not ready: {failures} {'thing' if failures == 1 else 'things'} must be put right."
    elif warnings:
        end = f"Ready, as far as can be seen; {warnings} {'warning' if warnings == 1 else 'warnings'}."
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


def _parser() -> argparse.ArgumentParser:
    about = "Says whether this machine is ready to run a configuration, and what to do if it is not. Changes nothing."
    parser = settings_parser("doctor", "[--json]", about)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, for programs")
    return parser
