"""What every command writes to the console besides its results and its log: announcements, and one line for an error."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys

from mllama_demo.runtime.logs import log_format

ERROR_EXIT_CODE = 2
INTERRUPTED_EXIT_CODE = 130  # of shells, for Ctrl-C


def tolerate_every_character() -> None:
    """Lets standard output and standard error take every character.

    A character that the encoding of a stream lacks, such as Japanese in Windows' cp1252, is written as its escape sequence.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def announce(text: str) -> None:
    """Prints a line for the operator of a server, which goes on where nobody reads it: the output may be closed or full.

    With log_format json the line is an event of the log.
    """
    if log_format() == "json":
        logging.getLogger("mllama_demo").info("%s", text)
        return
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        discard_output()


def discard_output() -> None:
    """Sends standard output nowhere from now on. Python would try once more at its end, and change the exit code."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def report_error(message: object) -> int:
    """Prints the message on stderr and returns the exit code of a command that cannot run.

    With log_format json the line is an event of the log.
    """
    if log_format() == "json":
        logging.getLogger("mllama_demo").error("%s", message)
        return ERROR_EXIT_CODE
    with contextlib.suppress(OSError, ValueError):
        print(f"mllama-demo: {message}", file=sys.stderr, flush=True)
    return ERROR_EXIT_CODE
