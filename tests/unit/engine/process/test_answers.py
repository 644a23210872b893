"""A backend in a process of its own answers, refuses and cancels as the same backend in this process does."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from dataclasses import replace

import pytest
from PIL import Image

from mllama_demo.engine.base import FinishEvent, PrefillEvent, TokenEvent
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, PromptTooLong
from mllama_demo.images.loading import LoadedImage
from tests.support.scripted_engine import CONTEXT_LENGTH
from tests.support.scripted_runner import trace_of
from tests.support.slot_backends import end, read, request, text
from tests.support.waiting import until, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


async def test_the_events_of_an_answer_are_those_of_the_backend_itself(engine) -> None:
    [events] = await read(engine().backend, replace(request("a"), trace=True))
    prefill = next(event for event in events if isinstance(event, PrefillEvent))
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    assert prefill.prompt_tokens == 3
    assert text(events) == "the answer of a"
    assert [event.index for event in tokens] == list(range(16))
    assert [event.trace for event in tokens] == [trace_of(event.token_id) for event in tokens]
    finish = end(events)
    assert (finish.reason, finish.prompt_tokens, finish.completion_tokens, finish.error) == ("end_of_turn", 3, 16, None)
    assert finish.timings.ttft_s is not None
    assert 0 < finish.timings.ttft_s < finish.timings.total_s


async def test_the_model_is_in_another_process_and_session(engine) -> None:
    pid = engine().backend.pid
    assert pid != os.getpid()
    assert os.getsid(pid) != os.getsid(0), "Ctrl-C would reach it"


async def test_requests_wait_for_a_slot_and_are_told_their_place(engine) -> None:
    made = engine(slots=1)
    answers = await read(made.backend, *(request(name) for name in "abc"))
    assert [text(events) for events in answers] == [f"the answer of {name}" for name in "abc"]
    assert [getattr(events[0], "position", None) for events in answers] == [None, 1, 2]


async def test_status_counts_requests_at_once(engine) -> None:
    backend = engine(slots=1).backend
    tasks = [asyncio.create_task(read(backend, request(name))) for name in ("endless", "b")]
    await until(lambda: backend.status().running == 1, "one runs")
    status = backend.status()
    assert (status.state, status.waiting, status.slots) == ("ready", 1, 1)
    backend.cancel("endless")
    await asyncio.gather(*tasks)
    status = backend.status()
    assert (status.running, status.waiting, status.estimated_wait_s) == (0, 0, 0.0)


async def test_refusals_name_their_reason(engine) -> None:
    made = engine(slots=1, max_waiting=1)
    with pytest.raises(PromptTooLong):
        await read(made.backend, request("long", prompt=CONTEXT_LENGTH))
    tasks = [asyncio.create_task(read(made.backend, request(name))) for name in ("endless", "b")]
    await until(lambda: made.backend.status().running == 1 and made.backend.status().waiting == 1, "one runs, one waits")
    with pytest.raises(BackendBusy, match="1 question is waiting already"):
        await read(made.backend, request("c"))
    with pytest.raises(BadRequest, match="'b' is already under way"):
        await read(made.backend, request("b"))
    made.backend.cancel("endless")
    await asyncio.gather(*tasks)


async def test_a_cancelled_request_keeps_its_text(engine) -> None:
    backend = engine().backend
    task = asyncio.create_task(read(backend, request("endless")))
    await until(lambda: backend.status().running == 1, "it runs")
    backend.cancel("endless")
    [events] = await task
    assert end(events).reason == "cancelled"
    assert text(events) == "~" * end(events).completion_tokens


async def test_a_reader_that_leaves_frees_its_slot(engine) -> None:
    backend = engine(slots=1).backend
    async with aclosing(backend.generate(request("endless"))) as events:
        async for event in events:
            if isinstance(event, TokenEvent):
                break
    [answer] = await read(backend, request("a"))
    assert text(answer) == "the answer of a"


async def test_a_reader_that_leaves_at_once_frees_its_slot(engine) -> None:
    backend = engine(slots=1).backend
    for _ in range(20):
        task = asyncio.create_task(read(backend, request("endless")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    [answer] = await read(backend, request("a"))
    assert text(answer) == "the answer of a"


async def test_images_reach_the_model_once_and_unchanged(engine) -> None:
    made = engine()
    red, green = (
        LoadedImage(Image.new("RGB", (8, 4), colour), b"a file", "PNG", name, name)
        for name, colour in (("red", (255, 0, 0)), ("green", (0, 255, 0)))
    )
    for number, image in enumerate((red, red, green, red)):
        await read(made.backend, replace(request(f"a{number}", max_tokens=1), image=image))
    lines = (made.folder / "images").read_text(encoding="utf-8").splitlines()
    assert lines == ["a0 (255, 0, 0) red", "a1 (255, 0, 0) red", "a2 (0, 255, 0) green", "a3 (255, 0, 0) red"]


async def test_while_loading_the_status_names_the_stage(engine) -> None:
    made = engine(start=False)
    (made.folder / "hold").touch()
    made.backend.start()
    wait_until(lambda: made.backend.status().detail == "reading the script", "the stage is told")
    with pytest.raises(BackendUnavailable, match=r"still loading \(reading the script\)"):
        await read(made.backend, request("a"))
    assert (made.backend.status().state, made.backend.loaded) == ("loading", False)
    (made.folder / "hold").unlink()
    made.wait_ready()
    assert made.backend.loaded


async def test_closing_ends_a_running_answer_by_name(engine) -> None:
    made = engine()
    task = asyncio.create_task(read(made.backend, request("endless")))
    await until(lambda: made.backend.status().running == 1, "it runs")
    await asyncio.to_thread(made.backend.close)
    [events] = await task
    finish = events[-1]
    assert isinstance(finish, FinishEvent)
    assert (finish.reason, finish.error) == ("error", "The demo is shutting down.")
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await read(made.backend, request("a"))
