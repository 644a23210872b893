"""TorchRunner against Meta's computation written down by hand: slots, batches and caches must not show in the answers."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from meta_reference import MetaReference
from PIL import Image, ImageDraw
from transformers import MllamaForConditionalGeneration
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from mllama_demo.backend.base import Event, FinishEvent, GenerationRequest, TokenEvent
from mllama_demo.backend.runner import Sampled
from mllama_demo.backend.scheduler import Scheduler
from mllama_demo.backend.torch_runner import TorchRunner
from mllama_demo.conversation import ImageRef, Message
from mllama_demo.errors import BadRequest
from mllama_demo.images import LoadedImage, load_image
from mllama_demo.prompt import encode_chat
from mllama_demo.sampling import SamplingParams
from mllama_demo.tokenizer import IncrementalText, Tokenizer

TILE = 84
TOLERANCE = 1e-4
GREEDY = SamplingParams(temperature=0.0)
HOT = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=11)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def reference(embedded: Path) -> MetaReference:
    return MetaReference(embedded)


@pytest.fixture(scope="module")
def transformers_model(embedded: Path) -> MllamaForConditionalGeneration:
    """transformers' own computation, untouched."""
    return MllamaForConditionalGeneration.from_pretrained(embedded, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def shared_runner(embedded: Path) -> TorchRunner:
    return TorchRunner.load(embedded, slots=4, max_seq_len=512)


@pytest.fixture
def runner(shared_runner: TorchRunner) -> Iterator[TorchRunner]:
    """Four slots, all free, with whatever earlier tests left in their caches."""
    yield shared_runner
    for slot in range(shared_runner.slots):
        shared_runner.release(slot)


# --- pictures and prompts ------------------------------------------------------------------------------------------------


def picture(columns: float, rows: float, seed: int) -> LoadedImage:
    """Coloured shapes on a canvas of columns × rows tiles."""
    chance = random.Random(seed)
    width, height = round(columns * TILE), round(rows * TILE)
    image = Image.new("RGB", (width, height), tuple(chance.randint(0, 255) for _ in range(3)))
    draw = ImageDraw.Draw(image)
    for shape in (draw.ellipse, draw.rectangle, draw.ellipse, draw.rectangle):
        x, y, size = chance.randint(0, width - 30), chance.randint(0, height - 30), chance.randint(20, 60)
        shape((x, y, x + size, y + size), fill=tuple(chance.randint(0, 255) for _ in range(3)))
    file = io.BytesIO()
    image.save(file, "PNG")
    return load_image(file.getvalue(), f"{seed}.png")


def ask(
    tokenizer: Tokenizer,
    *texts: str,
    image: LoadedImage | None = None,
    image_turn: int = 0,
    sampling: SamplingParams = GREEDY,
) -> GenerationRequest:
    """A request whose texts are by turns the user's and the assistant's; the image belongs to turn image_turn."""
    ref = None if image is None else ImageRef(image.digest, image.name, image.width, image.height)
    messages = tuple(
        Message("assistant" if turn % 2 else "user", text, ref if turn == image_turn else None) for turn, text in enumerate(texts)
    )
    return GenerationRequest(tuple(encode_chat(messages, tokenizer)), sampling, image, trace=True)


def raw_text(tokenizer: Tokenizer, length: int, sampling: SamplingParams = GREEDY, seed: int = 0) -> GenerationRequest:
    """A text-only request of exactly `length` tokens."""
    chance = random.Random(seed)
    words = ["red", "green", "circle", "square", "dog", "what", "where", "seven", "the", "picture"]
    ids = tokenizer.encode(" ".join(chance.choice(words) for _ in range(length)))[: length - 1]
    return GenerationRequest((tokenizer.special_id("<|begin_of_text|>"), *ids), sampling, trace=True)


@dataclass
class Case:
    """A request, how many tokens to make of it, and what came out."""

    name: str
    request: GenerationRequest
    count: int
    arrives: int = 0
    made: list[Sampled] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        return [sampled.token_id for sampled in self.made]

    @property
    def finished(self) -> bool:
        return len(self.made) >= self.count


def run_all(runner: TorchRunner, cases: Sequence[Case], choose_slot: Callable[[list[int]], int] = min) -> None:
    """The everyday schedule: each step admits what has arrived while slots are free, decodes all live, releases the done."""
    waiting, live, step = list(cases), {}, 0
    while waiting or live:
        free = [slot for slot in range(runner.slots) if slot not in live]
        for case in [c for c in waiting if c.arrives <= step][: len(free)]:
            waiting.remove(case)
            slot = choose_slot(free)
            free.remove(slot)
            case.made.append(runner.prefill(slot, case.request))
            live[slot] = case
        decode(runner, {slot: case for slot, case in live.items() if not case.finished})
        for slot in [slot for slot, case in live.items() if case.finished]:
            runner.release(slot)
            del live[slot]
        step += 1


def decode(runner: TorchRunner, cases: dict[int, Case]) -> None:
    """One step of the given slots, in the order given."""
    if cases:
        for case, sampled in zip(cases.values(), runner.decode(list(cases)), strict=True):
            case.made.append(sampled)


def answer_in(runner: TorchRunner, slot: int, case: Case) -> None:
    """The whole answer in one slot, nobody else being served meanwhile."""
    case.made.append(runner.prefill(slot, case.request))
    while not case.finished:
        decode(runner, {slot: case})
    runner.release(slot)


def assert_as_meta(reference: MetaReference, case: Case) -> None:
    """Greedy tokens, the recorded candidates and the mass of the whole vocabulary are those of the reference."""
    image = None if case.request.image is None else case.request.image.pixels
    tokens, logits = reference.greedy(case.request.prompt_ids, image, case.count)
    assert case.tokens == tokens, case.name
    for step, (sampled, expected) in enumerate(zip(case.made, logits, strict=True)):
        trace, where = sampled.trace, f"{case.name}, token {step}"
        assert trace is not None, where
        recorded = torch.tensor(trace.logits)
        assert (recorded - expected[list(trace.token_ids)]).abs().max() < TOLERANCE, where
        assert abs(trace.log_mass - float(expected.logsumexp(0))) < TOLERANCE, where
        others = expected.clone()
        others[list(trace.token_ids)] = float("-inf")
        assert others.max() < recorded.min() + 2 * TOLERANCE, f"{where}: a likelier candidate is not on record"


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


def test_live_slots_that_are_not_named_keep_their_state(tokenizer, reference, runner):
    cases, chance = four_cases(tokenizer, 14), random.Random(33)
    for slot, case in cases.items():
        case.made.append(runner.prefill(slot, case.request))
    while unfinished := {slot: case for slot, case in cases.items() if not case.finished}:
        named = chance.sample(sorted(unfinished), chance.randint(1, len(unfinished)))
        decode(runner, {slot: cases[slot] for slot in named})
    for case in cases.values():
        assert_as_meta(reference, case)


def test_tokens_come_in_the_order_in_which_slots_are_named(tokenizer, reference, runner):
    cases = four_cases(tokenizer, 4)
    for slot, case in cases.items():
        case.made.append(runner.prefill(slot, case.request))
    for order in ([3, 0, 2, 1], [2, 3, 1, 0], [1, 0, 3, 2]):
        decode(runner, {slot: cases[slot] for slot in order})
    for case in cases.values():
        assert_as_meta(reference, case)


# --- (d) random numbers of one's own -------------------------------------------------------------------------------------


def stranger(tokenizer: Tokenizer, number: int, count: int = 1000) -> Case:
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
    batch = {other: stranger(tokenizer, 4 * slot + other) for other in range(4) if other != slot} | {slot: case}
    for other, member in batch.items():
        member.made.append(runner.prefill(other, member.request))
    while not case.finished:
        decode(runner, batch)
    assert case.tokens == alone[kind]


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("slot", range(4))
def test_a_seed_gives_the_same_answer_among_strangers_that_come_and_go(tokenizer, runner, alone, kind, slot):
    case, chance = Case("mine", seeded_requests(tokenizer)[kind], 16), random.Random(slot)
    case.made.append(runner.prefill(slot, case.request))
    strangers: dict[int, Case] = {}
    for step in range(100):
        if case.finished:
            break
        place = chance.choice([other for other in range(4) if other != slot])
        if place in strangers:
            runner.release(place)
            del strangers[place]
        else:
            strangers[place] = stranger(tokenizer, step)
            strangers[place].made.append(runner.prefill(place, strangers[place].request))
        decode(runner, strangers if step % 5 == 4 else {slot: case, **strangers})
    assert case.tokens == alone[kind]


@pytest.mark.parametrize("kind", ["text", "image"])
def test_seeds_differ_in_their_answers(tokenizer, runner, kind):
    answers = set()
    for seed in range(4):
        sampling = SamplingParams(temperature=0.9, top_p=0.95, top_k=50, seed=seed)
        answers.add(tuple(tokens_alone(runner, seeded_requests(tokenizer, sampling)[kind], 20)))
    assert len(answers) == 4


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


@pytest.mark.parametrize("neighbour_length", [60, 90, 94])
def test_sequences_reach_the_last_position_beside_others_that_sit_out(tokenizer, reference, short_runner, neighbour_length):
    """The second slot is fed up to and including position 95, with pauses in which the first goes on, and the reverse."""
    runner = short_runner
    image = picture(2, 1, 55)
    case = Case("to the end", ask(tokenizer, "What is in this image? " * 4, image=image), 0)
    case.count = runner.max_seq_len - len(case.request.prompt_ids) + 1
    neighbour = Case("neighbour", raw_text(tokenizer, neighbour_length, seed=56), 97 - neighbour_length)
    for slot, member in ((0, neighbour), (1, case)):
        member.made.append(runner.prefill(slot, member.request))
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
        return runner.prefill(1, request)
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
    neighbour.made.append(runner.prefill(0, neighbour.request))
    decode(runner, {0: neighbour})
    with pytest.raises(BadRequest, match="image"):
        runner.prefill(1, broken_requests(tokenizer)[name])
    decode(runner, {0: neighbour})
    runner.release(1)
    follower.made.append(runner.prefill(1, follower.request))
    while not neighbour.finished:
        decode(runner, {1: follower, 0: neighbour} if not follower.finished else {0: neighbour})
    assert_as_meta(reference, neighbour)
    assert_as_meta(reference, follower)


def test_a_live_slot_is_not_prefilled_over(tokenizer, reference, runner):
    case = Case("here first", ask(tokenizer, "What is it?", image=picture(2, 1, 75)), 6)
    case.made.append(runner.prefill(2, case.request))
    for intruder in (ask(tokenizer, "Hello!"), ask(tokenizer, "And this?", image=picture(1, 1, 76))):
        with pytest.raises(ValueError, match="slot 2"):
            runner.prefill(2, intruder)
        decode(runner, {2: case})
    while not case.finished:
        decode(runner, {2: case})
    assert_as_meta(reference, case)


def test_releasing_a_free_slot_does_nothing(tokenizer, reference, runner):
    case = Case("text", ask(tokenizer, "Hello!"), 4)
    runner.release(1)
    case.made.append(runner.prefill(0, case.request))
    while not case.finished:
        runner.release(1)
        decode(runner, {0: case})
    assert_as_meta(reference, case)
