"""Requests that are served in a thread's event loop, at the moment when that loop ends."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mllama_demo.engine.base import FinishEvent, GenerationRequest
from mllama_demo.engine.queued_backend import RequestLoop
from mllama_demo.engine.request_queue import Job
from mllama_demo.errors import BackendUnavailable
from tests.support.manual_backend import PATIENCE_S

pytestmark = pytest.mark.timeout(60)


async def test_a_request_that_comes_too_late_to_begin_is_told_so() -> None:
    opened, sent = threading.Event(), threading.Event()

    async def serve(job: Job) -> FinishEvent:
        await asyncio.Event().wait()
        raise AssertionError("nobody is served here")

    requests = RequestLoop(lambda: 1, 4, serve)

    async def life() -> None:
        requests.open()
        opened.set()
        assert sent.wait(PATIENCE_S)  # the loop stands still: what is sent meanwhile it never comes to

    def thread() -> None:
        asyncio.run(life())
        requests.refuse_all("It is over.")

    serving = threading.Thread(target=thread)
    serving.start()
    assert opened.wait(PATIENCE_S)
    first = asyncio.create_task(anext(requests.stream(GenerationRequest((1,)))))
    await asyncio.sleep(0)  # the request is on its way
    sent.set()
    with pytest.raises(BackendUnavailable, match="It is over"):
        await first
    serving.join(PATIENCE_S)
