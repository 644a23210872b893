"""What the process of the model sends, in which order and in how many messages."""

from __future__ import annotations

import functools
import queue
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mllama_demo.engine.base import FinishEvent, PrefillEvent, TokenEvent
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
