"""From a conversation to a request and back: what is drawn, loaded, left out and written down on the way."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any

import pytest
from PIL import Image

from mllama_demo.chat.conversation import Conversation, ImageRef, Message
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import GenerationRequest, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.errors import BackendBusy, BackendUnavailable, DemoError, NotFound, PromptTooLong
from mllama_demo.generation.service import DECODED_IMAGES, Answer, GenerationService
from mllama_demo.images.loading import load_image
from mllama_demo.sampling import BOUNDS, SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from tests.support.manual_backend import READ, SPECIAL, CodePoints, ManualBackend, finished, talk

pytestmark = pytest.mark.timeout(60)


class CountingStore(ConversationStore):
    """Counts how often each image is read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: list[str] = []

    def image_bytes(self, digest: str) -> bytes:
        self.reads.append(digest)
        return super().image_bytes(digest)

    def put_picture(self, name: str, width: int = 8, height: int = 6, color: Any = "red") -> ImageRef:
        file = io.BytesIO()
        Image.new("RGB", (width, height), color).save(file, "PNG")
        return self.put_image(load_image(file.getvalue(), name))


@pytest.fixture
def store() -> Iterator[CountingStore]:
    store = CountingStore(Database("sqlite://"))
    yield store
    store.database.close()


@pytest.fixture
def backend() -> ManualBackend:
    return ManualBackend()


@pytest.fixture
def answerer(backend, store) -> GenerationService:
    return new_answerer(backend, store)


def new_answerer(backend: ManualBackend, store: ConversationStore, **settings: Any) -> GenerationService:
    return GenerationService(backend, CodePoints(), store, Settings(**settings))


async def answered(
    answerer: GenerationService,
    conversation: Conversation,
    sampling: SamplingParams = SamplingParams(),
    *said: str,
    time_limit_s: float = math.inf,
) -> tuple[GenerationRequest, list[Answer]]:
    """The request that the backend got, and each state of the answer to it."""
    backend: Any = answerer.backend

    async def read() -> list[Answer]:
        async with aclosing(answerer.answer(conversation, sampling, "the-id", time_limit_s)) as states:
            return [state async for state in states]

    async def send() -> GenerationRequest:
        request = await backend.taken()
        backend.send(READ)
        backend.say(*said)
        backend.send(finished(tokens=len(said)))
        return request

    states, request = await asyncio.gather(read(), send())
    return request, states


async def first(answerer: GenerationService, conversation: Conversation) -> Answer:
    """The first state of an answer; raises what prevents it."""
    async with aclosing(answerer.answer(conversation, SamplingParams(), "the-id")) as states:
        return await anext(states)


def spelled(request: GenerationRequest) -> str:
    """The prompt as text, with a mark for each special token."""
    return "".join("¤" if SPECIAL <= id < SPECIAL + 10 else chr(id) for id in request.prompt_ids)


# --- the request ---------------------------------------------------------------------------------------------------------


async def test_a_missing_seed_is_drawn_sent_and_written_down(answerer) -> None:
    seeds = set()
    for _ in range(3):
        request, states = await answered(answerer, talk("Hello?"))
        seed = request.sampling.seed
        assert seed is not None
        assert BOUNDS["seed"].minimum <= seed <= BOUNDS["seed"].maximum
        assert {state.sampling.seed for state in states} == {seed}
        assert answerer.message(states[-1]).metadata["sampling"]["seed"] == seed
        seeds.add(seed)
    assert len(seeds) > 1, "the same seed is drawn again and again"


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
async def test_a_given_seed_is_used_as_it_is(answerer, seed: int) -> None:
    sampling = SamplingParams(temperature=1.5, top_k=3, seed=seed, stop=("!",))
    request, states = await answered(answerer, talk("Hello?"), sampling)
    assert request.sampling == sampling
    assert states[-1].sampling == sampling


async def test_the_request_carries_its_id_its_conversation_and_the_time_limit(backend, store) -> None:
    conversation = talk("Hello?")
    request, states = await answered(new_answerer(backend, store, request_time_limit_s=33.0), conversation)
    assert (request.id, request.conversation_id, request.time_limit_s) == ("the-id", conversation.id, 33.0)
    assert {state.request_id for state in states} == {"the-id"}


@pytest.mark.parametrize(("own", "used"), [(5.0, 5.0), (50.0, 33.0)])
async def test_an_answer_may_have_less_time_than_the_deployment_gives_but_not_more(
    backend, store, own: float, used: float
) -> None:
    answerer = new_answerer(backend, store, request_time_limit_s=33.0)
    assert (await answered(answerer, talk("Hello"), time_limit_s=own))[0].time_limit_s == used


async def test_the_prompt_holds_the_deployments_system_prompt_and_every_turn(backend, store) -> None:
    answerer = new_answerer(backend, store, system_prompt="Be brief.")
    request, states = await answered(answerer, talk("Hello?", "Hi.", "And now?"))
    turns = ["Be brief.", "Hello?", "Hi.", "And now?"]
    places = [spelled(request).index(turn) for turn in turns]
    assert places == sorted(places)
    assert states[-1].dropped == 0


async def test_the_newest_image_is_what_the_model_sees(answerer, store) -> None:
    old, new = store.put_picture("old.png", color="red"), store.put_picture("new.png", 16, 4, color="blue")
    turns = (Message("user", "This?", old), Message("assistant", "Red."), Message("user", "And this?", new))
    request, states = await answered(answerer, Conversation((*turns, Message("assistant", "Blue."), Message("user", "Sure?"))))
    assert request.image is not None
    assert (request.image.digest, request.image.pixels.size) == (new.digest, (16, 4))
    assert request.image.pixels.getpixel((0, 0)) == (0, 0, 255)
    assert {state.image for state in states} == {new}
    assert store.reads == [new.digest], "only the image that is seen is decoded"


async def test_without_an_image_none_is_sent(answerer) -> None:
    request, states = await answered(answerer, talk("Hello?"))
    assert request.image is None
    assert states[-1].image is None


async def test_an_image_is_decoded_once_for_the_questions_about_it(answerer, store) -> None:
    picture = store.put_picture("a.png")
    conversation = Conversation((Message("user", "What is it?", picture),))
    for _ in range(3):
        await answered(answerer, conversation)
    assert store.reads == [picture.digest]


def test_the_image_used_longest_ago_makes_room_for_a_new_one(answerer, store) -> None:
    pictures = [store.put_picture(f"{n}.png", color=(n, n, n)) for n in range(DECODED_IMAGES + 1)]
    for picture in pictures[:-1]:
        answerer.load(picture)
    answerer.load(pictures[0])  # used again, so the second one is now the oldest
    answerer.load(pictures[-1])
    store.reads.clear()
    for picture in (pictures[0], *pictures[2:]):
        assert answerer.load(picture).digest == picture.digest
    assert store.reads == []
    assert answerer.load(pictures[1]).pixels.getpixel((0, 0)) == (1, 1, 1)
    assert store.reads == [pictures[1].digest]


async def test_what_did_not_fit_is_left_out_and_counted(store) -> None:
    backend = ManualBackend(context_length=200)
    answerer = new_answerer(backend, store)
    request, states = await answered(answerer, talk("a" * 60, "b" * 60, "c" * 30, "d" * 10, "And now?"))
    assert {state.dropped for state in states} == {2}
    assert "a" * 60 not in spelled(request)
    assert "b" * 60 not in spelled(request)
    assert "c" * 30 in spelled(request)
    assert answerer.message(states[-1]).metadata["dropped"] == 2


# --- failing -------------------------------------------------------------------------------------------------------------


async def test_a_question_too_long_is_refused_before_the_backend_hears_of_it(store) -> None:
    backend = ManualBackend(context_length=100)
    with pytest.raises(PromptTooLong):
        await first(new_answerer(backend, store), talk("x" * 200))
    assert backend.requests == []


async def test_an_image_that_is_gone_is_refused_before_the_backend_hears_of_it(answerer, backend) -> None:
    with pytest.raises(NotFound):
        await first(answerer, Conversation((Message("user", "This?", ImageRef("0" * 64, "gone.png", 8, 6)),)))
    assert backend.requests == []


@pytest.mark.parametrize("refusal", [BackendBusy("The queue is full."), BackendUnavailable("The model is loading.")])
async def test_a_refusal_of_the_backend_comes_before_the_first_state(answerer, backend, refusal: DemoError) -> None:
    backend.refusal = refusal
    with pytest.raises(type(refusal), match=str(refusal)):
        await first(answerer, talk("Hello?"))


async def test_closing_the_answer_closes_the_backends_stream(answerer, backend) -> None:
    async with aclosing(answerer.answer(talk("Hello?"), SamplingParams(), "the-id")) as states:
        beginning = asyncio.ensure_future(anext(states))
        await backend.taken()
        backend.send(READ)
        await beginning
        assert backend.closed == []
    assert backend.closed == ["the-id"]


# --- the answer ----------------------------------------------------------------------------------------------------------

NEW = Answer("the-id", SamplingParams(seed=1), None, 0)


def test_an_answer_waits_is_read_grows_and_is_done() -> None:
    waiting = NEW.after(QueueEvent(3, 12.5))
    assert (waiting.phase, waiting.position, waiting.estimated_wait_s) == ("waiting", 3, 12.5)
    reading = waiting.after(PrefillEvent(5, 0.5))
    assert (reading.phase, reading.position, reading.estimated_wait_s) == ("reading", None, None)
    writing = reading.after(TokenEvent(0, 7, "One")).after(TokenEvent(1, 8, ", two"))
    assert (writing.phase, writing.text, writing.finish) == ("writing", "One, two", None)
    last = finished(text=".")
    done = writing.after(last)
    assert (done.phase, done.text, done.finish) == ("done", "One, two.", last)
    assert NEW.text == "", "an answer is a value"


def test_an_answer_knows_how_long_it_was_read_and_written() -> None:
    waiting = NEW.after(QueueEvent(3, 12.5), now=10.0)
    assert waiting.since == 10.0
    reading = waiting.after(PrefillEvent(812, 0.5), now=12.0)
    assert (reading.prompt_tokens, reading.since, reading.read_s) == (812, 12.0, None)
    first = reading.after(TokenEvent(0, 7, "One"), now=15.0)
    assert (first.read_s, first.tokens, first.wrote_s) == (3.0, 1, 0.0)
    third = first.after(TokenEvent(1, 8, ""), now=16.0).after(TokenEvent(2, 8, "two"), now=17.0)
    assert (third.read_s, third.tokens, third.wrote_s) == (3.0, 3, 2.0)


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((32, 32), 1, 1), ((8, 6), 1, 1), ((64, 64), 2, 2), ((128, 20), 1, 4), ((20, 128), 4, 1)]
)
def test_the_message_says_which_image_was_seen_and_in_how_many_tiles(answerer, size: tuple[int, int], rows, columns) -> None:
    image = ImageRef("1" * 64, "boat.png", *size)
    message = answerer.message(replace(NEW, image=image, text="A boat.", finish=finished()))
    assert message.metadata["image"] == {**asdict(image), "rows": rows, "columns": columns}
    assert message.image is None, "the picture belongs to the question"


def test_the_message_counts_the_tiles_of_a_backend_that_always_uses_all(answerer) -> None:
    answerer.backend.info = replace(answerer.backend.info, full_canvas=True)
    for size, shape in (((32, 32), (2, 2)), ((90, 32), (1, 4)), ((32, 90), (4, 1))):
        facts = answerer.message(replace(NEW, image=ImageRef("1" * 64, "boat.png", *size))).metadata
        assert (facts["image"]["rows"], facts["image"]["columns"]) == shape


@pytest.mark.parametrize(("top_k", "limit"), [(0, 64), (65, 64), (64, None), (1, None)])
def test_the_message_says_when_the_backend_chose_among_fewer_than_was_asked_for(answerer, top_k, limit) -> None:
    answerer.backend.info = replace(answerer.backend.info, max_top_k=64)
    asked = replace(NEW, sampling=SamplingParams(top_k=top_k, seed=1))
    assert answerer.message(asked).metadata.get("top_k_limit") == limit
    assert "top_k_limit" not in answerer.message(replace(asked, sampling=asked.sampling.as_greedy())).metadata


def test_the_message_holds_the_text_and_every_figure_of_the_finish(answerer) -> None:
    message = answerer.message(replace(NEW, text="One, two.", dropped=4, finish=finished("max_tokens", tokens=5)))
    assert (message.role, message.text) == ("assistant", "One, two.")
    assert message.metadata == {
        "sampling": asdict(NEW.sampling),
        "dropped": 4,
        "reason": "max_tokens",
        "context_length": answerer.backend.info.context_length,
        "error": None,
        "prompt_tokens": 5,
        "completion_tokens": 5,
        "waited_s": 0.5,
        "ttft_s": 1.5,
        "tokens_per_second": 2.0,
    }


def test_an_answer_of_one_token_has_no_speed(answerer) -> None:
    assert answerer.message(replace(NEW, finish=finished(tokens=1))).metadata["tokens_per_second"] is None


def test_the_message_of_a_failed_answer_holds_the_cause(answerer) -> None:
    facts = answerer.message(replace(NEW, finish=finished("error", error="No power."))).metadata
    assert (facts["reason"], facts["error"]) == ("error", "No power.")


def test_the_message_of_an_answer_that_never_finished_has_its_text_and_no_figures(answerer) -> None:
    message = answerer.message(replace(NEW, phase="writing", text="One"))
    assert message.text == "One"
    assert set(message.metadata) == {"sampling", "dropped"}


async def test_a_message_comes_back_from_the_store_as_it_was(answerer, store) -> None:
    image = store.put_picture("boat.png")
    conversation = Conversation((Message("user", "What is it?", image),))
    _, states = await answered(answerer, conversation, SamplingParams(stop=("!",)), "A ", "boat")
    kept = conversation.add(answerer.message(states[-1]))
    store.save("me", kept)
    loaded = store.load("me", conversation.id).messages[-1]
    assert loaded.text == "A boat"
    assert loaded.metadata["image"]["name"] == "boat.png"
    assert loaded.metadata["tokens_per_second"] == kept.messages[-1].metadata["tokens_per_second"] == 0.5


# --- a backend that cannot do everything -----------------------------------------------------------------------------------


async def test_where_a_seed_has_no_effect_none_is_drawn_or_written_down(answerer, backend):
    backend.info = replace(backend.info, capabilities=frozenset({"images"}))
    request, states = await answered(answerer, talk("Hi"), SamplingParams(seed=7), "Hello")
    assert request.sampling.seed is None
    assert answerer.message(states[-1]).metadata["sampling"]["seed"] is None


async def test_where_nobody_tells_the_tiles_none_are_written_down(answerer, backend, store):
    backend.info = replace(backend.info, tile_size=0, max_tiles=0)
    conversation = Conversation((Message("user", "What is it?", store.put_picture("boat.png")),))
    _, states = await answered(answerer, conversation, SamplingParams(), "A boat")
    assert "rows" not in answerer.message(states[-1]).metadata["image"]


async def test_a_request_carries_its_turns_for_backends_that_send_text(answerer):
    request, _ = await answered(answerer, talk("Hi"), SamplingParams(), "Hello")
    assert [(turn.role, turn.text) for turn in request.messages] == [("user", "Hi")]


def test_estimated_figures_are_marked(answerer):
    answer = Answer("id", SamplingParams(seed=1), None, 0).after(replace(finished(), estimated=True))
    assert answerer.message(answer).metadata["estimated"] is True
