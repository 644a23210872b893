"""Starts a program that ends with this process, however this process ends. Only Linux can do that; elsewhere the program goes on.

`python -m mllama_demo.runtime.with_parent PARENT COMMAND…` becomes the command, unless the process of the id PARENT has ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """The kernel kills this process when the thread that has started it ends. It lasts through exec."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def with_parent(command: Sequence[str]) -> list[str]:
    """The command line of a program that ends with the thread that starts it."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-m", __name__, str(os.getpid()), *command]


if __name__ == "__main__":
    end_with_parent()
    if os.getppid() != int(sys.argv[1]):  # it ended before
        sys.exit(1)
    os.execvp(sys.argv[2], sys.argv[2:])
