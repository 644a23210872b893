"""Temporary folders that go with the process, also when it was killed: the next start removes what a killed one has left."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from pathlib import Path

from mllama_demo.runtime.process import exclusive_lock, remove_if_abandoned

PREFIX = "mllama-demo-"


class TemporaryFolder:
    """A folder that is locked while the process runs. Safe to close twice."""

    def __init__(self) -> None:
        for other in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            if other.is_dir():
                remove_if_abandoned(other)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(exclusive_lock(self.path, "Another process"))
        atexit.register(self.close)

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._stack.close()
        atexit.unregister(self.close)
