"""The memory of all requests together: what is reserved, what is refused, and who waits."""

from __future__ import annotations

import threading

import pytest

from mllama_demo.errors import ServerBusy
from mllama_demo.runtime.memory import MemoryBudget
from tests.support.waiting import wait_until


def test_reservations_count_until_they_are_released():
    budget = MemoryBudget("Too much.", "image_memory")
    first = budget.reserve(60, 100)
    with pytest.raises(ServerBusy, match="Too much"):
        budget.reserve(41, 100)
    second = budget.reserve(40, 100)
    assert budget.used == 100
    first.resize(10)
    third = budget.reserve(50, 100)
    for reservation in (first, first, second, third):
        reservation.release()
    assert budget.used == 0


def test_a_reservation_that_cannot_grow_keeps_its_size():
    budget = MemoryBudget("Too much.", "image_memory")
    reservation = budget.reserve(0, 100)
    reservation.grow_to(90, 100)
    with pytest.raises(ServerBusy):
        reservation.grow_to(101, 100)
    assert budget.used == 90


def test_a_reservation_waits_for_the_release_of_another():
    budget = MemoryBudget("Too much.", "image_memory")
    first = budget.reserve(100, 100)
    waiting = threading.Thread(target=budget.reserve, args=(50, 100, 60.0))
    waiting.start()
    first.release()
    waiting.join(60)
    wait_until(lambda: budget.used == 50, "the waiting reservation is made")
