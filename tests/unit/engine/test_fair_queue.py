"""The order of the waiting queue that the scheduler and the queued backends share."""

from __future__ import annotations

import asyncio

import pytest

from mllama_demo.engine.base import FinishEvent, GenerationRequest
from mllama_demo.engine.event_queue import EventQueue
from mllama_demo.engine.fair_queue import FairQueue
from mllama_demo.engine.request_queue import Job, SlotQueue
from mllama_demo.errors import DemoError


def test_a_burst_delays_another_conversation_by_one_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3"):
        queue.push(item, "a")
    assert queue.pop() == "a1"
    queue.push("b1", "b")
    assert [queue.pop() for _ in range(3)] == ["b1", "a2", "a3"]


def test_one_conversation_is_first_in_first_out() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(5):
        queue.push(item, "a")
    assert list(queue) == [0, 1, 2, 3, 4]


def test_a_conversation_that_has_finished_takes_the_current_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2"):
        queue.push(item, "a")
        queue.pop()
        queue.finish("a")
    queue.push("b1", "b")
    queue.push("a3", "a")
    assert list(queue) == ["b1", "a3"]


def test_removing_an_item_that_does_not_wait_does_nothing() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", "a")
    queue.remove("b")
    queue.remove("a")
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


async def test_a_queue_for_a_remote_server_serves_conversations_by_turns() -> None:
    slots, served = SlotQueue(lambda: 1), []

    async def serve(name: str, conversation: str) -> None:
        events: EventQueue[FinishEvent | DemoError] = EventQueue()
        job = Job(GenerationRequest((1,), conversation_id=conversation), events)  # pyright: ignore[reportArgumentType]
        await slots.turn(job)
        served.append(name)
        await asyncio.sleep(0)
        slots.leave(job)

    await asyncio.gather(*(serve(name, name[0]) for name in ("a1", "a2", "a3", "b1")))
    assert served == ["a1", "b1", "a2", "a3"]
