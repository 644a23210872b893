"""What the process of the model writes to standard output and standard error: passed on, and its end kept.

The Neuron runtime is a library that writes its errors there and may abort the process right after, so that no exception tells of
them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from multiprocessing.connection import Connection

_KEPT_BYTES = 32 * 1024
_STANDARD_ERROR = 2


def redirect_output(output: Connection) -> None:
    """In the process of the model: writes standard output and standard error into the connection from now on."""
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    # Python remembers of its old streams whether they can seek, which a log file can and this connection cannot.
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


class ProcessOutput:
    """In the web process: copies the output of one process to standard error.

    Args:
        output: The reading end of the connection. It is closed when the process, and whatever it has started, has ended.
    """

    def __init__(self, output: Connection) -> None:
        self._output = output
        self._end = bytearray()
        self._thread = threading.Thread(target=self._copy, name="engine-output", daemon=True)
        self._thread.start()

    def last_lines(self, patience_s: float) -> str:
        """The end of the output.

        Args:
            patience_s: How long to wait for the rest of the output of a process that has ended.
        """
        self._thread.join(patience_s)
        return bytes(self._end).decode(errors="replace")

    def _copy(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._output.fileno(), 65536):
                self._end += data
                del self._end[:-_KEPT_BYTES]
                with contextlib.suppress(OSError):  # nobody reads the log
                    _write_all(data)
        self._output.close()


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(_STANDARD_ERROR, view) :]
