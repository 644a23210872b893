"""The slot backend on a scripted runner: every reader gets its own events, and who leaves frees the slot."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import EMBEDDED_CHECKPOINT
from mllama_demo.engine.base import Event, PrefillEvent, QueueEvent, TokenEvent
from tests.support.scripted_runner import END, LETTER, ScriptedRunner, check_legal
from tests.support.slot_backends import MOST_TOKENS, PATIENCE_S, StepControl, end, idle, read, request, text
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)


def kinds(events: list[Event]) -> str:
    return "".join(LETTER[type(event)] for event in events)


# --- reading -------------------------------------------------------------------------------------------------------------


async def test_a_request_streams_its_prefill_its_tokens_and_its_finish_in_order(make) -> None:
    backend = make(ScriptedRunner(scripts={"a": "hi!" + END}))
    sent = request("a")
    [events] = await read(backend, sent)
    assert kinds(events) == "PTTTTF"
    assert text(events) == "hi!"
    assert end(events).reason == "end_of_turn"
    check_legal(sent, events, had_a_slot=True)


async def test_text_comes_in_whole_characters_from_the_checkpoints_own_tokenizer(make) -> None:
    tokenizer = Tokenizer(EMBEDDED_CHECKPOINT)
    said = "A naïve 🐙, ½ wet – 好"
    ids = tokenizer.encode(said)
    assert any(tokenizer.token_bytes(id).decode("utf-8", "replace").endswith("\ufffd") for id in ids), "no character is split"
    backend = make(ScriptedRunner(scripts={"a": "".join(map(chr, ids))}), tokenizer=tokenizer)
    [events] = await read(backend, request("a", max_tokens=len(ids)))
    assert text(events) == said
    assert not any("\ufffd" in event.text for event in events if isinstance(event, TokenEvent))


async def test_a_stop_string_ends_the_answer_before_it(make) -> None:
    backend = make(ScriptedRunner(scripts={"a": "one. two"}))
    [events] = await read(backend, request("a", stop=(". ",)))
    assert (text(events), end(events).reason) == ("one", "stop_string")


async def test_the_backend_sleeps_between_requests_and_wakes_for_each(make) -> None:
    backend = make(ScriptedRunner(scripts={name: name + END for name in "abc"}))
    for name in "abc":
        [events] = await read(backend, request(name))
        assert text(events) == name
        wait_until(lambda: idle(backend), "the slot is free")


async def test_more_requests_than_slots_are_told_their_place_and_all_get_their_own_answer(make) -> None:
    scripts = {name: name * 3 + END for name in "abcdefg"}
    backend = make(ScriptedRunner(slots=2, scripts=scripts))
    sent = [request(name) for name in scripts]
    answers = await read(backend, *sent)
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

    threads = [threading.Thread(target=lambda group=group: asyncio.run(everybody(group)), name=group[0][0]) for group in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert heard == {name: f"I am {name}" for group in names for name in group}
    assert threads_of_readers == {name: {name[0]} for group in names for name in group}


async def test_a_reader_that_never_reads_does_not_hold_up_others(make) -> None:
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

    sleeper = threading.Thread(target=lambda: asyncio.run(never_reads()))
    sleeper.start()
    try:
        assert stuck.wait(PATIENCE_S)
        answers = await read(backend, *map(request, "abcd"))
        assert [text(events) for events in answers] == list("abcd")
        wait_until(lambda: idle(backend), "the sleeper's answer is complete without anybody reading it")
    finally:
        go_on.set()
        sleeper.join(PATIENCE_S)
    assert kinds(late) == "P" + "T" * 40 + "F"
    [events] = await read(backend, request("again", max_tokens=2))
    assert kinds(events) == "PTTF"


async def test_what_waits_for_a_reader_is_never_more_than_its_own_events(make) -> None:
    """While a stream is not read, others come and go; nothing of theirs, and nothing twice, ends up in it."""
    backend = make(ScriptedRunner(slots=2, scripts={f"other-{n}": "x" * n + END for n in range(20)}))
    async with aclosing(backend.generate(request("sleeper", max_tokens=10))) as stream:
        first = await anext(stream)
        await read(backend, *(request(f"other-{n}") for n in range(20)))
        events = [first, *[event async for event in stream]]
    assert kinds(events) == "P" + "T" * 10 + "F"
    assert text(events) == "~" * 10


# --- going away ----------------------------------------------------------------------------------------------------------


async def test_closing_the_stream_cancels_the_request_and_frees_its_slot(make) -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000, scripts={"b": "B" + END})
    control = StepControl(runner)
    backend = make(runner, control)
    async with aclosing(backend.generate(request("a", max_tokens=MOST_TOKENS))) as stream:
        assert isinstance(await anext(stream), PrefillEvent)
    control.allow(2)  # the step under way, and b's
    [events] = await read(backend, request("b"))
    assert text(events) == "B"
    wait_until(lambda: idle(backend), "both slots are free")
    assert sum("a" in batch for batch in runner.decoded()) == 1
    assert runner.holders == {}


async def test_closing_the_stream_of_a_waiting_request_takes_it_out_of_the_queue(make) -> None:
    runner = ScriptedRunner(slots=1)
    control = StepControl(runner)
    backend = make(runner, control)
    async with aclosing(backend.generate(request("a", max_tokens=20))) as first:
        await anext(first)
        async with aclosing(backend.generate(request("b"))) as second:
            control.allow(1)
            assert await anext(second) == QueueEvent(1, None)
        control.run_free()
        assert kinds([event async for event in first]) == "T" * 20 + "F"
    wait_until(lambda: idle(backend), "nobody waits")
    assert runner.prefilled() == ["a"]


async def test_a_cancelled_task_cancels_its_request(make) -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000)
    control = StepControl(runner)
    backend = make(runner, control)
    reading = asyncio.create_task(read(backend, request("a", max_tokens=MOST_TOKENS)))
    await asyncio.to_thread(wait_until, runner.prefilled, "a has its slot")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    control.allow(1)
    wait_until(lambda: idle(backend), "the request has ended")
    assert len(runner.decoded()) <= 1


async def test_a_request_cancelled_by_its_id_finishes_as_cancelled_with_what_it_has(make) -> None:
    runner = ScriptedRunner(slots=1, scripts={"a": "four and more"})
    control = StepControl(runner)
    backend = make(runner, control)
    running, waiting = (asyncio.create_task(read(backend, request(name))) for name in "ab")
    control.allow(3)
    await asyncio.to_thread(wait_until, lambda: len(runner.decoded()) == 4, "the fourth step has begun")
    backend.cancel("a")
    backend.cancel("b")
    backend.cancel("nobody")
    control.run_free()
    first, second = (await running)[0], (await waiting)[0]
    assert (text(first), end(first).reason) == ("four ", "cancelled")
    assert (kinds(second)[-1], end(second).reason, end(second).completion_tokens) == ("F", "cancelled", 0)
    wait_until(lambda: idle(backend), "both have ended")


def test_a_reader_whose_event_loop_is_closed_has_its_request_cancelled(make) -> None:
    runner = ScriptedRunner(slots=1, max_seq_len=10_000, scripts={"b": "B" + END})
    control = StepControl(runner)
    backend = make(runner, control)
    loop = asyncio.new_event_loop()
    stream = backend.generate(request("gone", max_tokens=MOST_TOKENS))
    assert isinstance(loop.run_until_complete(asyncio.wait_for(anext(stream), PATIENCE_S)), PrefillEvent)
    loop.close()
    control.allow(1)  # its events find nobody
    wait_until(lambda: idle(backend), "the request has ended")
    assert len(runner.decoded()) == 1
    assert runner.holders == {}
    control.run_free()
    [events] = asyncio.run(read(backend, request("b")))
    assert text(events) == "B"


async def test_no_step_estimates_the_waits_of_the_whole_queue(make, monkeypatch) -> None:
    """With a thousand requests that wait, an estimate takes as long as a tenth of a step."""
    backend = make(ScriptedRunner(slots=1, scripts=dict.fromkeys("abc", "abcdefgh" + END)))
    estimated: list[bool] = []
    status = backend._scheduler.status
    monkeypatch.setattr(backend._scheduler, "status", lambda: estimated.append(True) or status())
    for events in await read(backend, *map(request, "abc")):
        assert end(events).reason == "end_of_turn"
    assert estimated == []
