"""NeuronRunner on NxDI's real code: slots, batches, buckets and neighbours must not show in the answers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from mllama_demo.engine.base import FinishEvent, GenerationRequest, TokenEvent
from mllama_demo.engine.runner import Sampled, prefill
from mllama_demo.engine.scheduler import Scheduler
from mllama_demo.errors import BadRequest, PromptTooLong
from mllama_demo.sampling import SamplingParams
from tests.contract.engine.nxdi.cases import GREEDY, Case, ask, assert_as_meta, finish, noise, picture, start, step


@pytest.fixture
def tile(reference) -> int:
    return reference.eyes["image_size"]


def four_cases(tokenizer, tile: int, count: int) -> dict[int, Case]:
    what = "What is in this image?"
    return {
        0: Case(ask(tokenizer, "Hello!"), count),
        1: Case(ask(tokenizer, what, image=picture(2 * tile, tile, 30)), count),
        2: Case(noise(tokenizer, 100, 31), count),
        3: Case(ask(tokenizer, what, image=picture(2 * tile, 2 * tile, 32)), count),
    }


# --- the scheduler -------------------------------------------------------------------------------------------------------


class NoText:
    """A TextStream for those who look at tokens only."""

    stopped = None

    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def make_scheduler(runner) -> Scheduler:
    return Scheduler(runner, new_text_stream=lambda sampling: NoText(), end_of_turn_ids=frozenset())


def with_count(request: GenerationRequest, count: int) -> GenerationRequest:
    return replace(request, sampling=replace(request.sampling, max_tokens=count))


def serve(scheduler: Scheduler, arrivals: Sequence[tuple[int, Case]], cancel: dict[int, Case] | None = None) -> dict[str, str]:
    """Runs the cases as they arrive, by step; cancels each of `cancel` at its step. The reason why each ended, by id."""
    waiting, by_id, reasons, now = list(arrivals), {}, {}, 0
    while waiting or scheduler.has_work():
        for arrival in [a for a in waiting if a[0] <= now]:
            waiting.remove(arrival)
            case = arrival[1]
            by_id[case.request.id] = case
            scheduler.submit(with_count(case.request, case.count))
        if cancel and now in cancel:
            scheduler.cancel(cancel[now].request.id)
        for request_id, event in scheduler.step():
            if isinstance(event, TokenEvent):
                by_id[request_id].made.append(Sampled(event.token_id, event.trace))
            if isinstance(event, FinishEvent):
                reasons[request_id] = event.error or event.reason
        now += 1
    return reasons


def test_twelve_requests_that_join_and_leave_four_slots_are_answered_as_if_alone(tokenizer, reference, runner, tile):
    what, where = "What is in this image?", "Where is it?"
    late = ask(tokenizer, "Hi", "Hi!", what, image=picture(0.6 * tile, 0.4 * tile, 6), image_turn=2)
    arrivals = [
        (0, Case(ask(tokenizer, "Hello!"), 20)),
        (0, Case(ask(tokenizer, what, image=picture(tile, tile, 1)), 28)),
        (1, Case(noise(tokenizer, 128, 1), 6)),
        (1, Case(ask(tokenizer, what, image=picture(2 * tile, tile, 2)), 15)),
        (2, Case(ask(tokenizer, what, image=picture(2 * tile, 2 * tile, 4)), 12)),
        (3, Case(noise(tokenizer, 90, 2), 30)),
        (4, Case(ask(tokenizer, where, image=picture(4 * tile, tile, 10)), 10)),
        (9, Case(ask(tokenizer, where, image=picture(tile, 3 * tile, 11)), 9)),
        (9, Case(ask(tokenizer, what, "A dog.", where, image=picture(1.5 * tile, 0.7 * tile, 5)), 14)),
        (10, Case(late, 3)),
        (11, Case(ask(tokenizer, "What is 1 + 1?", "2", "And 2 + 2?"), 17)),
        (30, Case(ask(tokenizer, what, image=picture(tile, 2 * tile, 7)), 1)),
    ]
    reasons = serve(make_scheduler(runner), arrivals)
    assert set(reasons.values()) == {"max_tokens"}
    for _, case in arrivals:
        assert_as_meta(reference, case)


def test_a_request_cancelled_in_mid_flight_harms_neither_its_neighbours_nor_the_next_in_its_slot(
    tokenizer, reference, runner, tile
):
    cases = four_cases(tokenizer, tile, 20)
    follower = Case(ask(tokenizer, "Hello!"), 12)
    reasons = serve(make_scheduler(runner), [*((0, case) for case in cases.values()), (5, follower)], cancel={8: cases[1]})
    assert reasons.pop(cases[1].request.id) == "cancelled"
    assert set(reasons.values()) == {"max_tokens"}
    assert 0 < len(cases[1].made) < 20
    for case in (*(cases[slot] for slot in (0, 2, 3)), follower):
        assert_as_meta(reference, case)


# --- slots ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", [0, 2])
def test_a_slot_forgets_its_last_image_and_its_last_text(tokenizer, reference, runner, tile, slot):
    what = "What is in this image?"
    for request in (
        ask(tokenizer, what, image=picture(2 * tile, 2 * tile, 20)),
        ask(tokenizer, "Who are you?"),
        ask(tokenizer, what, image=picture(tile, tile, 21)),
        noise(tokenizer, 120, 22),
        ask(tokenizer, what, image=picture(3 * tile, tile, 23)),
    ):
        case = Case(request, 8)
        start(runner, slot, case)
        finish(runner, {slot: case})
        runner.release(slot)
        assert_as_meta(reference, case)


def test_live_slots_that_sit_out_keep_their_state(tokenizer, reference, runner, tile):
    """Some steps name one slot, some all but one: an idle row writes too, and must not write over what its slot holds."""
    cases, chance = four_cases(tokenizer, tile, 12), random.Random(33)
    for slot, case in cases.items():
        start(runner, slot, case)
    while unfinished := [slot for slot, case in cases.items() if not case.finished]:
        step(runner, {slot: cases[slot] for slot in chance.sample(unfinished, chance.randint(1, len(unfinished)))})
    for case in cases.values():
        assert_as_meta(reference, case)


def test_tokens_come_in_the_order_in_which_slots_are_named(tokenizer, reference, runner, tile):
    cases = four_cases(tokenizer, tile, 4)
    for slot, case in cases.items():
        start(runner, slot, case)
    for order in ([3, 0, 2, 1], [2, 3, 1, 0], [1, 0, 3, 2]):
        step(runner, {slot: cases[slot] for slot in order})
    for case in cases.values():
        assert_as_meta(reference, case)


def test_a_live_slot_is_not_prefilled_over(tokenizer, reference, runner, tile):
    case = Case(ask(tokenizer, "What is it?", image=picture(2 * tile, tile, 75)), 6)
    start(runner, 2, case)
    with pytest.raises(ValueError, match="slot 2"):
        prefill(runner, 2, ask(tokenizer, "Hello!"))
    finish(runner, {2: case})
    assert_as_meta(reference, case)


def test_releasing_a_free_slot_does_nothing(tokenizer, reference, runner):
    case = Case(ask(tokenizer, "Hello!"), 4)
    runner.release(1)
    start(runner, 0, case)
    runner.release(1)
    finish(runner, {0: case})
    assert_as_meta(reference, case)


# --- lengths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "bucket"), [(3, 0), (63, 0), (64, 1), (65, 1), (127, 1), (128, 1)])
def test_prompts_around_the_length_of_a_bucket(tokenizer, reference, runner, length, bucket):
    case = Case(noise(tokenizer, length, 40 + length), 4)
    start(runner, 3, case)
    assert runner._model.traced_model.calls[-1][:2] == ("context_encoding_model", bucket)
    finish(runner, {3: case})
    assert_as_meta(reference, case)


def test_a_prompt_longer_than_the_largest_bucket_is_refused_and_harms_nobody(tokenizer, reference, runner):
    neighbour = Case(noise(tokenizer, 20, 43), 6)
    start(runner, 0, neighbour)
    with pytest.raises(PromptTooLong, match=r"129 tokens.* 128"):
        prefill(runner, 1, noise(tokenizer, 129, 44))
    finish(runner, {0: neighbour})
    assert_as_meta(reference, neighbour)
    follower = Case(noise(tokenizer, 20, 45), 3)
    start(runner, 1, follower)
    finish(runner, {1: follower})
    assert_as_meta(reference, follower)


@pytest.mark.parametrize("with_neighbours", [False, True])
@pytest.mark.parametrize("length", [1, 2])
def test_prompts_too_short_for_a_prefill_are_answered_all_the_same(tokenizer, reference, runner, tile, length, with_neighbours):
    neighbours = four_cases(tokenizer, tile, 9) if with_neighbours else {}
    neighbours.pop(2, None)
    for slot, case in neighbours.items():
        start(runner, slot, case)
    case = Case(noise(tokenizer, length, 46), 8)
    start(runner, 2, case)
    finish(runner, {2: case, **neighbours})
    for member in (case, *neighbours.values()):
        assert_as_meta(reference, member)


@pytest.mark.parametrize("before", [0, 1])
def test_an_image_token_alone_is_a_prompt_too(tokenizer, reference, runner, tile, before):
    image = picture(tile, 2 * tile, 47)
    prompt = (*noise(tokenizer, 1, 0).prompt_ids[:before], reference.image_token)
    case = Case(GenerationRequest(prompt, GREEDY, image, trace=True), 6)
    start(runner, 1, case)
    finish(runner, {1: case})
    assert_as_meta(reference, case)


def test_a_sequence_reaches_the_last_position_and_goes_no_further(tokenizer, reference, runner, tile):
    """Beside a slot that sits out, first half-way and then full itself."""
    image = picture(2 * tile, tile, 48)
    first = Case(ask(tokenizer, "What is in this image?", image=image), 0)
    second = Case(noise(tokenizer, 128, 49), runner.max_seq_len - 128 + 1)
    first.count = runner.max_seq_len - len(first.request.prompt_ids) + 1
    start(runner, 0, first)
    start(runner, 1, second)
    for _ in range(10):
        step(runner, {1: second})
    finish(runner, {0: first})
    with pytest.raises(ValueError, match="192 tokens"):
        runner.decode([0])
    finish(runner, {1: second})
    with pytest.raises(ValueError, match="192 tokens"):
        runner.decode([1])
    assert_as_meta(reference, first)
    assert_as_meta(reference, second)


# --- requests that cannot be right ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a token without an image", "two tokens", "an image without a token"])
def test_a_mismatch_of_image_and_token_is_refused_and_harms_nobody(tokenizer, reference, runner, tile, name):
    good = ask(tokenizer, "What is it?", image=picture(tile, tile, 70))
    mark = reference.image_token
    broken = {
        "a token without an image": replace(good, image=None),
        "two tokens": replace(good, prompt_ids=(*good.prompt_ids, mark)),
        "an image without a token": replace(good, prompt_ids=tuple(i for i in good.prompt_ids if i != mark)),
    }[name]
    neighbour = Case(ask(tokenizer, "What is it?", image=picture(2 * tile, tile, 71)), 8)
    start(runner, 0, neighbour)
    with pytest.raises(BadRequest, match="image"):
        prefill(runner, 1, broken)
    follower = Case(good, 5)
    start(runner, 1, follower)
    finish(runner, {0: neighbour, 1: follower})
    assert_as_meta(reference, neighbour)
    assert_as_meta(reference, follower)


# --- sampling on the host ------------------------------------------------------------------------------------------------


def test_the_host_draws_from_the_logits_by_the_seed_of_the_request_whoever_else_is_there(tokenizer, runner, tile):
    hot = SamplingParams(temperature=1.2, top_p=0.95, top_k=50, seed=11)

    def draw(seed: int, neighbours: dict[int, Case]) -> list[int]:
        case = Case(replace(noise(tokenizer, 30, 60), sampling=replace(hot, seed=seed)), 12)
        for slot, neighbour in neighbours.items():
            start(runner, slot, neighbour)
        start(runner, 2, case)
        finish(runner, {2: case, **neighbours})
        for slot in (2, *neighbours):
            runner.release(slot)
        return case.tokens

    neighbours: dict[int, Any] = four_cases(tokenizer, tile, 12)
    del neighbours[2]
    alone = draw(11, {})
    assert draw(11, neighbours) == alone
    assert draw(12, {}) != alone


def test_a_trace_says_what_it_was_drawn_from_only_where_it_is_asked_for(tokenizer, runner):
    request = noise(tokenizer, 10, 61)
    assert prefill(runner, 0, request).trace.chosen == prefill(runner, 1, replace(request, trace=False)).token_id
    assert [sampled.trace is None for sampled in runner.decode([0, 1])] == [False, True]


def test_a_question_reads_a_prompt_makes_a_step_and_leaves_its_slot_free(tokenizer, runner, tile):
    calls = runner._model.traced_model.calls
    calls.clear()
    prefill(runner, 0, ask(tokenizer, "Hello!", image=picture(tile, tile, 62)))
    runner.decode([0])
    runner.release(0)
    assert [graph for graph, _, _ in calls] == ["context_encoding_model", "token_generation_model"]
    assert torch.equal(calls[0][2][-1], torch.ones(1, dtype=torch.int32))
    prefill(runner, 0, ask(tokenizer, "Hello!"))
