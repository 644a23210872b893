"""Log lines of the process of the model: in the format of the web process, with the id of the request, and the traceback once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mllama_demo.engine.base import MODEL_DOWN
from mllama_demo.engine.process.requests import Requests
from mllama_demo.errors import BackendUnavailable
from mllama_demo.runtime.logs import set_up_logging
from tests.support.slot_backends import end, read, request

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def json_logs() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    set_up_logging("json")
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def events(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


async def test_the_traceback_of_a_failed_step_is_logged_once_with_the_id(engine, json_logs, capfd) -> None:
    made = engine()
    made.fail_in("prefill", "the device said no")
    [answer] = await read(made.backend, replace(request("x"), request_id="from-the-client"))
    assert end(answer).reason == "error"
    about = [event for event in events(capfd) if event["request_id"] == "from-the-client"]
    assert [event["logger"] for event in about] == ["mllama_demo.engine.scheduler", "mllama_demo.engine.slot_backend"]
    traced = [event["exception"] for event in about if "exception" in event]
    assert len(traced) == 1
    assert "_fail_in" in traced[0]
    assert traced[0].endswith("RuntimeError: the device said no")


async def test_a_request_that_ends_with_its_process_can_be_found_by_its_id(engine, caplog: pytest.LogCaptureFixture) -> None:
    made = engine()
    made.fail_in("prefill", "segfault")
    await read(made.backend, replace(request("x"), request_id="from-the-client"))
    [line] = [record for record in caplog.records if getattr(record, "request_id", "") == "from-the-client"]
    assert "SIGSEGV" in line.getMessage()


async def test_a_request_that_reaches_a_process_on_its_way_down_waits_for_the_next_process() -> None:
    requests, sent = Requests(), []
    tracked = requests.add(request("late"), 1, 8, sent.append)
    assert requests.deliver([("late", BackendUnavailable(MODEL_DOWN))]) == []
    assert requests.counts() == (0, 1)
    requests.send_again(sent.append)
    assert [one.id for one in sent] == ["late", "late"]
    assert requests.remove(tracked)
