"""Signals and the end of the process, and locks on folders that one process at a time may write to."""

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

MODEL_THREAD = "model"  # the name of every thread that loads or runs a model


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Has no effect outside the main thread."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_process(code: int) -> NoReturn:
    """Ends the process. Does not wait for a thread that still loads or runs a model.

    PyTorch aborts the process when the interpreter ends under such a thread. Functions registered with atexit are called.
    """
    if not any(thread.name == MODEL_THREAD for thread in threading.enumerate()):
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def exclusive_lock(path: Path, work: str) -> Iterator[None]:
    """Locks an existing file or folder. The operating system releases the lock when the process ends.

    Args:
        path: the file or folder.
        work: the work of another process that holds the lock, for the error message, such as "Another compilation".

    Raises:
        ConfigError: another process holds the lock.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{work} is writing to {path}; wait until it has ended.") from None
        yield
    finally:
        os.close(handle)


def remove_if_abandoned(folder: Path) -> bool:
    """Removes a working folder that no process has locked; False when one has."""
    try:
        with exclusive_lock(folder, ""):
            shutil.rmtree(folder, ignore_errors=True)
    except (ConfigError, OSError):
        return False
    return True
