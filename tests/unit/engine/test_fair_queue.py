"""The order of the waiting queue that the scheduler and the queued backends share."""

from __future__ import annotations

import asyncio
import random

import pytest

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.event_queue import EventQueue
from mllama_demo.engine.request_queue import Job, SlotQueue
from mllama_demo.runtime import fair_queue
from mllama_demo.runtime.fair_queue import FairQueue


def test_a_burst_delays_another_conversation_by_one_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3"):
        queue.push(item, ("a",))
    assert queue.pop() == "a1"
    queue.push("b1", ("b",))
    assert [queue.pop() for _ in range(3)] == ["b1", "a2", "a3"]


def test_a_burst_delays_another_address_visitor_and_conversation_by_one_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for index in range(4):  # without cookies: every request comes from another visitor
        queue.push(f"flood {index}", ("a", f"visitor {index}", f"conversation {index}"))
    assert queue.pop() == "flood 0"
    queue.push("other address", ("b", "ben", "1"))
    assert list(queue)[:2] == ["other address", "flood 1"]
    for index in range(2):
        queue.push(f"many {index}", ("b", "ben", f"more {index}"))
    queue.push("other visitor", ("b", "ann", "1"))
    of_b = [item for item in queue if not item.startswith("flood")]
    assert of_b == ["other address", "other visitor", "many 0", "many 1"]
    queue.push("same conversation", ("b", "ben", "more 0"))
    queue.push("another conversation", ("b", "ben", "third"))
    assert [item for item in queue if item.startswith(("many", "same", "another"))][-2:] == [
        "another conversation",
        "same conversation",
    ]


def test_who_cancels_what_waits_does_not_lose_the_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a1", ("a",))
    queue.push("b1", ("b",))
    queue.remove("a1")
    queue.finish(("a",))
    queue.push("a2", ("a",))
    assert list(queue) == ["b1", "a2"]
    assert len(queue) == 2


def test_one_conversation_is_first_in_first_out() -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(5):
        queue.push(item, ("a",))
    assert list(queue) == [0, 1, 2, 3, 4]


def test_a_conversation_that_has_finished_takes_the_current_turn() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2"):
        queue.push(item, ("a",))
        queue.pop()
        queue.finish(("a",))
    queue.push("b1", ("b",))
    queue.push("a3", ("a",))
    assert list(queue) == ["b1", "a3"]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_after_a_pop_is_the_one_of_a_queue_that_is_sorted_anew(seed: int) -> None:
    draw = random.Random(seed)
    kept: FairQueue[int] = FairQueue()
    sorted_anew: FairQueue[int] = FairQueue()
    for item in range(300):
        if draw.random() < 0.6 or not len(kept):
            path = tuple(draw.choice("abc") for _ in range(3))
            kept.push(item, path)
            sorted_anew.push(item, path)
            continue
        assert kept.pop() == sorted_anew.pop()
        sorted_anew.push(-1, ("nobody", "", ""))
        sorted_anew.remove(-1)
        sorted_anew.finish(("nobody", "", ""))
        assert list(kept) == list(sorted_anew)


def test_a_pop_does_not_sort_those_who_wait_again(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: FairQueue[int] = FairQueue()
    for item in range(20):
        queue.push(item, (str(item % 3),))
    first = list(queue)
    monkeypatch.delattr(fair_queue._Node, "ordered")
    for index, item in enumerate(first):
        assert queue.pop() == item
        assert list(queue) == first[index + 1 :]


def test_removing_an_item_that_does_not_wait_does_nothing() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.push("a", ("a",))
    queue.remove("b")
    queue.remove("a")
    assert len(queue) == 0
    with pytest.raises(IndexError):
        queue.pop()


async def test_a_queue_for_a_remote_server_serves_conversations_by_turns() -> None:
    slots, served = SlotQueue(lambda: 1), []

    async def serve(name: str, conversation: str) -> None:
        job = Job(GenerationRequest((1,), conversation_id=conversation), events=EventQueue())
        await slots.turn(job)
        served.append(name)
        await asyncio.sleep(0)
        slots.leave(job)

    await asyncio.gather(*(serve(name, name[0]) for name in ("a1", "a2", "a3", "b1")))
    assert served == ["a1", "b1", "a2", "a3"]
