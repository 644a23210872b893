"""What the running program counts in /metrics: failures by reason, refusals by limit, and responses by status."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from mllama_demo.runtime.failures import REASONS
from tests.support.openai_clients import KEY, about, metric, user
from tests.support.paths import DEMOS
from tests.support.program import Program, running, visitor
from tests.support.raw_gradio_client import RawChat
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

MAX_BYTES = 200_000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    options = ("--api-keys", KEY, "--max-request-bytes", str(MAX_BYTES), "--max-waiting", "0", "--batch-size", "1")
    with running(tmp_path_factory.mktemp("metrics"), *options, script=DEMOS / "failing_demo.py", tracebacks=True) as program:
        program.wait_ready()
        yield program


DAMAGED = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\nno image").decode()


@pytest.mark.parametrize(
    ("body", "key", "status", "reason", "limit"),
    [
        ({"messages": []}, KEY, 400, "bad_request", ""),
        ({"messages": [user("Hello")], "top_k": -7}, KEY, 400, "bad_request", ""),
        ({"messages": [user("Hello")], "model": "another"}, KEY, 404, "not_found", ""),
        ({"messages": [user("Hello")]}, "none", 401, "unauthorized", ""),
        ({"messages": [about(DAMAGED)]}, KEY, 400, "image", ""),
        ({"messages": [user("word " * 5000)]}, KEY, 400, "prompt_too_long", ""),
        ({"messages": [user("x" * MAX_BYTES)]}, KEY, 413, "too_large", "request_size"),
        ({"messages": [user("Hello")], "n": 2}, KEY, 400, "bad_request", ""),
    ],
)
def test_a_refusal_of_the_api_is_counted_once(
    program: Program, body: Any, key: str, status: int, reason: str, limit: str
) -> None:
    def counts() -> tuple[float, float, float]:
        failures = metric(program, "mllama_demo_failures_total", reason=reason)
        refusals = metric(program, "mllama_demo_limit_refusals_total", limit=limit or "request_size")
        try:
            responses = metric(program, "mllama_demo_http_responses_total", route="api", status=str(status))
        except AssertionError:  # there was none yet
            responses = 0
        return failures, refusals, responses

    before = counts()
    with visitor() as http:
        headers = {"Authorization": f"Bearer {key}"}
        answer = http.post(f"{program.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    after = counts()
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, float(bool(limit)), 1]


def test_a_refusal_of_the_page_is_counted_once(program: Program) -> None:
    before = metric(program, "mllama_demo_failures_total", reason="prompt_too_long")
    RawChat(program).ask("word " * 3000)
    assert metric(program, "mllama_demo_failures_total", reason="prompt_too_long") == before + 1


def test_a_model_that_fails_counts_one_failure_and_one_restart(program: Program) -> None:
    def failures() -> dict[str, float]:
        return {reason: metric(program, "mllama_demo_failures_total", reason=reason) for reason in REASONS}

    assert metric(program, "mllama_demo_engine_restarts_total") == 0
    before = failures()
    down = program.home / "down"
    down.touch()
    with visitor() as http:
        headers = {"Authorization": f"Bearer {KEY}"}
        body = {"messages": [user("Tell me a long story.")], "temperature": 0}
        answer = http.post(f"{program.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code in (500, 503)
    down.unlink()
    wait_until(lambda: metric(program, "mllama_demo_engine_restarts_total") == 1, "the model was started again")
    program.wait_ready()
    assert {name: count - before[name] for name, count in failures().items() if count != before[name]} == {"generation": 1}
    assert metric(program, "mllama_demo_database_up") == 1
    assert metric(program, "mllama_demo_http_responses_total", route="page", status="200") >= 1
