"""The common base of all backends: a thread that runs the model, the state that this thread sets, and the callbacks."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from mllama_demo.engine.base import BackendInfo, State
from mllama_demo.errors import BackendUnavailable, cause_of

log = logging.getLogger(__name__)


class ThreadedBackend(ABC):
    """A backend with one thread. See base.StartedBackend for the contract.

    Args:
        info: What the backend is; a subclass may replace `_info` later.
        max_waiting: How many requests may wait beyond the slots.
        thread_name: Name of the backend's thread.
        on_ready: Called from the thread when the backend can answer for the first time.
        on_down: Called from the thread with the reason when the backend cannot answer any more.
    """

    def __init__(
        self,
        info: BackendInfo,
        max_waiting: int,
        thread_name: str,
        on_ready: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._info = info
        self._max_waiting = max_waiting
        self._on_ready, self._on_down = on_ready, on_down
        self._state: State = "loading"
        self._detail = "starting"
        self._loaded = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=thread_name, daemon=True)

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def loaded(self) -> bool:
        return self._loaded

    def start(self) -> None:
        if not self._closing:
            self._thread.start()

    @abstractmethod
    def _run(self) -> None:
        """The thread. It ends soon after `_closing` is set and the thread is woken."""

    def _check_ready(self) -> None:
        """Raises BackendUnavailable while the backend loads or is down."""
        if self._state == "loading":
            raise BackendUnavailable.loading(self._detail)
        if self._state == "down":
            raise BackendUnavailable(self._detail)

    def _report_ready(self) -> None:
        """Calls on_ready. A fault of the callback is not one of the model."""
        try:
            self._on_ready()
        except Exception:
            log.exception("the on_ready callback failed")

    def _report_down(self, reason: str) -> None:
        """Calls on_down, and logs the cause. Whoever waits for a model that never was loaded is told instead, and says it."""
        if self._loaded:
            log.error("%s", cause_of(reason))
        self._on_down(reason)

    def _progress(self, detail: str) -> None:
        """Says what is being loaded. Users see it while they wait."""
        self._detail = detail

    def _join(self, timeout_s: float | None = None) -> None:
        """Waits for the end of the thread, unless it was not started or is the caller."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
