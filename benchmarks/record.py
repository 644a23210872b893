"""Writes the figures of a benchmark as JSON, with what they were measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from mllama_demo.runtime.cpu import model_name

PACKAGES = ("torch", "transformers", "gradio", "numpy", "tokenizers")


def write(path: Path | None, figures: Any) -> None:
    """Writes figures, the command, the date, the machine and the versions to `path`; nothing if it is None."""
    if path is None:
        return
    record = {
        "command": sys.argv,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "figures": figures,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Returns the CPU's name, the number of cores of this process, and the memory in bytes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {"cpu": model_name(), "cores": cores, "memory": memory, "system": platform.platform()}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
