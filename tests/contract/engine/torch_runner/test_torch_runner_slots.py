# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
"""TorchRunner against Meta's computation written down by hand: slots and batches must not show in the answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import MllamaForConditionalGeneration
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import prefill
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.sampling import SamplingParams
from tests.support.meta_reference import MetaReference
from tests.support.torch_runner_cases import GREEDY, TOLERANCE, Case, answer_in, ask, assert_as_meta, decode, picture, raw_text

HOT = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=11)


@pytest.fixture(scope="module")
def transformers_model(embedded: Path) -> MllamaForConditionalGeneration:
    """transformers' own computation, untouched."""
    return MllamaForConditionalGeneration.from_pretrained(embedded, dtype=torch.float32).eval()


# --- pictures and prompts ------------------------------------------------------------------------------------------------


def run_all(runner: TorchRunner, cases: Sequence[Case], choose_slot: Callable[[list[int]], int] = min) -> None:
    """The everyday schedule: each step admits what has arrived while slots are free, decodes all live, releases the done."""
    waiting, live, step = list(cases), {}, 0
    while waiting or live:
        free = [slot for slot in range(runner.slots) if slot not in live]
        for case in [c for c in waiting if c.arrives <= step][: len(free)]:
            waiting.remove(case)
            slot = choose_slot(free)
            free.remove(slot)
            case.made.append(prefill(runner, slot, case.request))
            live[slot] = case
        decode(runner, {slot: case for slot, case in live.items() if not case.finished})
        for slot in [slot for slot, case in live.items() if case.finished]:
            runner.release(slot)
            del live[slot]
        step += 1


# --- the reference itself ------------------------------------------------------------------------------------------------


@torch.inference_mode()
def logits_of_transformers(model: MllamaForConditionalGeneration, embedded: Path, request: GenerationRequest) -> torch.Tensor:
    """[length, vocabulary], with the masks that transformers' own processor makes."""
    ids, vision = list(request.prompt_ids), {}
    if request.image is not None:
        made = MetaReference(embedded).processor(images=[[request.image.pixels]], return_tensors="pt")
        tiles = model.config.vision_config.max_num_tiles
        spans = [get_cross_attention_token_mask(ids, model.config.image_token_index)]
        mask = convert_sparse_cross_attention_mask_to_dense(spans, made["num_tiles"], tiles, len(ids))
        keys = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
        vision = {key: made[key] for key in keys} | {"cross_attention_mask": torch.tensor(mask)}
    return model(input_ids=torch.tensor([ids]), **vision).logits[0]


def logits_of(reference: MetaReference, request: GenerationRequest) -> torch.Tensor:
    vision = None if request.image is None else reference.see(request.image.pixels)
    return reference.logits(request.prompt_ids, vision)


def late_image(tokenizer: Tokenizer, columns: float = 2, rows: float = 1) -> GenerationRequest:
    """An image in the third turn, so that there are text rows before it."""
    texts = "Hello, can you see?", "Yes, show me a picture.", "What is in this picture?"
    return ask(tokenizer, *texts, image=picture(columns, rows, 3), image_turn=2)


def test_the_reference_is_transformers_on_text(embedded, tokenizer, reference, transformers_model):
    for request in (ask(tokenizer, "What is the capital of Italy?"), raw_text(tokenizer, 300)):
        difference = logits_of(reference, request) - logits_of_transformers(transformers_model, embedded, request)
        assert difference.abs().max() < TOLERANCE


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (2, 1), (1, 3), (2, 2), (4, 1)])
def test_the_reference_is_transformers_on_images_but_for_two_known_points(embedded, tokenizer, transformers_model, columns, rows):
    request = late_image(tokenizer, columns, rows)
    as_transformers = MetaReference(embedded, features_of_output=True, early_rows_attend=True)
    difference = logits_of(as_transformers, request) - logits_of_transformers(transformers_model, embedded, request)
    assert difference.abs().max() < TOLERANCE


def test_transformers_answers_about_images_differ_from_metas(embedded, tokenizer, reference, transformers_model):
    request = late_image(tokenizer)
    difference = logits_of(reference, request) - logits_of_transformers(transformers_model, embedded, request)
    assert difference[-1].abs().max() > 0.01


@pytest.mark.parametrize("point", ["features_of_output", "early_rows_attend"])
def test_each_of_the_two_points_alone_shows_in_the_answer(embedded, tokenizer, reference, point):
    request = late_image(tokenizer)
    difference = logits_of(reference, request) - logits_of(MetaReference(embedded, **{point: True}), request)
    assert difference[-1].abs().max() > 0.01


# --- (a) a busy runner ---------------------------------------------------------------------------------------------------


def mixed_cases(tokenizer: Tokenizer) -> list[Case]:
    story = "Tell me about this picture. " * 8
    wide, tall = picture(4, 1, 10), picture(1, 3, 11)
    what, where = "What is in this image?", "Where is it?"
    return [
        Case("text, short", ask(tokenizer, "Hello!"), 20, 0),
        Case("image of 1 tile", ask(tokenizer, what, image=picture(1, 1, 1)), 28, 0),
        Case("text, long", raw_text(tokenizer, 330, seed=1), 6, 1),
        Case("image of 2 tiles side by side", ask(tokenizer, what, image=picture(2, 1, 2)), 15, 1),
        Case("image of 4 tiles", ask(tokenizer, what, image=picture(2, 2, 4)), 12, 2),
        Case("text over the end of the first keys", raw_text(tokenizer, 250, seed=2), 12, 3),
        Case("image of 1 × 4 tiles, long question", ask(tokenizer, story, image=wide), 10, 4),
        Case("image of 3 × 1 tiles", ask(tokenizer, where, image=tall), 9, 9),
        Case("image in the first of three turns", ask(tokenizer, what, "A dog.", where, image=picture(1.5, 0.7, 5)), 14, 9),
        Case("image in the second question", ask(tokenizer, "Hi", "Hi!", what, image=picture(0.6, 0.4, 6), image_turn=2), 3, 10),
        Case("text-only follow-up", ask(tokenizer, "What is 1 + 1?", "2", "And 2 + 2?"), 17, 11),
        Case("image of 1 × 2 tiles, one token", ask(tokenizer, what, image=picture(1, 2, 7)), 1, 30),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("choose_slot", [min, random.Random(4).choice], ids=["lowest", "any"])
def test_requests_that_join_and_leave_a_full_runner_are_answered_as_if_alone(tokenizer, reference, runner, choose_slot):
    cases = mixed_cases(tokenizer)
    run_all(runner, cases, choose_slot)
    for case in cases:
        assert_as_meta(reference, case)


def test_the_mixed_requests_have_the_tiles_their_names_promise_and_different_answers(tokenizer, reference):
    cases = mixed_cases(tokenizer)
    ratios = set()
    for case in cases:
        if case.request.image is not None:
            made = reference.processor(images=[[case.request.image.pixels]], return_tensors="pt")
            ratios.add(tuple(reference.eyes["supported_aspect_ratios"][int(made["aspect_ratio_ids"][0, 0]) - 1]))
    assert ratios >= {(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (3, 1)}
    what = [c.request for c in cases if c.request.image is not None and len(c.request.prompt_ids) < 40][:4]
    answers = {tuple(reference.greedy(r.prompt_ids, r.image.pixels, 8)[0]) for r in what if r.image is not None}
    assert len(answers) > 1, "the image must matter, or these tests show nothing"


# --- (b) slots used again, (c) slots that sit out ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("slot", [0, 2])
def test_a_slot_forgets_its_last_image_and_its_last_text(tokenizer, reference, runner, slot):
    what = "What is in this image?"
    follow = [
        Case("image", ask(tokenizer, what, image=picture(2, 2, 20)), 8),
        Case("text after an image", ask(tokenizer, "Who are you?"), 8),
        Case("image after text", ask(tokenizer, what, image=picture(1, 1, 21)), 8),
        Case("long text", raw_text(tokenizer, 300, seed=22), 3),
        Case("image after long text", ask(tokenizer, what, image=picture(3, 1, 23)), 8),
        Case("shorter image after image", ask(tokenizer, "Where?", image=picture(1, 2, 24)), 8),
    ]
    for case in follow:
        answer_in(runner, slot, case)
        assert_as_meta(reference, case)


def four_cases(tokenizer: Tokenizer, count: int) -> dict[int, Case]:
    what = "What is in this image?"
    return {
        0: Case("text", ask(tokenizer, "Hello!"), count),
        1: Case("image", ask(tokenizer, what, image=picture(2, 1, 30)), count),
        2: Case("long text", raw_text(tokenizer, 280, seed=31), count),
        3: Case("another image", ask(tokenizer, what, image=picture(2, 2, 32)), count),
    }


@pytest.mark.slow
def test_live_slots_that_are_not_named_keep_their_state(tokenizer, reference, runner):
    cases, chance = four_cases(tokenizer, 14), random.Random(33)
    for slot, case in cases.items():
        case.made.append(prefill(runner, slot, case.request))
    while unfinished := {slot: case for slot, case in cases.items() if not case.finished}:
        named = chance.sample(sorted(unfinished), chance.randint(1, len(unfinished)))
        decode(runner, {slot: cases[slot] for slot in named})
    for case in cases.values():
        assert_as_meta(reference, case)


def test_tokens_come_in_the_order_in_which_slots_are_named(tokenizer, reference, runner):
    cases = four_cases(tokenizer, 4)
    for slot, case in cases.items():
        case.made.append(prefill(runner, slot, case.request))
    for order in ([3, 0, 2, 1], [2, 3, 1, 0], [1, 0, 3, 2]):
        decode(runner, {slot: cases[slot] for slot in order})
    for case in cases.values():
        assert_as_meta(reference, case)


# --- (d) random numbers of one's own -------------------------------------------------------------------------------------


def unrelated_case(tokenizer: Tokenizer, number: int, count: int = 1000) -> Case:
    """Somebody else: text or image, greedy or random, 20 to 480 tokens long."""
    sampling = SamplingParams(temperature=1.5, seed=number) if number % 2 else GREEDY
    if number % 3:
        return Case("text", raw_text(tokenizer, [20, 240, 300, 480][number % 4], sampling, seed=number), count)
    return Case("image", ask(tokenizer, "What is it?", image=picture(1 + number % 2, 2, number), sampling=sampling), count)


def seeded_requests(tokenizer: Tokenizer, sampling: SamplingParams = HOT) -> dict[str, GenerationRequest]:
    question = "Tell me a long story about seven animals"
    return {
        "text": raw_text(tokenizer, 30, sampling, seed=40),
        "image": ask(tokenizer, question, image=picture(2, 1, 41), sampling=sampling),
    }


def tokens_alone(runner: TorchRunner, request: GenerationRequest, count: int) -> list[int]:
    case = Case("alone", request, count)
    answer_in(runner, 0, case)
    return case.tokens


@pytest.fixture(scope="module")
def alone(tokenizer: Tokenizer, shared_runner: TorchRunner) -> dict[str, list[int]]:
    """The answers to the seeded requests when nobody else is there."""
    return {kind: tokens_alone(shared_runner, request, 16) for kind, request in seeded_requests(tokenizer).items()}


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("slot", range(4))
def test_a_seed_gives_the_same_answer_among_strangers_that_stay(tokenizer, runner, alone, kind, slot):
    case = Case("mine", seeded_requests(tokenizer)[kind], 16)
    batch = {other: unrelated_case(tokenizer, 4 * slot + other) for other in range(4) if other != slot} | {slot: case}
    for other, member in batch.items():
        member.made.append(prefill(runner, other, member.request))
    while not case.finished:
        decode(runner, batch)
    assert case.tokens == alone[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("slot", range(4))
def test_a_seed_gives_the_same_answer_among_strangers_that_come_and_go(tokenizer, runner, alone, kind, slot):
    case, chance = Case("mine", seeded_requests(tokenizer)[kind], 16), random.Random(slot)
    case.made.append(prefill(runner, slot, case.request))
    unrelated: dict[int, Case] = {}
    for step in range(100):
        if case.finished:
            break
        place = chance.choice([other for other in range(4) if other != slot])
        if place in unrelated:
            runner.release(place)
            del unrelated[place]
        else:
            unrelated[place] = unrelated_case(tokenizer, step)
            unrelated[place].made.append(prefill(runner, place, unrelated[place].request))
        decode(runner, unrelated if step % 5 == 4 else {slot: case, **unrelated})
    assert case.tokens == alone[kind]


@pytest.mark.parametrize("kind", ["text", "image"])
def test_seeds_differ_in_their_answers(tokenizer, runner, kind):
    answers = set()
    for seed in range(4):
        sampling = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=seed)
        answers.add(tuple(tokens_alone(runner, seeded_requests(tokenizer, sampling)[kind], 20)))
    assert len(answers) == 4
