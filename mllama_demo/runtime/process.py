"""Signals and the end of the process, and locks on folders that one process at a time may write to."""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib.util
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from mllama_demo.errors import ConfigError

log = logging.getLogger(__name__)
MODEL_THREAD = "model"  # the name of every thread that loads or runs a model
UPLOAD_THREAD = "upload"  # the name of a thread that uploads gigabytes
SIGPIPE = 13  # signal.SIGPIPE, which Windows does not have
_HAS_LOCKS = importlib.util.find_spec("fcntl") is not None  # not on Windows


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Has no effect outside the main thread.

    The end of the terminal counts as SIGTERM, unless `nohup` has started the program.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def terminate(*_: Any) -> None:
        signal.raise_signal(signal.SIGTERM)  # whose handler may be another one by then

    before: dict[int, Any] = {}
    try:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, interrupt)
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
            before[hangup] = signal.signal(hangup, terminate)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_process(code: int) -> NoReturn:
    """Ends the process. Does not wait for a thread that still loads, runs or uploads a model.

    PyTorch aborts the process when the interpreter ends under a thread that runs a model. An upload has a pool of threads, and
    the interpreter would wait for the files that they transfer. Functions registered with atexit are called.
    """
    if not any(thread.name in (MODEL_THREAD, UPLOAD_THREAD) for thread in threading.enumerate()):
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or none at all
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def exclusive_lock(path: Path, work: str) -> Iterator[bool]:
    """Locks an existing file or folder. The operating system releases the lock when the process ends.

    Yields whether it is locked: Windows has no such locks, a network file system may have none, or, as NFS, none on folders.

    Args:
        path: the file or folder.
        work: the work of another process that holds the lock, for the error message, such as "Another compilation".

    Raises:
        ConfigError: another process holds the lock.
    """
    if not _HAS_LOCKS:
        yield False
        return
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{work} is writing to {path}; wait until it has ended.") from None
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOLCK):
                raise
            log.info("%s cannot be locked (%s); nothing keeps another process from writing to it.", path, error.strerror)
            locked = False
        yield locked
    finally:
        os.close(handle)


def remove_if_abandoned(folder: Path) -> bool:
    """Removes a working folder that no process has locked; False when one has, or when it cannot be told."""
    try:
        with exclusive_lock(folder, "") as locked:
            if not locked:
                return False
            shutil.rmtree(folder, ignore_errors=True)
    except (ConfigError, OSError):
        return False
    return True
