"""What the process of the model sends, in which order and in how many messages."""

from __future__ import annotations

import asyncio
import functools
import queue
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from mllama_demo.engine.base import Event, FinishEvent, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.engine.process.child import _Service
from mllama_demo.engine.process.child_handle import ChildProcess, Message
from mllama_demo.engine.process.protocol import Admitted, Batch, Heartbeat, Ready
from tests.support.scripted_engine import make_engine
from tests.support.slot_backends import request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(60)


class Child:
    """A process with two slots, and its messages without the heartbeats."""

    def __init__(self, folder: Path) -> None:
        self.process = ChildProcess(functools.partial(make_engine, folder, 2, 8))
        self._messages: queue.Queue[Message] = queue.Queue()
        self.process.listen(self._messages.put)

    def next(self) -> Message:
        while isinstance(message := self._messages.get(timeout=20), Heartbeat):
            pass
        return message


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    child = Child(tmp_path)
    assert isinstance(child.next(), Ready)
    yield child
    child.process.close(10)


def test_the_tokens_of_a_step_come_in_one_message(child: Child) -> None:
    for name in ("one", "two"):
        child.process.submit(request(name, max_tokens=20))
    batches: list[Batch] = []
    ended = 0
    while ended < 2:
        message = child.next()
        if isinstance(message, Batch):
            batches.append(message)
            ended += sum(isinstance(event, FinishEvent) for _, event in message.events)
    tokens = [sorted(id for id, event in batch.events if isinstance(event, TokenEvent)) for batch in batches]
    assert tokens.count(["one", "two"]) >= 17, tokens


async def test_tokens_alone_do_not_estimate_the_waits_of_the_whole_queue() -> None:
    waits = [4.0, 3.0, 2.0]
    backend = Mock(status=Mock(side_effect=lambda: Mock(estimated_wait_s=waits.pop(0))))
    service = _Service(Mock(), connection := Mock())
    service._backend, service._loop = backend, asyncio.get_running_loop()

    def sent(*events: Event) -> float | None:
        for event in events:
            service._put("one", event)
        service._flush()
        return connection.send.call_args.args[0].estimated_wait_s

    token = TokenEvent(0, 7, "a")
    assert sent(PrefillEvent(3, 0.0), token) == 4.0
    assert [sent(token) for _ in range(5)] == [4.0] * 5
    assert sent(token, QueueEvent(1, 3.0)) == 3.0
    service._beat()
    assert sent(token, token) == 2.0
    assert backend.status.call_count == 3


def test_an_admission_is_told_before_the_model_sees_the_request(child: Child) -> None:
    child.process.submit(request("one", max_tokens=1))
    assert child.next() == Admitted("one")
    batch = child.next()
    assert isinstance(batch, Batch)
    assert isinstance(batch.events[0][1], PrefillEvent)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="the system has no signal masks")
def test_the_thread_that_starts_a_process_can_be_interrupted_afterwards(child: Child) -> None:
    """Every process that this thread starts later would ignore Ctrl-C otherwise."""
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


def test_a_process_that_cannot_read_a_request_ends(child: Child) -> None:
    child.process._connection.send_bytes(b"no message")
    assert child.process.has_ended(20)
    assert child.process.how_it_ended() == "ended with exit code 1"


def test_a_message_that_cannot_be_handled_counts_as_the_end_of_the_process(tmp_path: Path, caplog) -> None:
    def handle(message: Message) -> None:
        raise MemoryError

    process = ChildProcess(functools.partial(make_engine, tmp_path, 2, 8))
    process.listen(handle)
    try:
        wait_until(lambda: process.has_ended(0.1), "its end is noticed")
        assert "could not be read" in caplog.text
    finally:
        process.kill()
