"""Llama 3.2 Vision in the browser: reads the settings and serves the demo. `python app.py --help` lists the options."""

from __future__ import annotations

import time

STARTED = time.perf_counter()

from collections.abc import Sequence  # noqa: E402 (the clock starts before anything is imported)

from mllama_demo.assembly import Demo  # noqa: E402
from mllama_demo.config.loader import load_settings_and_log  # noqa: E402
from mllama_demo.errors import DemoError  # noqa: E402
from mllama_demo.runtime.console import report_error, tolerate_every_character  # noqa: E402
from mllama_demo.runtime.process import exit_process  # noqa: E402
from mllama_demo.web.serve import serve  # noqa: E402


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until interrupted. Returns the exit code: 0, or 2 after one sentence on stderr if the demo could not start."""
    tolerate_every_character()
    try:
        return serve(load_settings_and_log(argv), STARTED, Demo)
    except DemoError as error:
        return report_error(error)


if __name__ == "__main__":
    exit_process(main())
