"""A pause of the whole program is no fault of the model."""

from __future__ import annotations

import pytest

from mllama_demo.engine.base import BackendInfo
from mllama_demo.engine.process import backend
from mllama_demo.engine.process.protocol import HEARTBEAT_S, Heartbeat, Ready


def test_a_model_that_was_not_heard_while_nobody_looked_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(backend.time, "monotonic", lambda: now)
    watch = backend._Watch(step_limit_s=60.0)
    watch.heard(Ready(BackendInfo("by hand", "a model", "cpu", 2, 4096, tile_size=32, max_tiles=4)))
    watch.heard(Heartbeat("ready", "", None, 50.0))
    assert not watch.hangs()
    now += 3600  # paused
    assert not watch.hangs()
    silent = 0
    while not watch.hangs():
        now += HEARTBEAT_S
        silent += 1
        assert silent <= 60 / HEARTBEAT_S + 1
    assert silent >= 60 / HEARTBEAT_S - 1, "a model that stays silent hangs after the limit"
