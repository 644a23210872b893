"""The end of the program in order: what is refused, what goes on, and how what is left ends."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from mllama_demo.engine.base import Event, FinishEvent, GenerationRequest
from mllama_demo.errors import BackendUnavailable
from mllama_demo.web.activity import Activity
from mllama_demo.web.metrics import MeasuredBackend, Metrics
from mllama_demo.web.shutdown import CUT_OFF, Shutdown
from tests.support.manual_backend import READ, ManualBackend, finished
from tests.support.waiting import until

LONG_S = 60.0


class Program:
    def __init__(self) -> None:
        self.manual = ManualBackend()
        self.shutdown = Shutdown()
        self.backend = MeasuredBackend(self.manual, Metrics(self.manual, "tiny"), Activity(), self.shutdown)

    async def ask(self) -> list[Event]:
        async with aclosing(self.backend.generate(GenerationRequest((1, 2)))) as events:
            return [event async for event in events]

    async def begin(self) -> asyncio.Task[list[Event]]:
        answer = asyncio.create_task(self.ask())
        await self.manual.taken()
        self.manual.send(READ)
        self.manual.say("so", " far")
        return answer

    def drain(self, limit_s: float) -> asyncio.Task[None]:
        return asyncio.create_task(self.shutdown.drain(self.manual.cancel, limit_s))


async def test_a_running_answer_goes_on_and_new_ones_are_refused() -> None:
    program = Program()
    answer = await program.begin()
    draining = program.drain(LONG_S)
    await until(lambda: program.backend.status().state == "down", "the program takes no requests")
    assert program.backend.status().detail == "The demo is shutting down."
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await program.ask()
    with pytest.raises(BackendUnavailable, match="shutting down"):
        program.backend.require_capacity()
    assert not draining.done()
    program.manual.send(finished())
    await draining
    assert (await answer)[-1] == finished()
    assert program.manual.cancelled == []


async def test_an_answer_that_outlasts_the_limit_ends_with_an_error() -> None:
    program = Program()
    answer = await program.begin()
    await program.drain(0.0)
    finish = (await answer)[-1]
    assert isinstance(finish, FinishEvent)
    assert (finish.reason, finish.error) == ("error", CUT_OFF)


async def test_an_answer_that_its_reader_stopped_meanwhile_did_not_fail() -> None:
    program = Program()
    answer = await program.begin()
    draining = program.drain(LONG_S)
    await until(lambda: program.backend.status().state == "down", "the program takes no requests")
    program.backend.cancel(program.manual.requests[0].id)
    await draining
    assert (await answer)[-1] == finished("cancelled")


async def test_nothing_is_waited_for_when_nothing_is_open() -> None:
    await asyncio.wait_for(Program().drain(LONG_S), LONG_S / 2)
