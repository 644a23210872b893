"""Threads for one kind of work: other work goes on while they are all taken, and too much waiting work is refused."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
import time

import pytest

from mllama_demo.errors import ServerBusy
from mllama_demo.runtime.threads import CLIENT, WorkThreads
from tests.support.waiting import PATIENCE_S, until, wait_until


def busy() -> ServerBusy:
    return ServerBusy("Too much work.", "image_threads")


async def test_work_beyond_the_threads_waits_and_work_beyond_the_queue_is_refused():
    threads, go_on = WorkThreads("test", 1, 1, busy), threading.Event()
    taken = [asyncio.create_task(threads.run(go_on.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ServerBusy, match="Too much work"):
        await threads.run(int)
    assert await asyncio.to_thread(int) == 0, "other threads are free"
    go_on.set()
    assert await asyncio.gather(*taken) == [True, True]
    assert await threads.run(lambda: 5) == 5


async def test_work_sees_the_context_of_its_caller_and_raises_its_own_errors():
    variable = contextvars.ContextVar("variable", default="")
    variable.set("here")
    threads = WorkThreads("test", 1, 1, busy)
    assert await threads.run(variable.get) == "here"
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)


async def test_a_flood_of_one_client_delays_another_by_one_turn():
    threads, go_on, order = WorkThreads("test", 1, 20, busy), threading.Semaphore(0), []

    def work(name: str) -> None:
        go_on.acquire()
        order.append(name)

    def ask(address: str, visitor: str) -> asyncio.Task[None]:
        CLIENT.set((address, visitor))
        return asyncio.create_task(threads.run(work, f"{address} {visitor}"))

    tasks = [ask("flood", "a") for _ in range(5)]
    await asyncio.sleep(0)
    tasks += [ask("flood", "b"), ask("other", "c")]
    await asyncio.sleep(0)
    for _ in tasks:
        go_on.release()
    await asyncio.gather(*tasks)
    assert order.index("other c") == 1, "after the one that had begun"
    assert order.index("flood b") <= 3, "visitors of one address take turns, too"
    assert len(order) == 7


async def test_one_address_gets_half_of_the_places_to_wait():
    threads, go_on = WorkThreads("test", 1, 4, busy), threading.Event()
    CLIENT.set(("flood", ""))
    taken = [asyncio.create_task(threads.run(go_on.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(ServerBusy):
        await threads.run(int)
    CLIENT.set(("other", ""))
    other = asyncio.create_task(threads.run(int))
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*taken) == [True, True, True]
    assert await other == 0


async def test_work_that_has_waited_too_long_or_was_cancelled_leaves_its_place():
    threads, go_on, begun = WorkThreads("test", 1, 2, busy, wait_s=0.05), threading.Event(), []
    first = asyncio.create_task(threads.run(go_on.wait))
    await asyncio.sleep(0)
    with pytest.raises(ServerBusy):
        await threads.run(begun.append, "too late")
    cancelled = asyncio.create_task(threads.run(begun.append, "cancelled"))
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await asyncio.gather(cancelled, return_exceptions=True) != [None]
    go_on.set()
    assert await first is True, "work that has begun has no limit"
    assert await threads.run(lambda: 5) == 5
    assert begun == []
    assert_nothing_is_left(threads)


async def test_work_that_is_cancelled_while_a_thread_takes_it_does_not_run():
    """The event loop cancels the future first, and calls the task, which leaves the queue, in its next step."""
    threads, go_on, begun = WorkThreads("test", 1, 8, busy), threading.Event(), []
    first = asyncio.create_task(threads.run(go_on.wait))
    await asyncio.sleep(0)
    CLIENT.set(("192.0.2.1", "ann"))
    cancelled, *others = [asyncio.create_task(threads.run(begun.append, name)) for name in ("cancelled", "second", "third")]
    await asyncio.sleep(0)
    item = next(iter(threads._waiting))
    cancel = item.future.cancel

    def cancel_and_let_the_thread_go_on() -> bool:
        item.future.cancel = cancel
        is_cancelled = cancel()
        go_on.set()
        wait_until(lambda: item not in list(threads._waiting), "the thread has taken the cancelled work")
        return is_cancelled

    item.future.cancel = cancel_and_let_the_thread_go_on
    cancelled.cancel()
    assert [type(end) for end in await asyncio.gather(cancelled, return_exceptions=True)] == [asyncio.CancelledError]
    await asyncio.wait_for(asyncio.gather(first, *others), PATIENCE_S)
    assert begun == ["second", "third"]
    assert_nothing_is_left(threads)


@pytest.mark.parametrize("wait_s", [None, 0.001])
async def test_any_order_of_cancellations_frees_each_place_once(wait_s: float | None):
    rng = random.Random(1)
    threads, ran = WorkThreads("test", 2, 200, busy, wait_s), set()

    def work(number: int) -> int:
        ran.add(number)
        time.sleep(rng.choice((0, 0.0005)))
        return number

    for batch in range(30):
        tasks: dict[int, asyncio.Task[int]] = {}
        for number in range(batch * 50, batch * 50 + 50):
            CLIENT.set((rng.choice("ab"), rng.choice("xy")))
            tasks[number] = asyncio.create_task(threads.run(work, number))
            if rng.random() < 0.5:
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                rng.choice(list(tasks.values())).cancel()
        ends = await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), PATIENCE_S)
        for number, end in zip(tasks, ends, strict=True):
            assert end == number or isinstance(end, asyncio.CancelledError | ServerBusy), end
            assert number in ran or end != number
            assert not (number in ran and isinstance(end, ServerBusy))
    await until(lambda: not threads._accepted, "the threads have ended the work whose caller has left")
    assert_nothing_is_left(threads)


def assert_nothing_is_left(threads: WorkThreads) -> None:
    wait_until(lambda: threads._waiting._root.unfinished <= 0, "all work has ended")
    root = threads._waiting._root
    assert (len(threads._waiting), dict(threads._accepted), root.unfinished, root.children) == (0, {}, 0, {})
