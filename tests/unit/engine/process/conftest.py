from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mllama_demo.engine.process import backend
from tests.support.scripted_engine import Engine


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Engine]]:
    """Makes started engines, which start again after a moment."""
    monkeypatch.setattr(backend, "RESTART_DELAYS_S", (0.05,))
    made: list[Engine] = []

    def make(start: bool = True, **options: Any) -> Engine:
        made.append(Engine(tmp_path, **options))
        return made[-1].start() if start else made[-1]

    yield make
    for one in made:
        one.backend.close()
        assert one.backend.pid is None
