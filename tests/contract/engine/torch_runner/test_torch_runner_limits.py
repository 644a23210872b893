"""TorchRunner at the end of its context, with images that it remembers, and with requests that cannot be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mllama_demo.chat.tokenizer import IncrementalText, Tokenizer
from mllama_demo.engine.base import Event, FinishEvent, GenerationRequest, TokenEvent
from mllama_demo.engine.runner import Sampled, prefill
from mllama_demo.engine.scheduler import Scheduler
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.errors import BadRequest
from mllama_demo.sampling import SamplingParams
from tests.support.torch_runner_cases import GREEDY, Case, answer_in, ask, assert_as_meta, decode, picture, raw_text

# --- (e) the end of the context ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short_runner(embedded: Path) -> TorchRunner:
    return TorchRunner.load(embedded, slots=2, max_seq_len=96)


def fill_context(runner: TorchRunner, tokenizer: Tokenizer, requests: Sequence[GenerationRequest]) -> dict[str, list[Event]]:
    """The events of each request, served by the scheduler; no token ends a turn."""
    scheduler = Scheduler(
        runner, new_text_stream=lambda params: IncrementalText(tokenizer, params.stop), end_of_turn_ids=frozenset()
    )
    events: dict[str, list[Event]] = {request.id: [] for request in requests}
    for request in requests:
        scheduler.submit(request)
    while scheduler.has_work():
        for request_id, event in scheduler.step():
            events[request_id].append(event)
    return events


@pytest.mark.slow
def test_a_prompt_one_short_of_the_context_gets_exactly_one_token(tokenizer, reference, short_runner):
    requests = [raw_text(tokenizer, 95, seed=50), raw_text(tokenizer, 95, seed=51), raw_text(tokenizer, 40, seed=52)]
    requests = [replace(request, sampling=SamplingParams(temperature=0.0, max_tokens=200)) for request in requests]
    events = fill_context(short_runner, tokenizer, requests)
    for request, count in zip(requests, (1, 1, 56), strict=True):
        made = [event for event in events[request.id] if isinstance(event, TokenEvent)]
        finish = events[request.id][-1]
        assert isinstance(finish, FinishEvent)
        assert (finish.reason, len(made)) == ("context_full", count)
        assert_as_meta(reference, Case("full", request, count, made=[Sampled(e.token_id, e.trace) for e in made]))


@pytest.mark.slow
@pytest.mark.parametrize("neighbour_length", [60, 90, 94])
def test_sequences_reach_the_last_position_beside_others_that_sit_out(tokenizer, reference, short_runner, neighbour_length):
    """The second slot is fed up to and including position 95, with pauses in which the first goes on, and the reverse."""
    runner = short_runner
    image = picture(2, 1, 55)
    case = Case("to the end", ask(tokenizer, "What is in this image? " * 4, image=image), 0)
    case.count = runner.max_seq_len - len(case.request.prompt_ids) + 1
    neighbour = Case("neighbour", raw_text(tokenizer, neighbour_length, seed=56), 97 - neighbour_length)
    for slot, member in ((0, neighbour), (1, case)):
        member.made.append(prefill(runner, slot, member.request))
    turn = 0
    while not (case.finished and neighbour.finished):
        turn += 1
        named = {0: {0: neighbour}, 1: {1: case}, 2: {0: neighbour, 1: case}}[turn % 3]
        decode(runner, {slot: member for slot, member in named.items() if not member.finished})
    for slot in (0, 1):
        runner.release(slot)
    assert case.count > 20
    assert_as_meta(reference, case)
    assert_as_meta(reference, neighbour)


# --- (f) vision features -------------------------------------------------------------------------------------------------


class Look:
    """Counts how often the vision encoder runs."""

    def __init__(self, runner: TorchRunner) -> None:
        self.times = 0
        runner._model.model.vision_model.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.times += 1


@pytest.fixture
def small_cache(embedded: Path) -> tuple[TorchRunner, Look]:
    """A runner that remembers two images."""
    runner = TorchRunner.load(embedded, slots=2, max_seq_len=96, vision_cache_size=2)
    return runner, Look(runner)


def first_token(runner: TorchRunner, request: GenerationRequest) -> Sampled:
    try:
        return prefill(runner, 1, request)
    finally:
        runner.release(1)


def test_an_image_is_looked_at_once_while_it_is_remembered(tokenizer, reference, small_cache):
    runner, look = small_cache
    a, b, c = (picture(columns, 1, 60 + columns) for columns in (1, 2, 3))
    # The least recently used is forgotten: a, used again just before c came, outlives b.
    for image, times in ((a, 1), (a, 1), (b, 2), (b, 2), (a, 2), (c, 3), (a, 3), (c, 3), (b, 4), (c, 4), (a, 5)):
        first_token(runner, ask(tokenizer, "What is it?", image=image))
        assert look.times == times


def test_a_new_question_and_a_new_upload_of_the_same_file_do_not_make_it_look_again(tokenizer, small_cache):
    runner, look = small_cache
    for question, image in (("What is it?", picture(2, 1, 65)), ("Where?", picture(2, 1, 65))):
        first_token(runner, ask(tokenizer, question, image=image))
    assert look.times == 1


def test_text_needs_no_look_at_anything(tokenizer, small_cache):
    runner, look = small_cache
    case = Case("text", ask(tokenizer, "Hello!"), 5)
    answer_in(runner, 0, case)
    assert look.times == 0


def test_generating_tokens_does_not_look_again(tokenizer, small_cache):
    runner, look = small_cache
    answer_in(runner, 0, Case("image", ask(tokenizer, "What is it?", image=picture(2, 1, 66)), 5))
    assert look.times == 1


def test_a_remembered_image_gives_the_same_answer_as_a_new_one(tokenizer, reference, small_cache):
    runner, look = small_cache
    request = ask(tokenizer, "What is it?", image=picture(2, 1, 67))
    first, again = first_token(runner, request), first_token(runner, request)
    assert look.times == 1
    assert first == again
    assert_as_meta(reference, Case("remembered", request, 1, made=[again]))


# --- (g) requests that cannot be right, (h) slots that are taken ---------------------------------------------------------


def broken_requests(tokenizer: Tokenizer) -> dict[str, GenerationRequest]:
    image = picture(1, 1, 70)
    good = ask(tokenizer, "What is it?", image=image)
    mark = tokenizer.special_id("<|image|>")
    at = good.prompt_ids.index(mark)
    return {
        "an image token without an image": GenerationRequest(good.prompt_ids, GREEDY),
        "two image tokens": GenerationRequest((*good.prompt_ids[:at], mark, *good.prompt_ids[at:]), GREEDY, image),
        "two image tokens without an image": GenerationRequest((*good.prompt_ids, mark), GREEDY),
        "an image without its token": GenerationRequest(tuple(i for i in good.prompt_ids if i != mark), GREEDY, image),
    }


BROKEN = [
    "an image token without an image",
    "two image tokens",
    "two image tokens without an image",
    "an image without its token",
]


@pytest.mark.parametrize("after", ["text", "image"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_mismatch_of_image_and_token_is_refused_and_harms_nobody(tokenizer, reference, runner, name, after):
    what = "What is it?"
    neighbour = Case("neighbour", ask(tokenizer, what, image=picture(2, 1, 71)), 8)
    next_one = {"text": ask(tokenizer, what), "image": ask(tokenizer, what, image=picture(1, 2, 72))}[after]
    follower = Case("follower", next_one, 5)
    neighbour.made.append(prefill(runner, 0, neighbour.request))
    decode(runner, {0: neighbour})
    with pytest.raises(BadRequest, match="image"):
        prefill(runner, 1, broken_requests(tokenizer)[name])
    decode(runner, {0: neighbour})
    runner.release(1)
    follower.made.append(prefill(runner, 1, follower.request))
    while not neighbour.finished:
        decode(runner, {1: follower, 0: neighbour} if not follower.finished else {0: neighbour})
    assert_as_meta(reference, neighbour)
    assert_as_meta(reference, follower)


def test_a_live_slot_is_not_prefilled_over(tokenizer, reference, runner):
    case = Case("here first", ask(tokenizer, "What is it?", image=picture(2, 1, 75)), 6)
    case.made.append(prefill(runner, 2, case.request))
    for intruder in (ask(tokenizer, "Hello!"), ask(tokenizer, "And this?", image=picture(1, 1, 76))):
        with pytest.raises(ValueError, match="slot 2"):
            prefill(runner, 2, intruder)
        decode(runner, {2: case})
    while not case.finished:
        decode(runner, {2: case})
    assert_as_meta(reference, case)


def test_releasing_a_free_slot_does_nothing(tokenizer, reference, runner):
    case = Case("text", ask(tokenizer, "Hello!"), 4)
    runner.release(1)
    case.made.append(prefill(runner, 0, case.request))
    while not case.finished:
        runner.release(1)
        decode(runner, {0: case})
    assert_as_meta(reference, case)
