"""For how long nobody has asked anything, and a reminder of it: an instance costs the same whether it is used or not."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mllama_demo.engine.base import Backend
from mllama_demo.web.activity import Activity

log = logging.getLogger(__name__)
_LOOK_S = 15.0


class IdleTime:
    """How long there was no request. Loading and compiling count as use, and a model that is down does not. Thread-safe.

    Args:
        now: The clock, in seconds, which has to be that of Activity.
    """

    def __init__(self, backend: Backend, activity: Activity, now: Callable[[], float] = time.monotonic) -> None:
        self._backend, self._activity, self._now = backend, activity, now
        self._busy = now()

    def seconds(self) -> float:
        """Seconds since the last request ended, or since the model was loaded. It has to be asked now and then while it loads."""
        now = self._now()
        if self._activity.requests() or self._backend.status().state == "loading":
            self._busy = now
        return max(0.0, now - max(self._busy, self._activity.last_end))


class IdleReminder:
    """Writes a line into the log after each `minutes` without a request.

    Args:
        device: Returns what the model runs on, for the line; "auto" has a meaning only when the model is loaded.
    """

    def __init__(self, idle: IdleTime, minutes: int, device: Callable[[], str]) -> None:
        self._idle, self._minutes, self._device = idle, minutes, device
        self._reminded = 0
        self._closing = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="idle-reminder", daemon=True).start()

    def close(self) -> None:
        self._closing.set()

    def look(self) -> None:
        """Writes the line if another `minutes` have passed."""
        passed = int(self._idle.seconds() // (60 * self._minutes))
        if passed > self._reminded:
            minutes = passed * self._minutes
            told = "a minute" if minutes == 1 else f"{minutes} minutes"
            log.warning(
                "Nobody has asked anything for %s (idle_reminder_minutes). The model runs on %s; if it is not needed, "
                "stop the machine, which costs the same whether it is used or not.",
                told,
                self._device(),
            )
        self._reminded = passed

    def _run(self) -> None:
        while not self._closing.wait(_LOOK_S):
            try:
                self.look()
            except Exception:
                log.exception("the idle time could not be told")
