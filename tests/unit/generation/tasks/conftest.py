"""A backend played by hand, with answers over it."""

from __future__ import annotations

import pytest

from mllama_demo.generation.tasks import LiveAnswers
from mllama_demo.storage.conversations import Store
from tests.support.answer_tasks import new_answers
from tests.support.manual_backend import HandBackend


@pytest.fixture
def backend() -> HandBackend:
    return HandBackend()


@pytest.fixture
def answers(store: Store, backend: HandBackend) -> LiveAnswers:
    return new_answers(store, backend)
