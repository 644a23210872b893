"""TorchRunner with a prefix cache against one without: answers and traces are equal to the last bit, and less is read."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.engine.runner import prefill
from mllama_demo.engine.torch.prompt_pieces import PIECE_TOKENS
from mllama_demo.engine.torch.runner import TorchRunner
from mllama_demo.sampling import SamplingParams
from tests.support.prefix_caches import WARM_SAMPLING, Dialogue, Reply, answer, assert_same, begin, load, long
from tests.support.torch_runner_cases import GREEDY, Case, answer_in, ask, assert_as_meta, picture, raw_text

# --- what is reused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [None, picture(2, 1, 1)], ids=["text", "image"])
def test_over_many_turns_only_what_is_new_is_read(tokenizer, cached, uncached, image) -> None:
    dialogue, before = Dialogue(tokenizer, image), 0
    for turn, topic in enumerate(("dog", "circle", "house", "star")):
        request = dialogue.ask(long(topic))
        reply = assert_same(cached, uncached, request)
        length = len(request.prompt_ids)
        assert reply.reused == before // PIECE_TOKENS * PIECE_TOKENS
        assert reply.calls == -(-(length - reply.reused) // PIECE_TOKENS) + (turn == 0 and image is not None)
        dialogue.answered(reply.made)
        before = length
    assert before > 4 * PIECE_TOKENS


def test_the_same_prompt_again_is_not_read_at_all(tokenizer, cached, uncached) -> None:
    request = Dialogue(tokenizer, picture(2, 1, 1)).ask("What is it?", WARM_SAMPLING)
    first = assert_same(cached, uncached, request)
    again = assert_same(cached, uncached, request)
    assert (first.reused, again.reused, again.calls) == (0, len(request.prompt_ids), 1)


def test_a_prompt_that_is_the_beginning_of_another_one_is_read_from_its_last_piece_on(tokenizer, cached, uncached) -> None:
    whole = raw_text(tokenizer, 300, seed=3)
    assert_same(cached, uncached, whole)
    part = GenerationRequest(whole.prompt_ids[: 3 * PIECE_TOKENS], GREEDY, trace=True)
    assert assert_same(cached, uncached, part).reused == 2 * PIECE_TOKENS


def test_an_edited_turn_is_read_from_the_edit_on_and_the_former_version_is_kept(tokenizer, cached, uncached) -> None:
    dialogue, length = Dialogue(tokenizer, picture(1, 2, 2)), 0
    for topic in ("dog", "circle", "house"):
        request = dialogue.ask(long(topic))
        dialogue.answered(assert_same(cached, uncached, request).made)
        length = len(request.prompt_ids)
    edited = Dialogue(tokenizer, dialogue.image, texts=dialogue.texts[:2])
    assert assert_same(cached, uncached, edited.ask(long("tree"))).reused >= PIECE_TOKENS
    assert assert_same(cached, uncached, dialogue.ask("And now?")).reused == length // PIECE_TOKENS * PIECE_TOKENS


def test_another_image_at_the_same_place_shares_nothing_after_it(tokenizer, cached, uncached) -> None:
    texts = [long("dog"), "Yes.", long("circle")]
    one, other = (Dialogue(tokenizer, picture(2, 1, seed), 2, texts[:2]) for seed in (1, 2))
    assert_same(cached, uncached, one.ask(texts[2]))
    reply = assert_same(cached, uncached, other.ask(texts[2]))
    assert 0 < reply.reused <= len(ask(tokenizer, *texts[:2]).prompt_ids)
    at_the_start = [Dialogue(tokenizer, picture(2, 1, seed)).ask(long("dog")) for seed in (1, 2)]
    assert [assert_same(cached, uncached, request).reused for request in at_the_start] == [0, 0]


def test_a_conversation_goes_on_without_its_image_and_with_it_again(tokenizer, cached, uncached) -> None:
    image, texts = picture(2, 2, 3), [long("dog"), "Yes.", long("circle")]
    with_image, without = ask(tokenizer, *texts, image=image), ask(tokenizer, *texts)
    for request in (with_image, without, with_image, without):
        assert_same(cached, uncached, request)
    assert assert_same(cached, uncached, with_image).reused == len(with_image.prompt_ids)


def test_another_question_about_an_image_does_not_read_the_image_again(tokenizer, embedded, uncached) -> None:
    """Whatever the slot, and although no encoded image is remembered."""
    runner, image = load(embedded, slots=2, prefix_cache_mb=64, vision_cache_size=0), picture(2, 1, 4)
    encodings: list[int] = []
    runner._model.model.vision_model.register_forward_hook(lambda *_: encodings.append(1))
    for question in ("What is it?", "Where is it?"):
        assert_same(runner, uncached, ask(tokenizer, question, image=image))
    slot, _ = begin(runner, ask(tokenizer, "What colour?", image=image), [0, 1])
    _, beside = begin(runner, ask(tokenizer, "How many?", image=image), [1 - slot])
    assert beside.made == answer(uncached, ask(tokenizer, "How many?", image=image), 1).made
    assert len(encodings) == 1


# --- slots and the store -------------------------------------------------------------------------------------------------


def test_a_conversation_gets_its_slot_back_and_a_stranger_another_one(tokenizer, cached) -> None:
    mine, stranger = Dialogue(tokenizer), Dialogue(tokenizer)
    slot, reply = begin(cached, mine.ask(long("dog")), [0, 1])
    cached.release(slot)
    mine.answered(reply.made)
    assert cached.choose_slot([0, 1], stranger.ask(long("house"))) == 1 - slot
    assert cached.choose_slot([0, 1], mine.ask("And now?")) == slot


@pytest.mark.slow
def test_two_conversations_in_one_slot_find_what_they_lost_in_the_store(tokenizer, embedded, uncached_slot) -> None:
    runner = load(embedded, slots=1, prefix_cache_mb=64)
    dialogues = [Dialogue(tokenizer, picture(2, 1, 5)), Dialogue(tokenizer, picture(1, 2, 6))]
    lengths = [0, 0]
    for topic in ("dog", "circle", "house"):
        for index, dialogue in enumerate(dialogues):
            request = dialogue.ask(long(topic))
            reply = assert_same(runner, uncached_slot, request)
            assert reply.reused == lengths[index] // PIECE_TOKENS * PIECE_TOKENS
            lengths[index] = len(request.prompt_ids)
            dialogue.answered(reply.made)


def test_a_conversation_is_copied_out_of_a_slot_that_is_in_use(tokenizer, cached, uncached) -> None:
    """As the cells of a grid in Explore, which have one prompt and different seeds."""
    base = Dialogue(tokenizer, picture(2, 1, 7)).ask(long("dog"))
    requests = [GenerationRequest(base.prompt_ids, SamplingParams(1.5, seed=seed), base.image, trace=True) for seed in (1, 2)]
    slots: list[int] = []
    replies: list[Reply] = []
    for request in requests:
        slot, reply = begin(cached, request, [free for free in (0, 1) if free not in slots])
        slots, replies = [*slots, slot], [*replies, reply]
    for _ in range(3):
        for reply, sampled in zip(replies, cached.decode(slots), strict=True):
            reply.made.append(sampled)
    assert [reply.reused for reply in replies] == [0, len(base.prompt_ids)]
    assert [reply.made for reply in replies] == [answer(uncached, request).made for request in requests]


@pytest.mark.slow
def test_the_store_stays_within_its_bound_and_forgets_what_was_not_used_for_longest(tokenizer, embedded, uncached_slot) -> None:
    runner = load(embedded, slots=1, prefix_cache_mb=1)
    sizes = []
    requests = [raw_text(tokenizer, 250, seed=seed) for seed in range(8)]
    for request in requests:
        assert_same(runner, uncached_slot, request, 1)
        sizes.append(runner._prefixes.stored_bytes)
    assert max(sizes) <= 2**20
    assert sizes[-1] > 0.7 * 2**20, "the store is full"
    assert assert_same(runner, uncached_slot, requests[-2], 1).reused == 250
    assert assert_same(runner, uncached_slot, requests[0], 1).reused == 0


def test_an_entry_larger_than_the_store_is_not_kept(tokenizer, embedded, uncached_slot) -> None:
    runner = load(embedded, slots=1, prefix_cache_mb=1)
    runner._prefixes._limit = 1000
    for seed in (1, 2, 1):
        assert assert_same(runner, uncached_slot, raw_text(tokenizer, 100, seed=seed), 1).reused == 0
    assert runner._prefixes.stored_bytes == 0


def test_switched_off_nothing_is_reused_in_the_same_slot_either(tokenizer, uncached) -> None:
    request = Dialogue(tokenizer, picture(2, 1, 8)).ask(long("dog"))
    replies = [answer(uncached, request) for _ in range(2)]
    assert replies[0] == replies[1]
    assert (replies[1].reused, replies[1].calls) == (0, 1 + -(-len(request.prompt_ids) // PIECE_TOKENS))


# --- answers that are not read again -------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [None, picture(2, 1, 11)], ids=["text", "image"])
def test_with_the_option_an_answer_is_not_read_again_and_answers_are_equal_up_to_rounding(
    tokenizer, embedded, reference, image
) -> None:
    runner = load(embedded, slots=1, prefix_cache_mb=64, prefix_cache_answers=True)
    first = ask(tokenizer, "Tell me a story.", image=image)
    story = [sampled.token_id for sampled in answer(runner, first, 3 * PIECE_TOKENS).made]
    follow_up = GenerationRequest((*first.prompt_ids, *story[:-1], *tokenizer.encode("Go on.")), GREEDY, image, trace=True)
    assert len(first.prompt_ids) < PIECE_TOKENS
    slot, reply = begin(runner, follow_up, [0])
    assert reply.reused == (len(first.prompt_ids) + len(story) - 1) // PIECE_TOKENS * PIECE_TOKENS
    reply.made += [runner.decode([slot])[0] for _ in range(4)]
    runner.release(slot)
    assert_as_meta(reference, Case("follow-up", follow_up, 5, made=reply.made))
    again = Case("the first question again", first, 3)
    assert runner.begin(0, first) == len(first.prompt_ids), "the end of its prompt is in the store"
    runner.release(0)
    answer_in(runner, 0, again)
    assert_as_meta(reference, again)


# --- any sequence of requests --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(embedded: Path) -> TorchRunner:
    """Two slots and a store that is too small for the dialogues."""
    return TorchRunner.load(embedded, slots=2, max_seq_len=256, prefix_cache_mb=1)


@pytest.fixture(scope="module")
def plain(embedded: Path) -> TorchRunner:
    return TorchRunner.load(embedded, slots=2, max_seq_len=256)


IMAGES = [None, picture(1, 1, 1), picture(2, 1, 2)]
QUESTIONS = ["What is it?", "Where is the red circle? " * 5, "Tell me a story about the dog and the house. " * 4]


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rng=st.randoms(use_true_random=False), steps=st.integers(1, 8))
def test_any_sequence_of_requests_is_answered_as_without_a_cache(tokenizer, small, plain, rng: random.Random, steps: int) -> None:
    """Turns are added and edited, images swapped and removed; a request may be left half read, or run beside the next one."""
    dialogues = [Dialogue(tokenizer, rng.choice(IMAGES)) for _ in range(2)]
    running: set[int] = set()
    small._prefixes.clear()
    try:
        for _ in range(steps):
            any_step(small, plain, rng, rng.choice(dialogues), running)
    finally:
        for slot in (0, 1):
            small.release(slot)
            plain.release(slot)


def any_step(small: TorchRunner, plain: TorchRunner, rng: random.Random, dialogue: Dialogue, running: set[int]) -> None:
    """The same in both runners, with the same requests side by side."""
    if dialogue.texts and rng.random() < 0.3:  # an earlier turn is edited
        dialogue.texts = dialogue.texts[: rng.randrange(0, len(dialogue.texts), 2)]
    dialogue.image = rng.choice(IMAGES) if rng.random() < 0.2 else dialogue.image
    request = dialogue.ask(rng.choice(QUESTIONS), SamplingParams(temperature=rng.choice([0.0, 1.3]), seed=rng.randrange(3)))
    if len(request.prompt_ids) > 250:
        dialogue.texts = []
        return
    slot = small.choose_slot([free for free in (0, 1) if free not in running], request)
    if rng.random() < 0.2:  # a visitor leaves
        small.begin(slot, request)
        if rng.random() < 0.5:
            small.read_piece(slot)
        small.release(slot)
        dialogue.texts.pop()
        return
    made = [prefill(small, slot, request)]
    assert made == [prefill(plain, slot, request)]
    running.add(slot)
    for _ in range(rng.randrange(4)):
        sampled = small.decode(sorted(running))
        assert sampled == plain.decode(sorted(running))
        made.append(sampled[sorted(running).index(slot)])
    dialogue.answered(made)
    for used in [used for used in sorted(running) if len(running) == 2 or rng.random() < 0.5]:
        running.remove(used)
        small.release(used)
        plain.release(used)
    assert small._prefixes.stored_bytes <= 2**20
