"""What every command writes to the console besides its results: log lines, and one line for an error."""

from __future__ import annotations

import logging
import sys

ERROR_EXIT_CODE = 2


def set_up_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("mllama_demo").setLevel(logging.INFO)


def report_error(message: object) -> int:
    """Prints the message on stderr and returns the exit code of a command that cannot run."""
    print(f"mllama-demo: {message}", file=sys.stderr, flush=True)
    return ERROR_EXIT_CODE
