"""The slot backend refuses, loads and fails by name: whatever happens, nobody is left waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest

from mllama_demo.engine.base import Event
from mllama_demo.engine.runner import ModelRunner, RunnerDown
from mllama_demo.engine.slot_backend import Progress
from mllama_demo.engine.token_sampler import NOT_FINITE
from mllama_demo.errors import BackendBusy, BadRequest, CheckpointError, PromptTooLong, cause_of
from tests.support.scripted_runner import END, ScriptedRunner
from tests.support.slot_backends import (
    MOST_TOKENS,
    PATIENCE_S,
    CodePoints,
    StepControl,
    end,
    idle,
    new_backend,
    read,
    refused_with,
    request,
    text,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)

# For what is known to have happened already, but for a hop from thread to thread.
MOMENT_S = 3.0


# --- refusing ------------------------------------------------------------------------------------------------------------


async def test_a_second_request_with_an_id_under_way_is_refused_and_the_first_goes_on(make) -> None:
    runner = ScriptedRunner(scripts={"a": "all of it" + END})
    control = StepControl(runner)
    backend = make(runner, control)
    async with aclosing(backend.generate(request("a"))) as first:
        begun = [await anext(first)]
        with pytest.raises(BadRequest, match="'a' is already under way"):
            await read(backend, request("a"))
        control.run_free()
        events = begun + [event async for event in first]
    assert (text(events), end(events).reason) == ("all of it", "end_of_turn")


async def test_a_full_queue_refuses_the_next_request_and_serves_those_in_it(make) -> None:
    runner = ScriptedRunner(slots=1, scripts={name: name + END for name in "abcd"})
    control = StepControl(runner)
    backend = make(runner, control, max_waiting=2)

    async def scene() -> list[list[Event]]:
        first = asyncio.create_task(read(backend, request("a")))
        await asyncio.to_thread(wait_until, lambda: backend.status().running == 1, "a has the slot")
        others = asyncio.create_task(read(backend, request("b"), request("c")))
        await asyncio.to_thread(wait_until, lambda: backend.status().waiting == 2, "b and c wait")
        with pytest.raises(BackendBusy, match="2 questions are waiting"):
            await read(backend, request("d"))
        control.run_free()
        return [*await first, *await others]

    assert [text(events) for events in await scene()] == ["a", "b", "c"]
    assert sorted(runner.prefilled()) == ["a", "b", "c"]
    [events] = await read(backend, request("d"))
    assert text(events) == "d"


@pytest.mark.parametrize(("waiting", "said"), [(1, "1 question is waiting already"), (2, "2 questions are waiting already")])
async def test_a_full_queue_says_how_many_wait(make, waiting: int, said: str) -> None:
    runner = ScriptedRunner(slots=1, scripts={name: name + END for name in "abcd"})
    control = StepControl(runner)
    backend = make(runner, control, max_waiting=waiting)
    first = asyncio.create_task(read(backend, request("a")))
    await asyncio.to_thread(wait_until, lambda: backend.status().running == 1, "a has the slot")
    others = asyncio.create_task(read(backend, *(request(name) for name in "bc"[:waiting])))
    await asyncio.to_thread(wait_until, lambda: backend.status().waiting == waiting, "the others wait")
    with pytest.raises(BackendBusy, match=said):
        await read(backend, request("d"))
    control.run_free()
    await asyncio.gather(first, others)


async def test_a_prompt_without_room_for_an_answer_is_refused_and_leaves_nothing_behind(make) -> None:
    runner = ScriptedRunner(max_seq_len=8, scripts={"a": "A" + END})
    backend = make(runner)
    with pytest.raises(PromptTooLong):
        await read(backend, request("a", prompt=8))
    assert idle(backend)
    [events] = await read(backend, request("a", prompt=7))
    assert text(events) == "A"


# --- loading -------------------------------------------------------------------------------------------------------------


async def test_while_loading_the_status_and_the_refusal_name_what_is_loading() -> None:
    told, go_on, ready = threading.Event(), threading.Event(), threading.Event()

    def load(progress: Progress) -> ModelRunner:
        progress("reading shard 3 of 5")
        told.set()
        assert go_on.wait(PATIENCE_S)
        return ScriptedRunner(scripts={"a": "A" + END})

    backend = new_backend(load, on_ready=ready.set)
    try:
        assert backend.status().state == "loading"
        backend.start()
        assert told.wait(PATIENCE_S)
        status = backend.status()
        assert (status.state, status.detail, status.slots) == ("loading", "reading shard 3 of 5", 2)
        assert (status.running, status.waiting, status.estimated_wait_s) == (0, 0, None)
        assert "still loading (reading shard 3 of 5)" in await refused_with(backend)
        backend.cancel("nobody")
        assert not backend.loaded
        assert not ready.is_set()
        go_on.set()
        assert ready.wait(PATIENCE_S)
        assert (backend.status().state, backend.status().estimated_wait_s, backend.loaded) == ("ready", 0.0, True)
        [events] = await read(backend, request("a"))
        assert text(events) == "A"
    finally:
        go_on.set()
        backend.close()


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (CheckpointError("The folder has no weights."), "The folder has no weights."),
        (RuntimeError("CUDA error: out of memory"), "CUDA error: out of memory"),
        (MemoryError(), "MemoryError"),
    ],
    ids=["expected", "unexpected", "without words"],
)
async def test_a_model_that_cannot_be_loaded_is_down_with_the_reason(error: Exception, named: str) -> None:
    def load(progress: Progress) -> ModelRunner:
        raise error

    told: list[str] = []
    ready, down = threading.Event(), threading.Event()
    backend = new_backend(load, on_ready=ready.set, on_down=lambda reason: (told.append(reason), down.set()))
    backend.start()
    try:
        assert down.wait(PATIENCE_S)
        status = backend.status()
        assert (status.state, backend.loaded, ready.is_set()) == ("down", False, False)
        assert named in cause_of(status.detail)
        assert told == [status.detail]
        assert await refused_with(backend) == status.detail
    finally:
        backend.close()


# --- failing -------------------------------------------------------------------------------------------------------------


async def test_it_is_ready_once_a_question_was_answered_and_not_before() -> None:
    reached, go_on, ready = threading.Event(), threading.Event(), threading.Event()
    runner = ScriptedRunner()

    def hold(request_ids: tuple[str, ...]) -> None:
        reached.set()
        assert go_on.wait(PATIENCE_S)

    runner.on_decode = hold
    backend = new_backend(runner, warm_up=request("warm-up", max_tokens=2, ignore_eos=True), on_ready=ready.set)
    backend.start()
    assert reached.wait(PATIENCE_S)
    assert (backend.status().state, backend.status().detail, backend.loaded) == ("loading", "warming up", False)
    assert "still loading (warming up)" in await refused_with(backend)
    go_on.set()
    assert ready.wait(PATIENCE_S)
    assert [(call.method, call.requests) for call in runner.calls] == [
        (v, ("warm-up",)) for v in ("begin", "read_piece", "decode", "release")
    ]
    assert backend.status().estimated_wait_s == 0
    assert text((await read(backend, request("a", max_tokens=3)))[0]) == "~~~"
    backend.close()
    assert runner.violations == []


class Speechless(CodePoints):
    def token_bytes(self, token_id: int) -> bytes:
        raise ValueError("no such token")


@pytest.mark.parametrize("broken", ["prefill", "decode", "text", "queue"])
def test_it_is_never_ready_where_a_question_cannot_be_answered(broken: str) -> None:
    """Whatever part of a question's way is broken; the queue refuses what the runner alone would take."""
    runner, down, ready = ScriptedRunner(), threading.Event(), threading.Event()
    runner.fail_prefill = {"warm-up": ValueError("out of memory")} if broken == "prefill" else {}
    runner.fail_decode = [ValueError("out of memory")] if broken == "decode" else []
    backend = new_backend(
        runner,
        Speechless() if broken == "text" else None,
        warm_up=request("warm-up", prompt=0 if broken == "queue" else 3, max_tokens=2),
        on_ready=ready.set,
        on_down=lambda reason: down.set(),
    )
    backend.start()
    assert down.wait(PATIENCE_S)
    named = {"text": "no such token", "queue": "The prompt is empty"}.get(broken, "out of memory")
    assert named in cause_of(backend.status().detail)
    assert (backend.status().state, backend.loaded, ready.is_set()) == ("down", False, False)


def test_a_checkpoint_of_numbers_that_are_not_finite_is_named_without_a_stack(caplog: pytest.LogCaptureFixture) -> None:
    runner, down = ScriptedRunner(), threading.Event()
    runner.fail_prefill = {"warm-up": FloatingPointError(NOT_FINITE)}
    backend = new_backend(runner, warm_up=request("warm-up", max_tokens=2), on_down=lambda reason: down.set())
    backend.start()
    assert down.wait(PATIENCE_S)
    assert "could not be loaded" in cause_of(backend.status().detail)
    assert NOT_FINITE in cause_of(backend.status().detail)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"the model failed in a prefill step of 1 request: {NOT_FINITE}"
    ]
    assert not any(record.exc_info for record in caplog.records)


async def test_a_step_that_fails_ends_its_requests_by_name_and_the_backend_goes_on(make) -> None:
    runner = ScriptedRunner(scripts={"a": "abc", "b": "B" + END})
    runner.fail_decode = [None, RuntimeError("the device hiccuped")]
    backend = make(runner)
    [events] = await read(backend, request("a"))
    finish = end(events)
    assert (finish.reason, finish.completion_tokens, text(events)) == ("error", 2, "ab")
    assert finish.error is not None
    assert "the device hiccuped" in cause_of(finish.error)
    assert backend.status().state == "ready"
    [events] = await read(backend, request("b"))
    assert text(events) == "B"


async def test_a_prefill_that_fails_harms_only_its_own_request(make) -> None:
    runner = ScriptedRunner(scripts={"good": "fine" + END})
    runner.fail_prefill["bad"] = RuntimeError("no such tile")
    backend = make(runner)
    bad, good = await read(backend, request("bad"), request("good"))
    assert (end(bad).reason, end(bad).completion_tokens) == ("error", 0)
    assert "no such tile" in cause_of(end(bad).error)
    assert (end(good).reason, text(good)) == ("end_of_turn", "fine")


async def test_a_runner_that_goes_down_takes_everybody_along_by_name(make) -> None:
    runner = ScriptedRunner(slots=1)
    told: list[str] = []
    down = threading.Event()
    control = StepControl(runner)
    runner.fail_decode = [None, RunnerDown("the device is lost")]
    backend = make(runner, control, on_down=lambda reason: (told.append(reason), down.set()))
    reading = asyncio.create_task(read(backend, request("a"), request("b")))
    await asyncio.to_thread(wait_until, lambda: backend.status().waiting == 1, "one runs and one waits")
    control.run_free()
    for events in await reading:
        assert end(events).reason == "error"
        assert "the device is lost" in cause_of(end(events).error)
    assert down.wait(PATIENCE_S)
    assert (backend.status().state, backend.loaded) == ("down", True)
    assert told == [backend.status().detail]
    assert await refused_with(backend) == "The model is down."


async def test_a_slot_that_cannot_be_released_leaves_nobody_waiting(make) -> None:
    """The runner cannot be trusted any more: those who run beside it and those who wait are told."""
    runner = ScriptedRunner(slots=2, max_seq_len=10_000, scripts={"a": "abc" + END})

    def fail(request_ids: tuple[str, ...]) -> None:
        if "a" in request_ids:
            raise RuntimeError("the cache line is stuck")

    runner.on_release = fail
    down = threading.Event()
    control = StepControl(runner)
    backend = make(runner, control, on_down=lambda reason: down.set())
    reading = [asyncio.create_task(read(backend, request(name, max_tokens=MOST_TOKENS if name == "b" else 8))) for name in "abc"]
    control.allow(1)
    await asyncio.to_thread(wait_until, lambda: backend.status().waiting == 1, "two run and one waits")
    control.allow(8)
    await asyncio.to_thread(down.wait, PATIENCE_S)
    answers = [events for [events] in await asyncio.wait_for(asyncio.gather(*reading), MOMENT_S)]
    assert text(answers[0]) == "abc"
    for events in answers[1:]:
        assert end(events).reason == "error"
        assert "the cache line is stuck" in cause_of(end(events).error)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_token_that_cannot_be_spelled_leaves_nobody_waiting(make) -> None:
    """A device may return any number; what no character stands for is a failure of that request, with a name."""
    backend = make(ScriptedRunner(scripts={"a": "ab\ud800"}))
    [events] = await asyncio.wait_for(read(backend, request("a")), MOMENT_S)
    assert end(events).reason == "error"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_listener_that_fails_does_not_stop_the_backend() -> None:
    """Saying "ready" to an output that was closed raises; the model is ready all the same."""

    def say_ready() -> None:
        raise BrokenPipeError("nobody reads the output")

    backend = new_backend(ScriptedRunner(scripts={"a": "A" + END}), on_ready=say_ready)
    backend.start()
    try:
        wait_until(lambda: backend.status().state == "ready", "the model is loaded")
        [events] = await asyncio.wait_for(read(backend, request("a")), MOMENT_S)
        assert text(events) == "A"
    finally:
        backend.close()


async def test_lines_about_a_failed_step_have_the_ids_of_its_requests(make, caplog: pytest.LogCaptureFixture) -> None:
    runner = ScriptedRunner(scripts=dict.fromkeys("ab", "a long answer" * 3 + END))

    def fail(request_ids: Sequence[str]) -> None:
        if len(request_ids) == 2:
            raise ValueError("the device said no")
        time.sleep(0.01)

    runner.on_decode = fail
    await read(make(runner), *(replace(request(name), request_id=f"id-of-{name}") for name in "ab"))
    [traced] = [record for record in caplog.records if record.exc_info]
    assert traced.__dict__["request_id"] == "id-of-a,id-of-b"
    assert traced.getMessage() == "the model failed in a decode step of 2 requests: the device said no"
