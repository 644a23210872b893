"""Lines of the log: one an event, in both formats, with the id of the request."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from mllama_demo.runtime.logs import REQUEST_ID, JsonFormatter, RequestIdFilter, TextFormatter
from tests.support.paths import ROOT


def record(message: str, *args: Any, error: BaseException | None = None, **extra: str) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("mllama_demo.part", logging.ERROR, __file__, 1, message, args, exc_info)
    made.__dict__.update(extra)
    RequestIdFilter().filter(made)
    return made


def raised() -> ValueError:
    try:
        raise ValueError("the device said no")
    except ValueError as error:
        return error


@pytest.fixture
def in_request() -> Any:
    token = REQUEST_ID.set("abc-123")
    yield
    REQUEST_ID.reset(token)


def test_a_json_line_has_time_level_logger_message_and_request(in_request: None) -> None:
    line = JsonFormatter().format(record("%d requests\nfailed", 2))
    assert "\n" not in line
    event = json.loads(line)
    assert event.pop("time").endswith("Z")
    assert event == {"level": "ERROR", "logger": "mllama_demo.part", "message": "2 requests\nfailed", "request_id": "abc-123"}


def test_a_json_line_outside_of_a_request_has_no_id() -> None:
    assert json.loads(JsonFormatter().format(record("ready")))["request_id"] is None


def test_a_json_line_has_the_traceback_of_an_exception() -> None:
    event = json.loads(JsonFormatter().format(record("failed", error=raised())))
    assert event["exception"].startswith("Traceback")
    assert event["exception"].endswith("ValueError: the device said no")


def test_a_text_line_ends_with_the_id(in_request: None) -> None:
    assert TextFormatter().format(record("it failed")).endswith("ERROR mllama_demo.part: it failed [abc-123]")


def test_a_line_may_bring_the_id_of_another_request(in_request: None) -> None:
    assert TextFormatter().format(record("it failed", request_id="one,two")).endswith("it failed [one,two]")


def test_a_line_end_in_a_message_begins_no_forged_line() -> None:
    text = TextFormatter().format(record("wrong name %s", "x\r\n2026-11-30 12:00:00,000 ERROR mllama_demo: forged"))
    assert "\n" not in text
    assert "\r" not in text


def test_a_traceback_follows_the_line_of_text() -> None:
    first, second, *_ = TextFormatter().format(record("it failed", error=raised())).split("\n")
    assert first.endswith("it failed")
    assert second.startswith("Traceback")


def log_of(code: str) -> list[str]:
    start = (
        "import logging, threading, warnings\nfrom mllama_demo.runtime.logs import *\nlog = logging.getLogger('mllama_demo.x')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", start + code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.stderr.splitlines()


def test_lines_from_before_the_settings_are_read_have_the_format_that_the_settings_choose() -> None:
    lines = log_of("set_up_logging()\nlog.warning('early')\nset_up_logging('json')\nlog.info('late')")
    assert [json.loads(line)["message"] for line in lines] == ["early", "late"]


def test_lines_of_a_program_whose_settings_cannot_be_read_are_written_as_text() -> None:
    [line] = log_of("set_up_logging()\nlog.warning('early')\nraise SystemExit(2)")
    assert line.endswith("WARNING mllama_demo.x: early")


def test_warnings_and_exceptions_that_nobody_catches_are_json_lines_too() -> None:
    code = """
set_up_logging("json")
warnings.warn("old", stacklevel=1)
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
raise RuntimeError("the end")
"""
    events = [json.loads(line) for line in log_of(code)]
    assert [event["level"] for event in events] == ["WARNING", "ERROR", "CRITICAL"]
    assert "ZeroDivisionError" in events[1]["exception"]
    assert "RuntimeError: the end" in events[2]["exception"]
