"""Ending politely: SIGTERM as Ctrl-C, and folders that only one process at a time may write to."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from mllama_demo.errors import ConfigError

MODEL_THREAD = "model"  # the name of a thread that loads a model and runs it


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """SIGTERM, from a system that shuts down or a person, counts as Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread, so somebody else minds the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code; at once, when a thread still loads a model or does not stop running it.

    The interpreter would end underneath that thread, and PyTorch abort the process. What is registered for the end is done.
    """
    if not any(thread.name == MODEL_THREAD for thread in threading.enumerate()):
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def only_one(folder: Path, work: str) -> Iterator[None]:
    """Holds an existing folder's lock, which ends with the process however that ends. work: what another one does, for the
    ConfigError while it does it: "Another compilation"."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{work} is writing to {folder}; wait until it has ended.") from None
        yield
    finally:
        os.close(handle)


def remove_if_abandoned(folder: Path) -> bool:
    """Removes a working folder whose process is gone; False when it is still at work."""
    try:
        with only_one(folder, ""):
            shutil.rmtree(folder, ignore_errors=True)
    except (ConfigError, OSError):
        return False
    return True
