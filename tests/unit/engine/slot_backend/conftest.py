"""Slot backends that are closed when the test is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.slot_backends import Backends


@pytest.fixture
def make() -> Iterator[Backends]:
    """Makes backends; in the end they are closed, and their slots must have been used as the runner demands."""
    backends = Backends()
    yield backends
    for backend, runner, control in backends.made:
        if control is not None:
            control.run_free()
        backend.close()
        assert runner.violations == []
