"""The slot backend closes: everybody is told, nothing is left behind, whatever it was doing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from mllama_demo.engine.runner import ModelRunner, RunnerDown
from mllama_demo.engine.slot_backend import Progress
from mllama_demo.errors import BackendUnavailable, CheckpointError
from tests.support.scripted_runner import END, ScriptedRunner
from tests.support.slot_backends import MOST_TOKENS, PATIENCE_S, end, new_backend, read, refused_with, request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

# For what is known to have happened already, but for a hop from thread to thread.
MOMENT_S = 3.0


async def test_closing_ends_everybody_and_refuses_what_comes_later(make) -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000)
    backend = make(runner)

    def close_when_one_waits(request_ids: tuple[str, ...]) -> None:
        wait_until(lambda: backend.status().waiting == 1, "one runs and one waits")
        backend.close()  # from its own thread, where it cannot wait for itself

    runner.on_decode = close_when_one_waits
    answers = await read(backend, request("a", max_tokens=MOST_TOKENS), request("b", max_tokens=MOST_TOKENS))
    for events in answers:
        assert end(events).reason == "error"
        assert "shutting down" in (end(events).error or "")
    backend.close()
    backend.close()
    assert runner.holders == {}
    assert backend.status().state == "down"
    assert "shutting down" in await refused_with(backend)


async def test_a_backend_closed_while_loading_never_calls_itself_ready() -> None:
    said: list[str] = []

    def load(progress: Progress) -> ModelRunner:
        backend.close()  # from its own thread, where it cannot wait for itself
        return ScriptedRunner()

    backend = new_backend(load, on_ready=lambda: said.append("ready"))
    backend.start()
    backend.close()
    assert said == []
    with pytest.raises(BackendUnavailable):
        await asyncio.wait_for(read(backend, request("late")), MOMENT_S)


def test_a_load_that_fails_because_the_backend_is_closed_is_no_failure() -> None:
    said: list[str] = []

    def load(progress: Progress) -> ModelRunner:
        backend.close()
        raise RuntimeError("what it was loading with was taken away")

    backend = new_backend(load, on_down=said.append)
    backend.start()
    backend._thread.join(PATIENCE_S)
    assert not backend._thread.is_alive()
    assert said == []


def threads_of_the_backend() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "backend"}


async def used_and_closed() -> None:
    backend = new_backend(ScriptedRunner(scripts={"a": "A" + END}))
    backend.start()
    wait_until(lambda: backend.status().state == "ready", "loaded")
    await read(backend, request("a"))
    backend.close()


async def closed_in_the_middle_of_a_request() -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000)
    backend = new_backend(runner, slots=1)
    backend.start()
    wait_until(lambda: backend.status().state == "ready", "loaded")
    async with aclosing(backend.generate(request("a", max_tokens=MOST_TOKENS))) as stream:
        await anext(stream)
        await asyncio.to_thread(backend.close)


async def failed_to_load() -> None:
    def load(progress: Progress) -> ModelRunner:
        raise CheckpointError("no weights")

    before = threads_of_the_backend()
    backend = new_backend(load)
    backend.start()
    backend.close()
    # close does not wait for a thread that loads, or loaded in vain: it cannot be stopped, but ends by itself.
    wait_until(lambda: threads_of_the_backend() <= before, "the thread has ended")


async def went_down() -> None:
    runner = ScriptedRunner()
    runner.fail_prefill["a"] = RunnerDown("gone")
    backend = new_backend(runner)
    backend.start()
    wait_until(lambda: backend.status().state == "ready", "loaded")
    await read(backend, request("a"))
    wait_until(lambda: backend.status().state == "down", "down")
    backend.close()


async def never_started() -> None:
    backend = new_backend(ScriptedRunner())
    backend.close()
    backend.close()


@pytest.mark.parametrize(
    "life",
    [used_and_closed, closed_in_the_middle_of_a_request, failed_to_load, went_down, never_started],
    ids=lambda f: f.__name__,
)
async def test_a_backend_leaves_no_thread_behind(life: Callable[[], Awaitable[None]]) -> None:
    before = threads_of_the_backend()
    await life()
    assert threads_of_the_backend() <= before
