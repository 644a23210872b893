"""/health tells the state of the model whatever the other requests do."""

from __future__ import annotations

import anyio.to_thread
import httpx
from fastapi import FastAPI

from mllama_demo.openai_api.routes import _monitoring_routes
from mllama_demo.web.metrics import Metrics
from tests.support.manual_backend import ManualBackend


async def test_health_answers_while_every_thread_is_taken() -> None:
    """The threads that FastAPI and Gradio share, as 40 slow images or sign-ins would take them."""
    app = FastAPI()
    backend = ManualBackend()
    app.include_router(_monitoring_routes(backend, Metrics(backend, "a model"), lambda: None))
    limiter = anyio.to_thread.current_default_thread_limiter()
    taken = [object() for _ in range(int(limiter.available_tokens))]
    for one in taken:
        limiter.acquire_on_behalf_of_nowait(one)
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
            with anyio.fail_after(60):
                assert (await client.get("/health")).json()["status"] == "ready"
                assert (await client.get("/version")).status_code == 200
    finally:
        for one in taken:
            limiter.release_on_behalf_of(one)
