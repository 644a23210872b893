"""What a visitor is told of a failure, the line that it leaves for the operator, and counts of failures by reason.

The counts and the latest failures are those of this process. /metrics and the operator's page show them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass

from cachetools import TTLCache

from mllama_demo.errors import DemoError, cause_of
from mllama_demo.runtime.logs import REQUEST_ID

log = logging.getLogger(__name__)
REPEATED_AFTER_S = 60
# A browser that asks again every two seconds must not fill the log, and several visitors with one failure must be found.
LINES_OF_A_CAUSE = 10
LATEST_OF_A_REASON = 50  # so that a thousand bad requests do not hide the failures of the server
# What can happen, as the label `reason` of the metrics. Subclasses of DemoError name theirs in the attribute `reason`.
REASONS = (
    "bad_request",
    "busy",
    "conflict",
    "database",
    "engine_restarted",
    "forbidden",
    "generation",
    "image",
    "internal",
    "limit",
    "model_down",
    "not_found",
    "prompt_too_long",
    "server_busy",
    "shutdown",
    "time_limit",
    "too_large",
    "too_slow",
    "unauthorized",
    "unavailable",
)
# Limits that refuse requests, as the label `limit` of the metrics. Errors name theirs in the attribute `limit`.
LIMITS = (
    "client_images",
    "client_places",
    "client_questions",
    "client_tokens",
    "fetching_threads",
    "image_memory",
    "image_threads",
    "image_workers",
    "kiosk_questions",
    "password_threads",
    "queue",
    "request_memory",
    "request_size",
    "request_time",
    "sign_in",
)


class _Repeats:
    """Says which causes have come too often lately. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: TTLCache[str, list[None]] = TTLCache(1000, REPEATED_AFTER_S)  # an element for each time

    def too_often(self, cause: str) -> bool:
        """Notes the cause. Returns whether it came LINES_OF_A_CAUSE times within the last REPEATED_AFTER_S already."""
        with self._lock:
            times = self._seen.setdefault(cause, [])
            if len(times) >= LINES_OF_A_CAUSE:
                return True
            times.append(None)
            return False

    def clear(self) -> None:
        with self._lock:
            self._seen.clear()


@dataclass(frozen=True)
class FailureRecord:
    """One failure. time: seconds since the epoch. cause: for the operator."""

    time: float
    request_id: str
    reason: str
    cause: str


class FailureLog:
    """Counts failures, and keeps the latest in memory. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[str, deque[FailureRecord]] = defaultdict(lambda: deque(maxlen=LATEST_OF_A_REASON))
        self._repeats = _Repeats()
        self._reasons: Counter[str] = Counter()
        self._limits: Counter[str] = Counter()

    def add(self, reason: str, failure: object, request_id: str | None = None) -> None:
        """Counts a failure.

        Args:
            reason: One of REASONS.
            failure: A DemoError, or the sentence that the visitor is told.
            request_id: None for the request that the current task works for.
        """
        record = FailureRecord(time.time(), REQUEST_ID.get() if request_id is None else request_id, reason, cause_of(failure))
        is_listed = not self._repeats.too_often(record.cause)
        with self._lock:
            self._reasons[reason] += 1
            if is_listed:
                self._latest[reason].append(record)

    def add_limit(self, limit: str) -> None:
        """Counts a request that a limit refused. limit: one of LIMITS."""
        with self._lock:
            self._limits[limit] += 1

    def latest(self) -> list[FailureRecord]:
        """The latest failures of each reason, the newest first; of a cause that repeats, ten within a minute."""
        with self._lock:
            records = [record for of_a_reason in self._latest.values() for record in reversed(of_a_reason)]
        return sorted(records, key=lambda record: record.time, reverse=True)

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """How many failures there were by reason, and refusals by limit."""
        with self._lock:
            return dict(self._reasons), dict(self._limits)


FAILURES = FailureLog()
_logged = _Repeats()


def report_failure(error: DemoError) -> str:
    """Counts and logs a failure that a visitor is told of. Returns the sentence for the visitor."""
    count_failure(error)
    log_failure(error, error.status)
    return str(error)


def count_failure(error: DemoError) -> None:
    """Counts a failure that a visitor is told of, and the limit that it is due to."""
    FAILURES.add(error.reason, error)
    if error.limit:
        FAILURES.add_limit(error.limit)


def log_failure(failure: object, status: int) -> None:
    """Logs a failure that is not the visitor's own mistake, with its cause; the same one at most ten times a minute.

    Args:
        failure: a DemoError, or the sentence that the visitor is told.
        status: the HTTP status of the failure. Below 500 it is the visitor's, or a full queue, and nothing is logged.
    """
    if status < 500:
        return
    cause = cause_of(failure)
    if not _logged.too_often(cause):
        log.error("A visitor was told of a failure: %s", cause)


def log_bug(logger: logging.Logger, what: str, *args: object) -> None:
    """Logs the exception that is being handled, which nobody expected, with its traceback, and counts it.

    Args:
        logger: The logger of the caller.
        what: What failed, with the format of logging.
    """
    logger.exception(what, *args)
    FAILURES.add("internal", what % args if args else what)
