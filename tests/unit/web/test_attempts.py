"""How guessing passwords is slowed."""

from __future__ import annotations

import pytest

from mllama_demo.web.auth import attempts
from mllama_demo.web.auth.attempts import FailedAttempts, TooManyAttempts


def test_after_too_many_failures_every_attempt_waits(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(attempts.time, "monotonic", lambda: now[0])
    failures = FailedAttempts(limit=3, window_s=60)
    for _ in range(3):
        failures.add("here")
        now[0] += 10
    with pytest.raises(TooManyAttempts, match="in 1 minute") as error:
        failures.add("here")
    assert error.value.retry_s == 30
    failures.add("elsewhere")
    now[0] += 31
    failures.add("here")


def test_a_success_removes_only_its_own_failure():
    failures = FailedAttempts(limit=2)
    for _ in range(5):
        failures.add("here")
        failures.remove_last("here")
    failures.add("here")
    failures.add("here")
    with pytest.raises(TooManyAttempts):
        failures.add("here")


def test_the_number_of_remembered_keys_is_limited():
    failures = FailedAttempts(limit=2, max_keys=100)
    for number in range(1000):
        failures.add(f"name {number}")
    assert len(failures._failures) == 100
