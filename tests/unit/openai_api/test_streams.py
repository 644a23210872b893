"""The beginning of a streamed answer: a refusal that comes soon has its status, and silence ends after a few seconds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mllama_demo.errors import BackendUnavailable
from mllama_demo.openai_api import routes
from mllama_demo.openai_api.routes import _streamed
from mllama_demo.web import streaming
from mllama_demo.web.streaming import ClientDisconnected
from tests.support.completions import begin, body
from tests.support.manual_backend import READ, ManualBackend, finished


async def connected() -> Any:
    await asyncio.Event().wait()


async def sent(response: Any, backend: ManualBackend, *events: Any) -> list[str]:
    """What the client receives, when the backend says something after the first sign of life."""
    received: list[str] = []

    async def send(message: Any) -> None:
        received.append(message.get("body", b"").decode())
        if len(received) == 2:  # after the headers and one comment
            backend.send(*events)

    await response({"type": "http"}, connected, send)
    return [part for part in "".join(received).split("\n\n") if part]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ManualBackend:
    for module in (routes, streaming):
        monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.02)
    return ManualBackend()


async def test_a_silent_backend_leaves_no_silent_connection(backend):
    response = await _streamed(await begin(backend, body(stream=True)), connected)
    parts = await sent(response, backend, READ, finished(text="Hello!"))
    assert parts[0] == ": keep-alive"
    texts = [json.loads(part[6:])["choices"][0]["delta"].get("content") for part in parts if part.startswith("data: {")]
    assert "".join(text or "" for text in texts) == "Hello!"
    assert parts[-1] == "data: [DONE]"


async def test_a_late_refusal_is_an_event(backend):
    response = await _streamed(await begin(backend, body(stream=True)), connected)
    parts = await sent(response, backend, BackendUnavailable("The model is down."))
    assert json.loads(parts[-2][6:])["error"]["message"] == "The model is down."
    assert parts[-1] == "data: [DONE]"


async def test_an_early_refusal_has_its_own_status(backend):
    backend.refusal = BackendUnavailable("The model is down.")
    completion = await begin(backend, body(stream=True))
    with pytest.raises(BackendUnavailable):
        await _streamed(completion, connected)


async def test_a_client_that_leaves_before_the_first_event_frees_its_slot(backend):
    async def disconnected() -> Any:
        await backend.taken()
        return {"type": "http.disconnect"}

    completion = await begin(backend, body(stream=True))
    with pytest.raises(ClientDisconnected):
        await _streamed(completion, disconnected)
    assert backend.closed == [backend.requests[0].id]
