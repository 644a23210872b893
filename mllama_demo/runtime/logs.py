"""The log of the program: one line an event, as text or as JSON, each with the id of the request that it belongs to.

Knows neither HTTP nor the model. An HTTP request sets its id in web/request_ids.py, the engine sets that of the question that it
works on.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
import threading
from contextvars import ContextVar
from datetime import datetime, timezone
from logging.handlers import MemoryHandler
from typing import Any, Literal

LogFormat = Literal["text", "json"]

# The id of the HTTP request that the current task or thread works for; empty where it works for none.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_HELD_LINES = 1000


def new_request_id() -> str:
    return secrets.token_hex(8)


class RequestIdFilter(logging.Filter):
    """Gives every record the attribute request_id. A line may bring its own with extra={"request_id": …}."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = REQUEST_ID.get()
        return True


class TextFormatter(logging.Formatter):
    """Time, level, logger, message and [request id]. An event is one line, and a traceback follows in lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        # A message may repeat what a client sent: a line end in it must not begin a line that looks like another event.
        line = super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")
        request_id = getattr(record, "request_id", "")
        return f"{line} [{request_id}]" if request_id else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, request_id (null for none) and, if there is one, exception."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        event: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", "") or None,
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)


class _LogHandler(logging.StreamHandler):  # no [Any]: Python 3.10 cannot subscript it
    """The handler of this program, which set_up_logging replaces. Writes to what sys.stderr is at that moment."""

    def __init__(self, log_format: LogFormat) -> None:
        super().__init__()
        self.log_format: LogFormat = log_format
        self.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _HeldLines(MemoryHandler):
    """Keeps the lines until the settings say how to write them. A program that ends before writes them as text."""

    def __init__(self) -> None:
        super().__init__(_HELD_LINES, flushLevel=logging.CRITICAL + 1, target=_LogHandler("text"))


def set_up_logging(log_format: LogFormat | None = None) -> None:
    """Sends log lines to standard error: those of this program from INFO on, those of libraries from WARNING on.

    Args:
        log_format: How lines are written. None while the settings are not read yet: lines are kept until the next call.
    """
    root = logging.getLogger()
    held = [handler for handler in root.handlers if isinstance(handler, _HeldLines)]
    for handler in [*held, *(handler for handler in root.handlers if isinstance(handler, _LogHandler))]:
        root.removeHandler(handler)
    new = _HeldLines() if log_format is None else _LogHandler(log_format)
    new.addFilter(RequestIdFilter())
    root.addHandler(new)
    root.setLevel(logging.WARNING)
    logging.getLogger("mllama_demo").setLevel(logging.INFO)
    for handler in held:
        handler.setTarget(new)
        handler.close()  # writes its lines
    if log_format == "json":  # every line of standard error is an object then
        logging.captureWarnings(True)
        sys.excepthook = _log_exception
        threading.excepthook = _log_thread_exception


def log_format() -> LogFormat:
    """The format that set_up_logging has chosen; text before."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _LogHandler):
            return handler.log_format
    return "text"


def _log_exception(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
    else:
        logging.getLogger("mllama_demo").critical("The program ends because of a bug.", exc_info=(kind, error, traceback))


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        name = "?" if args.thread is None else args.thread.name
        exception = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger("mllama_demo").error("The thread %s ends because of a bug.", name, exc_info=exception)
