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
        # Another process that starts removes folders of the final name that nobody has locked. The lock survives a rename.
        new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(exclusive_lock(new, "Another process"))
        self.path = new.rename(new.with_name(new.name[1:]))
        atexit.register(self.close)

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._stack.close()
        atexit.unregister(self.close)
