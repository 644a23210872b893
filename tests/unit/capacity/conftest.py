"""Simulations that are as long as the tests of sizes need."""

from __future__ import annotations

import pytest


@pytest.fixture
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of the questions of a simulation, for tests that compare sizes and not times."""
    monkeypatch.setattr("mllama_demo.capacity.sizing.QUESTIONS", 700)
