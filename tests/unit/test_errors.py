"""Failures: a sentence for visitors that carries its cause for the operator."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict

from mllama_demo.engine.base import BackendStatus
from mllama_demo.errors import BackendUnavailable, Failure, cause_of

FAILURE = Failure("The model server cannot be reached.", "http://10.0.0.7:8000 refused the connection")


def test_a_copied_failure_keeps_its_cause() -> None:
    status = asdict(BackendStatus("down", FAILURE, running=0, waiting=0, slots=4, max_waiting=8, estimated_wait_s=None))
    for copied in (status["detail"], copy.deepcopy(FAILURE), pickle.loads(pickle.dumps(FAILURE))):
        assert copied == "The model server cannot be reached."
        assert cause_of(copied) == FAILURE.cause


def test_an_error_tells_the_sentence_and_carries_the_cause() -> None:
    error = BackendUnavailable(FAILURE)
    assert str(error) == "The model server cannot be reached."
    assert cause_of(error) == FAILURE.cause
    assert cause_of("A plain sentence.") == "A plain sentence."
