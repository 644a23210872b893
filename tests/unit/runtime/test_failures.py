"""A failure that a visitor is told of leaves one line for the operator, with its cause."""

from __future__ import annotations

import importlib
import logging
import pkgutil

import pytest

import mllama_demo
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, DemoError, Failure, ImageError, ServerBusy
from mllama_demo.runtime import failures
from mllama_demo.runtime.failures import FAILURES, FailureLog, log_bug, report_failure
from mllama_demo.runtime.logs import REQUEST_ID


@pytest.fixture(autouse=True)
def no_earlier_failure() -> None:
    failures._logged.clear()
    FAILURES._repeats.clear()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_the_visitor_reads_the_sentence_and_the_operator_the_cause(caplog):
    error = BackendUnavailable(Failure("The server does not answer.", "10.0.0.7:8000 does not answer (refused)"))
    assert report_failure(error) == "The server does not answer."
    assert lines(caplog) == ["A visitor was told of a failure: 10.0.0.7:8000 does not answer (refused)"]


def test_a_failure_that_repeats_does_not_fill_the_log(caplog):
    for _ in range(100):
        report_failure(BackendUnavailable("The model is down."))
    report_failure(BackendUnavailable("The model is gone."))
    assert len(lines(caplog)) == failures.LINES_OF_A_CAUSE + 1


def test_two_visitors_with_the_same_failure_are_both_found(caplog):
    for request_id in ("one", "two"):
        token = REQUEST_ID.set(request_id)
        report_failure(BackendUnavailable("The model is down."))
        REQUEST_ID.reset(token)
    assert len(lines(caplog)) == 2
    assert [record.request_id for record in FAILURES.latest()[:2]] == ["two", "one"]


def test_failures_are_counted_by_reason_and_refusals_by_limit():
    before = FAILURES.counts()
    report_failure(BackendBusy.behind(5))
    report_failure(ServerBusy("Too much.", "image_memory"))
    report_failure(ImageError("The image is damaged."))
    reasons, limits = (
        {name: count - old.get(name, 0) for name, count in new.items() if count != old.get(name, 0)}
        for old, new in zip(before, FAILURES.counts(), strict=True)
    )
    assert reasons == {"busy": 1, "server_busy": 1, "image": 1}
    assert limits == {"queue": 1, "image_memory": 1}


def test_an_unexpected_exception_is_logged_with_its_traceback_and_counted(caplog):
    before = FAILURES.counts()[0].get("internal", 0)
    try:
        raise KeyError("x")
    except KeyError:
        log_bug(logging.getLogger("mllama_demo.part"), "the part %s failed", "a")
    assert FAILURES.counts()[0]["internal"] == before + 1
    assert FAILURES.latest()[0].cause == "the part a failed"
    assert caplog.records[-1].exc_info is not None


def test_a_thousand_bad_requests_do_not_hide_a_failure_of_the_server():
    log = FailureLog()
    log.add("internal", "it failed", "the visitor")
    for number in range(1000):
        log.add("bad_request", f"top_k must be a number, got {number}", "the fuzzer")
    latest = log.latest()
    assert [(record.cause, record.request_id) for record in latest if record.reason == "internal"] == [
        ("it failed", "the visitor")
    ]
    assert latest[0].cause == "top_k must be a number, got 999"
    assert len(latest) == failures.LATEST_OF_A_REASON + 1
    assert log.counts()[0] == {"internal": 1, "bad_request": 1000}


def test_a_page_that_asks_again_and_again_does_not_hide_other_visitors():
    log = FailureLog()
    log.add("database", "The database does not answer (no such host)", "the visitor")
    for _ in range(1000):
        log.add("database", "The database does not answer (locked)", "the page")
    assert [record.request_id for record in log.latest()].count("the page") == failures.LINES_OF_A_CAUSE
    assert log.latest()[-1].request_id == "the visitor"


def subclasses(kind: type[DemoError]) -> list[type[DemoError]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in subclasses(sub))]


def test_every_error_has_a_reason_and_a_limit_that_the_metrics_know():
    for module in pkgutil.walk_packages(mllama_demo.__path__, "mllama_demo."):
        if module.name.rpartition(".")[2] in ("errors", "attempts"):
            importlib.import_module(module.name)
    for kind in subclasses(DemoError):
        assert kind.reason in failures.REASONS, kind
        assert kind.limit in ("", *failures.LIMITS), kind


def test_a_limit_that_the_metrics_do_not_know_is_counted_all_the_same():
    log = FailureLog()
    log.add_limit("a new one")
    assert log.counts()[1] == {"a new one": 1}


@pytest.mark.parametrize("error", [BadRequest("top_k must be a number."), BackendBusy.behind(5)])
def test_a_mistake_of_the_visitor_and_a_full_queue_are_no_failures(caplog, error):
    assert report_failure(error) == str(error)
    assert lines(caplog) == []
