"""Fixtures: AnswerTasks on a ManualBackend."""

from __future__ import annotations

import pytest

from mllama_demo.generation.tasks import AnswerTasks
from mllama_demo.storage.conversations import ConversationStore
from tests.support.answer_tasks import new_answers
from tests.support.manual_backend import ManualBackend


@pytest.fixture
def backend() -> ManualBackend:
    return ManualBackend()


@pytest.fixture
def answers(store: ConversationStore, backend: ManualBackend) -> AnswerTasks:
    return new_answers(store, backend)
