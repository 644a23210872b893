"""The estimate of a wait: from the lengths and the speed of earlier answers, and from what each request asks for."""

from __future__ import annotations

import pytest

from mllama_demo.engine.wait_estimate import WaitEstimate, Work


@pytest.fixture
def estimate() -> WaitEstimate:
    """After answers of 10 tokens: 1 s to read, 0.1 s for a token."""
    estimate = WaitEstimate()
    for _ in range(3):
        estimate.learn(10, 1.0, 0.9)
    return estimate


def wait_s(estimate: WaitEstimate, slots: int, running: list[Work], ahead: list[Work]) -> float | None:
    """The wait of one more request."""
    *_, last = estimate.waits_s(slots, running, ahead)
    return last


def test_nothing_is_known_before_the_first_answer_but_a_free_slot():
    assert wait_s(WaitEstimate(), 2, [Work(100)], []) == 0.0
    assert wait_s(WaitEstimate(), 1, [Work(100)], []) is None


def test_a_running_answer_ends_as_earlier_ones_did(estimate):
    assert wait_s(estimate, 1, [Work(100, held_s=0.4)], []) == pytest.approx(0.6 + 1.0)
    assert wait_s(estimate, 1, [Work(100, held_s=1.6, written=6)], []) == pytest.approx(0.4)
    assert wait_s(estimate, 1, [Work(8, held_s=1.6, written=6)], []) == pytest.approx(0.2), "no longer than its limit"


def test_an_answer_that_ignores_its_end_takes_all_of_its_tokens(estimate):
    """Short answers came before: their mean would say 2 s."""
    assert wait_s(estimate, 1, [Work(160, is_whole=True, held_s=1.0)], []) == pytest.approx(16.0)
    assert wait_s(estimate, 1, [Work(10, held_s=2.0, written=10)], [Work(160, is_whole=True)]) == pytest.approx(17.0)


def test_an_answer_that_is_longer_than_all_before_it_is_expected_to_become_as_long_again(estimate):
    assert wait_s(estimate, 1, [Work(1000, held_s=5.0, written=40)], []) == pytest.approx(4.0)
    assert wait_s(estimate, 1, [Work(50, held_s=5.0, written=40)], []) == pytest.approx(1.0)


def test_the_speed_of_a_running_answer_is_its_own(estimate):
    assert wait_s(estimate, 1, [Work(100, held_s=4.0, written=6, token_s=0.5)], []) == pytest.approx(2.0)


def test_those_ahead_take_the_slots_as_they_become_free(estimate):
    running = [Work(100, held_s=1.6, written=6), Work(100, held_s=1.2, written=2)]  # 0.4 s and 0.8 s are left
    waits = list(estimate.waits_s(2, running, [Work(100)] * 3))
    assert waits == pytest.approx([0.4, 0.8, 0.4 + 2.0, 0.8 + 2.0])


def test_a_long_tail_of_answers_counts(estimate):
    """Of answers that have come this far, only the long ones are left to go by."""
    estimate.learn(210, 1.0, 20.9)
    assert wait_s(estimate, 1, [Work(500, held_s=2.5, written=15, token_s=0.1)], []) == pytest.approx(19.5)


def test_what_was_learned_can_be_forgotten(estimate):
    estimate.forget()
    assert wait_s(estimate, 1, [Work(100)], []) is None
