"""The slot backend on a scripted runner: every reader gets its own events, and whatever happens nobody is left waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from scripted_runner import END, END_IDS, LETTER, ScriptedRunner, check_legal

from mllama_demo.backend.base import BackendInfo, Event, FinishEvent, GenerationRequest, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.backend.runner import ModelRunner, RunnerDown
from mllama_demo.backend.slot_backend import Progress, SlotBackend
from mllama_demo.config import EMBEDDED_CHECKPOINT
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, CheckpointError, PromptTooLong
from mllama_demo.sampling import SamplingParams
from mllama_demo.tokenizer import Tokenizer

pytestmark = pytest.mark.timeout(60)
PATIENCE_S = 20.0
# For what is known to have happened already, but for a hop from thread to thread.
MOMENT_S = 3.0
MOST_TOKENS = 4096


class CodePoints:
    """As much of a tokenizer as the backend needs: every token is a character."""

    def token_bytes(self, token_id: int) -> bytes:
        return chr(token_id).encode()


class Pace:
    """Makes each decode step of the runner wait until the test allows it."""

    def __init__(self, runner: ScriptedRunner) -> None:
        self._steps = threading.Semaphore(0)
        self._free = False
        runner.on_decode = lambda request_ids: self._wait()

    def allow(self, steps: int) -> None:
        self._steps.release(steps)

    def run_free(self) -> None:
        self._free = True
        self._steps.release()

    def _wait(self) -> None:
        if not self._free:
            assert self._steps.acquire(timeout=PATIENCE_S), "the test never allowed the next step"


def info(slots: int = 2) -> BackendInfo:
    return BackendInfo("scripted", "a model", "cpu", slots=slots, context_length=64, tile_size=32, max_tiles=4)


def new_backend(
    load: ModelRunner | Callable[[Progress], ModelRunner], tokenizer: Any = None, slots: int = 2, **options: Any
) -> SlotBackend:
    """A backend that is not started yet. load: a loader, or the runner that is there at once."""
    loader = load if callable(load) else lambda progress: load
    return SlotBackend(info(slots), loader, tokenizer or CodePoints(), END_IDS, **options)


class Backends:
    """Makes started backends that are ready, and keeps them with their runners."""

    def __init__(self) -> None:
        self.made: list[tuple[SlotBackend, ScriptedRunner, Pace | None]] = []

    def __call__(self, runner: ScriptedRunner, pace: Pace | None = None, tokenizer: Any = None, **options: Any) -> SlotBackend:
        ready = threading.Event()
        backend = new_backend(runner, tokenizer, runner.slots, on_ready=ready.set, **options)
        backend.start()
        self.made.append((backend, runner, pace))
        assert ready.wait(PATIENCE_S)
        return backend


@pytest.fixture
def make() -> Iterator[Backends]:
    """Makes backends; in the end they are closed, and their slots must have been used as the runner demands."""
    backends = Backends()
    yield backends
    for backend, runner, pace in backends.made:
        if pace is not None:
            pace.run_free()
        backend.close()
        assert runner.violations == []


def request(name: str, prompt: int = 3, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(tuple(range(1000, 1000 + prompt)), SamplingParams(**sampling), id=name)


def run(work: Coroutine[Any, Any, Any], timeout: float = PATIENCE_S) -> Any:
    return asyncio.run(asyncio.wait_for(work, timeout))


async def read(backend: SlotBackend, *requests: GenerationRequest) -> list[list[Event]]:
    """All events of each request, which are sent at the same time."""

    async def one(request: GenerationRequest) -> list[Event]:
        async with aclosing(backend.generate(request)) as events:
            return [event async for event in events]

    return await asyncio.gather(*map(one, requests))


def kinds(events: list[Event]) -> str:
    return "".join(LETTER[type(event)] for event in events)


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, (TokenEvent, FinishEvent)))


def end(events: list[Event]) -> FinishEvent:
    assert isinstance(events[-1], FinishEvent)
    return events[-1]


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.002)


def idle(backend: SlotBackend) -> bool:
    status = backend.status()
    return status.running == 0 and status.waiting == 0


def refused_with(backend: SlotBackend) -> str:
    """Why a request is refused right now."""
    with pytest.raises(BackendUnavailable) as caught:
        run(read(backend, request("refused")))
    return str(caught.value)


# --- reading -------------------------------------------------------------------------------------------------------------


def test_a_request_streams_its_prefill_its_tokens_and_its_finish_in_order(make) -> None:
    backend = make(ScriptedRunner(scripts={"a": "hi!" + END}))
    sent = request("a")
    [events] = run(read(backend, sent))
    assert kinds(events) == "PTTTTF"
    assert text(events) == "hi!"
    assert end(events).reason == "end_of_turn"
    check_legal(sent, events, had_a_slot=True)


def test_text_comes_in_whole_characters_from_the_checkpoints_own_tokenizer(make) -> None:
    tokenizer = Tokenizer(EMBEDDED_CHECKPOINT)
    said = "A naïve 🐙, ½ wet – 好"
    ids = tokenizer.encode(said)
    assert any(tokenizer.token_bytes(id).decode("utf-8", "replace").endswith("\ufffd") for id in ids), "no character is split"
    backend = make(ScriptedRunner(scripts={"a": "".join(map(chr, ids))}), tokenizer=tokenizer)
    [events] = run(read(backend, request("a", max_tokens=len(ids))))
    assert text(events) == said
    assert not any("\ufffd" in event.text for event in events if isinstance(event, TokenEvent))


def test_a_stop_string_ends_the_answer_before_it(make) -> None:
    backend = make(ScriptedRunner(scripts={"a": "one. two"}))
    [events] = run(read(backend, request("a", stop=(". ",))))
    assert (text(events), end(events).reason) == ("one", "stop_string")


def test_the_backend_sleeps_between_requests_and_wakes_for_each(make) -> None:
    backend = make(ScriptedRunner(scripts={name: name + END for name in "abc"}))
    for name in "abc":
        [events] = run(read(backend, request(name)))
        assert text(events) == name
        until(lambda: idle(backend), "the slot is free")


def test_more_requests_than_slots_are_told_their_place_and_all_get_their_own_answer(make) -> None:
    scripts = {name: name * 3 + END for name in "abcdefg"}
    backend = make(ScriptedRunner(slots=2, scripts=scripts))
    sent = [request(name) for name in scripts]
    answers = run(read(backend, *sent))
    assert [text(events) for events in answers] == [name * 3 for name in scripts]
    assert any(isinstance(event, QueueEvent) for events in answers for event in events)
    for one, events in zip(sent, answers, strict=True):
        check_legal(one, events, had_a_slot=True)


def test_readers_in_two_event_loops_of_two_threads_get_their_own_events_in_their_own_thread(make) -> None:
    names = [[f"{thread}{n}" for n in range(6)] for thread in "xy"]
    backend = make(ScriptedRunner(slots=3, scripts={name: f"I am {name}" + END for group in names for name in group}))
    together = threading.Barrier(2)
    heard: dict[str, str] = {}
    threads_of_readers: dict[str, set[str]] = {}

    async def one(name: str) -> None:
        async with aclosing(backend.generate(request(name))) as stream:
            events = []
            async for event in stream:
                threads_of_readers.setdefault(name, set()).add(threading.current_thread().name)
                events.append(event)
        heard[name] = text(events)

    async def everybody(group: list[str]) -> None:
        together.wait(PATIENCE_S)
        await asyncio.gather(*map(one, group))

    threads = [threading.Thread(target=lambda group=group: run(everybody(group)), name=group[0][0]) for group in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert heard == {name: f"I am {name}" for group in names for name in group}
    assert threads_of_readers == {name: {name[0]} for group in names for name in group}


def test_a_reader_that_never_reads_does_not_hold_up_others(make) -> None:
    """Its whole event loop stands still, and it still finds each of its events later, once."""
    backend = make(ScriptedRunner(slots=2, scripts={name: name + END for name in "abcd"}))
    stuck, go_on = threading.Event(), threading.Event()
    late: list[Event] = []

    async def never_reads() -> None:
        async with aclosing(backend.generate(request("sleeper", max_tokens=40))) as stream:
            late.append(await anext(stream))
            stuck.set()
            assert go_on.wait(PATIENCE_S)
            late.extend([event async for event in stream])

    sleeper = threading.Thread(target=lambda: run(never_reads(), 2 * PATIENCE_S))
    sleeper.start()
    try:
        assert stuck.wait(PATIENCE_S)
        answers = run(read(backend, *map(request, "abcd")))
        assert [text(events) for events in answers] == list("abcd")
        until(lambda: idle(backend), "the sleeper's answer is complete without anybody reading it")
    finally:
        go_on.set()
        sleeper.join(PATIENCE_S)
    assert kinds(late) == "P" + "T" * 40 + "F"
    [events] = run(read(backend, request("again", max_tokens=2)))
    assert kinds(events) == "PTTF"


def test_what_waits_for_a_reader_is_never_more_than_its_own_events(make) -> None:
    """While a stream is not read, others come and go; nothing of theirs, and nothing twice, ends up in it."""
    backend = make(ScriptedRunner(slots=2, scripts={f"other-{n}": "x" * n + END for n in range(20)}))

    async def scene() -> list[Event]:
        async with aclosing(backend.generate(request("sleeper", max_tokens=10))) as stream:
            first = await anext(stream)
            await read(backend, *(request(f"other-{n}") for n in range(20)))
            return [first, *[event async for event in stream]]

    events = run(scene())
    assert kinds(events) == "P" + "T" * 10 + "F"
    assert text(events) == "~" * 10


# --- going away ----------------------------------------------------------------------------------------------------------


def test_closing_the_stream_cancels_the_request_and_frees_its_slot(make) -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000, scripts={"b": "B" + END})
    pace = Pace(runner)
    backend = make(runner, pace)

    async def scene() -> list[Event]:
        async with aclosing(backend.generate(request("a", max_tokens=MOST_TOKENS))) as stream:
            assert isinstance(await anext(stream), PrefillEvent)
        pace.allow(2)  # the step under way, and b's
        [events] = await read(backend, request("b"))
        return events

    assert text(run(scene())) == "B"
    until(lambda: idle(backend), "both slots are free")
    assert sum("a" in batch for batch in runner.decoded()) == 1
    assert runner.holders == {}


def test_closing_the_stream_of_a_waiting_request_takes_it_out_of_the_queue(make) -> None:
    runner = ScriptedRunner(slots=1)
    pace = Pace(runner)
    backend = make(runner, pace)

    async def scene() -> None:
        async with aclosing(backend.generate(request("a", max_tokens=20))) as first:
            await anext(first)
            async with aclosing(backend.generate(request("b"))) as second:
                pace.allow(1)
                assert await anext(second) == QueueEvent(1, None)
            pace.run_free()
            assert kinds([event async for event in first]) == "T" * 20 + "F"

    run(scene())
    until(lambda: idle(backend), "nobody waits")
    assert runner.prefilled() == ["a"]


def test_a_cancelled_task_cancels_its_request(make) -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000)
    pace = Pace(runner)
    backend = make(runner, pace)

    async def scene() -> None:
        reading = asyncio.create_task(read(backend, request("a", max_tokens=MOST_TOKENS)))
        await asyncio.to_thread(until, runner.prefilled, "a has its slot")
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        pace.allow(1)

    run(scene())
    until(lambda: idle(backend), "the request has ended")
    assert len(runner.decoded()) <= 1


def test_a_request_cancelled_by_its_id_finishes_as_cancelled_with_what_it_has(make) -> None:
    runner = ScriptedRunner(slots=1, scripts={"a": "four and more"})
    pace = Pace(runner)
    backend = make(runner, pace)

    async def scene() -> tuple[list[Event], list[Event]]:
        running, waiting = (asyncio.create_task(read(backend, request(name))) for name in "ab")
        pace.allow(3)
        await asyncio.to_thread(until, lambda: len(runner.decoded()) == 4, "the fourth step has begun")
        backend.cancel("a")
        backend.cancel("b")
        backend.cancel("nobody")
        pace.run_free()
        return (await running)[0], (await waiting)[0]

    first, second = run(scene())
    assert (text(first), end(first).reason) == ("four ", "cancelled")
    assert (kinds(second)[-1], end(second).reason, end(second).completion_tokens) == ("F", "cancelled", 0)
    until(lambda: idle(backend), "both have ended")


def test_a_reader_whose_event_loop_is_closed_has_its_request_cancelled(make) -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000, scripts={"b": "B" + END})
    pace = Pace(runner)
    backend = make(runner, pace)
    loop = asyncio.new_event_loop()
    stream = backend.generate(request("gone", max_tokens=MOST_TOKENS))
    assert isinstance(loop.run_until_complete(asyncio.wait_for(anext(stream), PATIENCE_S)), PrefillEvent)
    loop.close()
    pace.allow(1)  # its events find nobody
    until(lambda: idle(backend), "the request has ended")
    assert len(runner.decoded()) == 1
    assert runner.holders == {}
    pace.run_free()
    [events] = run(read(backend, request("b")))
    assert text(events) == "B"


# --- refusing ------------------------------------------------------------------------------------------------------------


def test_a_second_request_with_an_id_under_way_is_refused_and_the_first_goes_on(make) -> None:
    runner = ScriptedRunner(scripts={"a": "all of it" + END})
    pace = Pace(runner)
    backend = make(runner, pace)

    async def scene() -> list[Event]:
        async with aclosing(backend.generate(request("a"))) as first:
            begun = [await anext(first)]
            with pytest.raises(BadRequest, match="'a' is already under way"):
                await read(backend, request("a"))
            pace.run_free()
            return begun + [event async for event in first]

    events = run(scene())
    assert (text(events), end(events).reason) == ("all of it", "end_of_turn")


def test_a_full_queue_refuses_the_next_request_and_serves_those_in_it(make) -> None:
    runner = ScriptedRunner(slots=1, scripts={name: name + END for name in "abcd"})
    pace = Pace(runner)
    backend = make(runner, pace, max_waiting=2)

    async def scene() -> list[list[Event]]:
        first = asyncio.create_task(read(backend, request("a")))
        await asyncio.to_thread(until, lambda: backend.status().running == 1, "a has the slot")
        others = asyncio.create_task(read(backend, request("b"), request("c")))
        await asyncio.to_thread(until, lambda: backend.status().waiting == 2, "b and c wait")
        with pytest.raises(BackendBusy, match="2 questions are waiting"):
            await read(backend, request("d"))
        pace.run_free()
        return [*await first, *await others]

    assert [text(events) for events in run(scene())] == ["a", "b", "c"]
    assert sorted(runner.prefilled()) == ["a", "b", "c"]
    [events] = run(read(backend, request("d")))
    assert text(events) == "d"


@pytest.mark.parametrize(("waiting", "said"), [(1, "1 question is waiting already"), (2, "2 questions are waiting already")])
def test_a_full_queue_says_how_many_wait(make, waiting: int, said: str) -> None:
    runner = ScriptedRunner(slots=1, scripts={name: name + END for name in "abcd"})
    pace = Pace(runner)
    backend = make(runner, pace, max_waiting=waiting)

    async def scene() -> None:
        first = asyncio.create_task(read(backend, request("a")))
        await asyncio.to_thread(until, lambda: backend.status().running == 1, "a has the slot")
        others = asyncio.create_task(read(backend, *(request(name) for name in "bc"[:waiting])))
        await asyncio.to_thread(until, lambda: backend.status().waiting == waiting, "the others wait")
        with pytest.raises(BackendBusy, match=said):
            await read(backend, request("d"))
        pace.run_free()
        await asyncio.gather(first, others)

    run(scene())


def test_a_prompt_without_room_for_an_answer_is_refused_and_leaves_nothing_behind(make) -> None:
    runner = ScriptedRunner(max_seq_len=8, scripts={"a": "A" + END})
    backend = make(runner)
    with pytest.raises(PromptTooLong):
        run(read(backend, request("a", prompt=8)))
    assert idle(backend)
    [events] = run(read(backend, request("a", prompt=7)))
    assert text(events) == "A"


# --- loading -------------------------------------------------------------------------------------------------------------


def test_while_loading_the_status_and_the_refusal_name_what_is_loading() -> None:
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
        assert "still loading (reading shard 3 of 5)" in refused_with(backend)
        backend.cancel("nobody")
        assert not backend.loaded
        assert not ready.is_set()
        go_on.set()
        assert ready.wait(PATIENCE_S)
        assert (backend.status().state, backend.status().estimated_wait_s, backend.loaded) == ("ready", 0.0, True)
        [events] = run(read(backend, request("a")))
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
def test_a_model_that_cannot_be_loaded_is_down_with_the_reason(error: Exception, named: str) -> None:
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
        assert named in status.detail
        assert told == [status.detail]
        assert refused_with(backend) == status.detail
    finally:
        backend.close()


# --- failing -------------------------------------------------------------------------------------------------------------


def test_it_is_ready_once_a_question_was_answered_and_not_before() -> None:
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
    assert "still loading (warming up)" in refused_with(backend)
    go_on.set()
    assert ready.wait(PATIENCE_S)
    assert [(call.verb, call.requests) for call in runner.calls] == [(v, ("warm-up",)) for v in ("prefill", "decode", "release")]
    assert backend.status().estimated_wait_s == 0
    assert text(run(read(backend, request("a", max_tokens=3)))[0]) == "~~~"
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
    assert named in backend.status().detail
    assert (backend.status().state, backend.loaded, ready.is_set()) == ("down", False, False)


def test_a_step_that_fails_ends_its_requests_by_name_and_the_backend_goes_on(make) -> None:
    runner = ScriptedRunner(scripts={"a": "abc", "b": "B" + END})
    runner.fail_decode = [None, RuntimeError("the device hiccuped")]
    backend = make(runner)
    [events] = run(read(backend, request("a")))
    finish = end(events)
    assert (finish.reason, finish.completion_tokens, text(events)) == ("error", 2, "ab")
    assert finish.error is not None
    assert "the device hiccuped" in finish.error
    assert backend.status().state == "ready"
    [events] = run(read(backend, request("b")))
    assert text(events) == "B"


def test_a_prefill_that_fails_harms_only_its_own_request(make) -> None:
    runner = ScriptedRunner(scripts={"good": "fine" + END})
    runner.fail_prefill["bad"] = RuntimeError("no such tile")
    backend = make(runner)
    bad, good = run(read(backend, request("bad"), request("good")))
    assert (end(bad).reason, end(bad).completion_tokens) == ("error", 0)
    assert "no such tile" in (end(bad).error or "")
    assert (end(good).reason, text(good)) == ("end_of_turn", "fine")


def test_a_runner_that_goes_down_takes_everybody_along_by_name(make) -> None:
    runner = ScriptedRunner(slots=1)
    told: list[str] = []
    down = threading.Event()
    pace = Pace(runner)
    runner.fail_decode = [None, RunnerDown("the device is lost")]
    backend = make(runner, pace, on_down=lambda reason: (told.append(reason), down.set()))

    async def scene() -> list[list[Event]]:
        reading = asyncio.create_task(read(backend, request("a"), request("b")))
        await asyncio.to_thread(until, lambda: backend.status().waiting == 1, "one runs and one waits")
        pace.run_free()
        return await reading

    for events in run(scene()):
        assert end(events).reason == "error"
        assert "the device is lost" in (end(events).error or "")
    assert down.wait(PATIENCE_S)
    assert (backend.status().state, backend.loaded) == ("down", True)
    assert told == [backend.status().detail]
    assert "the device is lost" in refused_with(backend)


def test_a_slot_that_cannot_be_released_leaves_nobody_waiting(make) -> None:
    """The runner cannot be trusted any more: those who run beside it and those who wait are told."""
    runner = ScriptedRunner(slots=2, max_seq_len=10_000, scripts={"a": "abc" + END})

    def fail(request_ids: tuple[str, ...]) -> None:
        if "a" in request_ids:
            raise RuntimeError("the cache line is stuck")

    runner.on_release = fail
    down = threading.Event()
    pace = Pace(runner)
    backend = make(runner, pace, on_down=lambda reason: down.set())

    async def scene() -> list[list[Event]]:
        reading = [
            asyncio.create_task(read(backend, request(name, max_tokens=MOST_TOKENS if name == "b" else 8))) for name in "abc"
        ]
        pace.allow(1)
        await asyncio.to_thread(until, lambda: backend.status().waiting == 1, "two run and one waits")
        pace.allow(8)
        await asyncio.to_thread(down.wait, PATIENCE_S)
        return [events for [events] in await asyncio.wait_for(asyncio.gather(*reading), MOMENT_S)]

    answers = run(scene())
    assert text(answers[0]) == "abc"
    for events in answers[1:]:
        assert end(events).reason == "error"
        assert "the cache line is stuck" in (end(events).error or "")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_token_that_cannot_be_spelled_leaves_nobody_waiting(make) -> None:
    """A device may return any number; what no character stands for is a failure of that request, with a name."""
    backend = make(ScriptedRunner(scripts={"a": "ab\ud800"}))
    [events] = run(read(backend, request("a")), MOMENT_S)
    assert end(events).reason == "error"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_fails_does_not_stop_the_backend() -> None:
    """Saying "ready" to an output that was closed raises; the model is ready all the same."""

    def say_ready() -> None:
        raise BrokenPipeError("nobody reads the output")

    backend = new_backend(ScriptedRunner(scripts={"a": "A" + END}), on_ready=say_ready)
    backend.start()
    try:
        until(lambda: backend.status().state == "ready", "the model is loaded")
        [events] = run(read(backend, request("a")), MOMENT_S)
        assert text(events) == "A"
    finally:
        backend.close()


# --- closing -------------------------------------------------------------------------------------------------------------


def test_closing_ends_everybody_and_refuses_what_comes_later(make) -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000)
    backend = make(runner)

    def close_when_one_waits(request_ids: tuple[str, ...]) -> None:
        until(lambda: backend.status().waiting == 1, "one runs and one waits")
        backend.close()  # from its own thread, where it cannot wait for itself

    runner.on_decode = close_when_one_waits
    answers = run(read(backend, request("a", max_tokens=MOST_TOKENS), request("b", max_tokens=MOST_TOKENS)))
    for events in answers:
        assert end(events).reason == "error"
        assert "shutting down" in (end(events).error or "")
    backend.close()
    backend.close()
    assert runner.holders == {}
    assert backend.status().state == "down"
    assert "shutting down" in refused_with(backend)


def test_a_backend_closed_while_loading_never_calls_itself_ready() -> None:
    said: list[str] = []

    def load(progress: Progress) -> ModelRunner:
        backend.close()  # from its own thread, where it cannot wait for itself
        return ScriptedRunner()

    backend = new_backend(load, on_ready=lambda: said.append("ready"))
    backend.start()
    backend.close()
    assert said == []
    with pytest.raises(BackendUnavailable):
        run(read(backend, request("late")), MOMENT_S)


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


def used_and_closed() -> None:
    backend = new_backend(ScriptedRunner(scripts={"a": "A" + END}))
    backend.start()
    until(lambda: backend.status().state == "ready", "loaded")
    run(read(backend, request("a")))
    backend.close()


def closed_in_the_middle_of_a_request() -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000)
    backend = new_backend(runner, slots=1)
    backend.start()
    until(lambda: backend.status().state == "ready", "loaded")

    async def scene() -> None:
        async with aclosing(backend.generate(request("a", max_tokens=MOST_TOKENS))) as stream:
            await anext(stream)
            await asyncio.to_thread(backend.close)

    run(scene())


def failed_to_load() -> None:
    def load(progress: Progress) -> ModelRunner:
        raise CheckpointError("no weights")

    before = threads_of_the_backend()
    backend = new_backend(load)
    backend.start()
    backend.close()
    # close does not wait for a thread that loads, or loaded in vain: it cannot be stopped, but ends by itself.
    until(lambda: threads_of_the_backend() <= before, "the thread has ended")


def went_down() -> None:
    runner = ScriptedRunner()
    runner.fail_prefill["a"] = RunnerDown("gone")
    backend = new_backend(runner)
    backend.start()
    until(lambda: backend.status().state == "ready", "loaded")
    run(read(backend, request("a")))
    until(lambda: backend.status().state == "down", "down")
    backend.close()


def never_started() -> None:
    backend = new_backend(ScriptedRunner())
    backend.close()
    backend.close()


@pytest.mark.parametrize(
    "life",
    [used_and_closed, closed_in_the_middle_of_a_request, failed_to_load, went_down, never_started],
    ids=lambda f: f.__name__,
)
def test_a_backend_leaves_no_thread_behind(life: Callable[[], None]) -> None:
    before = threads_of_the_backend()
    life()
    assert threads_of_the_backend() <= before
