# pyright: reportArgumentType=false
"""GenerationService: the request for a conversation, the states of the answer, and the stored message."""

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
from mllama_demo.generation.service import Answer, GenerationService
from mllama_demo.images.loading import load_image
from mllama_demo.sampling import BOUNDS, SamplingParams
from mllama_demo.storage.conversations import ConversationStore
from mllama_demo.storage.database import Database
from tests.support.code_points import SPECIAL, CodePoints
from tests.support.manual_backend import READ, ManualBackend, conversation_of, finished

pytestmark = pytest.mark.timeout(60)


class CountingStore(ConversationStore):
    """Counts how often each image is read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.reads: list[str] = []

    def image_bytes(self, digest: str) -> bytes:
        self.reads.append(digest)
        return super().image_bytes(digest)

    def put_test_image(self, name: str, width: int = 8, height: int = 6, color: Any = "red") -> ImageRef:
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
def service(backend, store) -> GenerationService:
    return new_service(backend, store)


def new_service(backend: ManualBackend, store: ConversationStore, **settings: Any) -> GenerationService:
    return GenerationService(backend, CodePoints(), store, Settings(**settings))


async def answer(
    service: GenerationService,
    conversation: Conversation,
    sampling: SamplingParams = SamplingParams(),
    *said: str,
    time_limit_s: float = math.inf,
) -> tuple[GenerationRequest, list[Answer]]:
    """Answers a conversation with the texts `said`. Returns the request that the backend got, and all states of the answer."""
    backend: Any = service.backend

    async def read() -> list[Answer]:
        async with aclosing(service.answer(conversation, sampling, "the-id", time_limit_s)) as states:
            return [state async for state in states]

    async def send() -> GenerationRequest:
        request = await backend.taken()
        backend.send(READ)
        backend.say(*said)
        backend.send(finished(tokens=len(said)))
        return request

    states, request = await asyncio.gather(read(), send())
    return request, states


async def first(service: GenerationService, conversation: Conversation) -> Answer:
    """The first state of an answer."""
    async with aclosing(service.answer(conversation, SamplingParams(), "the-id")) as states:
        return await anext(states)


def prompt_text(request: GenerationRequest) -> str:
    """The prompt as text, with ¤ for each special token."""
    return "".join("¤" if SPECIAL <= id < SPECIAL + 10 else chr(id) for id in request.prompt_ids)


# --- the request ---------------------------------------------------------------------------------------------------------


async def test_a_missing_seed_is_drawn_sent_and_stored(service) -> None:
    seeds = set()
    for _ in range(3):
        request, states = await answer(service, conversation_of("Hello?"))
        seed = request.sampling.seed
        assert seed is not None
        assert BOUNDS["seed"].minimum <= seed <= BOUNDS["seed"].maximum
        assert {state.sampling.seed for state in states} == {seed}
        assert service.message(states[-1]).metadata["sampling"]["seed"] == seed
        seeds.add(seed)
    assert len(seeds) > 1, "the same seed is drawn again and again"


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
async def test_a_given_seed_is_used(service, seed: int) -> None:
    sampling = SamplingParams(temperature=1.5, top_k=3, seed=seed, stop=("!",))
    request, states = await answer(service, conversation_of("Hello?"), sampling)
    assert request.sampling == sampling
    assert states[-1].sampling == sampling


async def test_the_request_has_its_id_its_conversation_and_the_time_limit(backend, store) -> None:
    conversation = conversation_of("Hello?")
    request, states = await answer(new_service(backend, store, request_time_limit_s=33.0), conversation)
    assert (request.id, request.conversation_id, request.time_limit_s) == ("the-id", conversation.id, 33.0)
    assert {state.request_id for state in states} == {"the-id"}


@pytest.mark.parametrize(("own", "used"), [(5.0, 5.0), (50.0, 33.0)])
async def test_the_shorter_time_limit_applies(backend, store, own: float, used: float) -> None:
    service = new_service(backend, store, request_time_limit_s=33.0)
    assert (await answer(service, conversation_of("Hello"), time_limit_s=own))[0].time_limit_s == used


async def test_the_prompt_has_the_deployments_system_prompt_and_all_turns(backend, store) -> None:
    service = new_service(backend, store, system_prompt="Be brief.")
    request, states = await answer(service, conversation_of("Hello?", "Hi.", "And now?"))
    turns = ["Be brief.", "Hello?", "Hi.", "And now?"]
    places = [prompt_text(request).index(turn) for turn in turns]
    assert places == sorted(places)
    assert states[-1].dropped == 0


async def test_the_model_sees_the_newest_image(service, store) -> None:
    old, new = store.put_test_image("old.png", color="red"), store.put_test_image("new.png", 16, 4, color="blue")
    turns = (Message("user", "This?", old), Message("assistant", "Red."), Message("user", "And this?", new))
    request, states = await answer(service, Conversation((*turns, Message("assistant", "Blue."), Message("user", "Sure?"))))
    assert request.image is not None
    assert (request.image.digest, request.image.pixels.size) == (new.digest, (16, 4))
    assert request.image.pixels.getpixel((0, 0)) == (0, 0, 255)
    assert {state.image for state in states} == {new}
    assert store.reads == [new.digest], "only the image that is seen is decoded"


async def test_a_conversation_without_images_sends_none(service) -> None:
    request, states = await answer(service, conversation_of("Hello?"))
    assert request.image is None
    assert states[-1].image is None


async def test_an_image_is_decoded_once_for_several_questions(service, store) -> None:
    picture = store.put_test_image("a.png")
    conversation = Conversation((Message("user", "What is it?", picture),))
    for _ in range(3):
        await answer(service, conversation)
    assert store.reads == [picture.digest]


def test_the_least_recently_used_image_is_dropped_from_memory(service, store, monkeypatch) -> None:
    images = [store.put_test_image(f"{n}.png", color=(n, n, n)) for n in range(5)]
    room_for_four = sum(service.load(image).memory for image in images[:4])
    monkeypatch.setattr("mllama_demo.generation.service.DECODED_BYTES", room_for_four)
    service = new_service(ManualBackend(), store)
    for image in images[:-1]:
        service.load(image)
    service.load(images[0])  # used again, so the second one is now the oldest
    service.load(images[-1])
    store.reads.clear()
    for image in (images[0], *images[2:]):
        assert service.load(image).digest == image.digest
    assert store.reads == []
    assert service.load(images[1]).pixels.getpixel((0, 0)) == (1, 1, 1)
    assert store.reads == [images[1].digest]


async def test_messages_that_do_not_fit_are_left_out_and_counted(store) -> None:
    backend = ManualBackend(context_length=200)
    service = new_service(backend, store)
    request, states = await answer(service, conversation_of("a" * 60, "b" * 60, "c" * 30, "d" * 10, "And now?"))
    assert {state.dropped for state in states} == {2}
    assert "a" * 60 not in prompt_text(request)
    assert "b" * 60 not in prompt_text(request)
    assert "c" * 30 in prompt_text(request)
    assert service.message(states[-1]).metadata["dropped"] == 2


# --- failing -------------------------------------------------------------------------------------------------------------


async def test_a_prompt_that_is_too_long_is_not_sent_to_the_backend(store) -> None:
    backend = ManualBackend(context_length=100)
    with pytest.raises(PromptTooLong):
        await first(new_service(backend, store), conversation_of("x" * 200))
    assert backend.requests == []


async def test_a_question_about_a_missing_image_is_not_sent_to_the_backend(service, backend) -> None:
    with pytest.raises(NotFound):
        await first(service, Conversation((Message("user", "This?", ImageRef("0" * 64, "gone.png", 8, 6)),)))
    assert backend.requests == []


@pytest.mark.parametrize("refusal", [BackendBusy("The queue is full."), BackendUnavailable("The model is loading.")])
async def test_a_refusal_of_the_backend_is_raised_before_the_first_state(service, backend, refusal: DemoError) -> None:
    backend.refusal = refusal
    with pytest.raises(type(refusal), match=str(refusal)):
        await first(service, conversation_of("Hello?"))


async def test_closing_the_answer_closes_the_backends_stream(service, backend) -> None:
    async with aclosing(service.answer(conversation_of("Hello?"), SamplingParams(), "the-id")) as states:
        beginning = asyncio.ensure_future(anext(states))
        await backend.taken()
        backend.send(READ)
        await beginning
        assert backend.closed == []
    assert backend.closed == ["the-id"]


# --- the answer ----------------------------------------------------------------------------------------------------------

NEW = Answer("the-id", SamplingParams(seed=1), None, 0)


def test_an_answer_goes_through_the_phases_waiting_reading_writing_done() -> None:
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


def test_an_answer_measures_prefill_and_decoding() -> None:
    waiting = NEW.after(QueueEvent(3, 12.5), now=10.0)
    assert waiting.phase_began == 10.0
    reading = waiting.after(PrefillEvent(812, 0.5), now=12.0)
    assert (reading.prompt_tokens, reading.phase_began, reading.read_s) == (812, 12.0, None)
    first = reading.after(TokenEvent(0, 7, "One"), now=15.0)
    assert (first.read_s, first.tokens, first.wrote_s) == (3.0, 1, 0.0)
    third = first.after(TokenEvent(1, 8, ""), now=16.0).after(TokenEvent(2, 8, "two"), now=17.0)
    assert (third.read_s, third.tokens, third.wrote_s) == (3.0, 3, 2.0)


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((32, 32), 1, 1), ((8, 6), 1, 1), ((64, 64), 2, 2), ((128, 20), 1, 4), ((20, 128), 4, 1)]
)
def test_the_message_has_the_image_and_its_tile_layout(service, size: tuple[int, int], rows, columns) -> None:
    image = ImageRef("1" * 64, "boat.png", *size)
    message = service.message(replace(NEW, image=image, text="A boat.", finish=finished()))
    assert message.metadata["image"] == {**asdict(image), "rows": rows, "columns": columns}
    assert message.image is None, "the picture belongs to the question"


def test_the_message_has_the_tile_layout_of_a_full_canvas(service) -> None:
    service.backend.info = replace(service.backend.info, full_canvas=True)
    for size, shape in (((32, 32), (2, 2)), ((90, 32), (1, 4)), ((32, 90), (4, 1))):
        metadata = service.message(replace(NEW, image=ImageRef("1" * 64, "boat.png", *size))).metadata
        assert (metadata["image"]["rows"], metadata["image"]["columns"]) == shape


@pytest.mark.parametrize(("top_k", "limit"), [(0, 64), (65, 64), (64, None), (1, None)])
def test_the_message_has_the_top_k_limit_of_the_backend(service, top_k, limit) -> None:
    service.backend.info = replace(service.backend.info, max_top_k=64)
    asked = replace(NEW, sampling=SamplingParams(top_k=top_k, seed=1))
    assert service.message(asked).metadata.get("top_k_limit") == limit
    assert "top_k_limit" not in service.message(replace(asked, sampling=asked.sampling.as_greedy())).metadata


def test_the_message_has_the_text_and_all_figures_of_the_finish(service) -> None:
    message = service.message(replace(NEW, text="One, two.", dropped=4, finish=finished("max_tokens", tokens=5)))
    assert (message.role, message.text) == ("assistant", "One, two.")
    assert message.metadata == {
        "sampling": asdict(NEW.sampling),
        "dropped": 4,
        "reason": "max_tokens",
        "context_length": service.backend.info.context_length,
        "error": None,
        "prompt_tokens": 5,
        "completion_tokens": 5,
        "waited_s": 0.5,
        "ttft_s": 1.5,
        "tokens_per_second": 2.0,
    }


def test_an_answer_of_one_token_has_no_speed(service) -> None:
    assert service.message(replace(NEW, finish=finished(tokens=1))).metadata["tokens_per_second"] is None


def test_the_message_of_a_failed_answer_has_the_cause(service) -> None:
    metadata = service.message(replace(NEW, finish=finished("error", error="No power."))).metadata
    assert (metadata["reason"], metadata["error"]) == ("error", "No power.")


def test_the_message_of_an_unfinished_answer_has_no_figures(service) -> None:
    message = service.message(replace(NEW, phase="writing", text="One"))
    assert message.text == "One"
    assert set(message.metadata) == {"sampling", "dropped"}


async def test_a_stored_message_is_loaded_unchanged(service, store) -> None:
    image = store.put_test_image("boat.png")
    conversation = Conversation((Message("user", "What is it?", image),))
    _, states = await answer(service, conversation, SamplingParams(stop=("!",)), "A ", "boat")
    saved = conversation.add(service.message(states[-1]))
    store.save("me", saved)
    loaded = store.load("me", conversation.id).messages[-1]
    assert loaded.text == "A boat"
    assert loaded.metadata["image"]["name"] == "boat.png"
    assert loaded.metadata["tokens_per_second"] == saved.messages[-1].metadata["tokens_per_second"] == 0.5


# --- a backend that cannot do everything -----------------------------------------------------------------------------------


async def test_a_backend_without_seeds_gets_and_stores_none(service, backend):
    backend.info = replace(backend.info, capabilities=frozenset({"images"}))
    request, states = await answer(service, conversation_of("Hi"), SamplingParams(seed=7), "Hello")
    assert request.sampling.seed is None
    assert service.message(states[-1]).metadata["sampling"]["seed"] is None


async def test_a_backend_without_tile_size_stores_no_tiles(service, backend, store):
    backend.info = replace(backend.info, tile_size=0, max_tiles=0)
    conversation = Conversation((Message("user", "What is it?", store.put_test_image("boat.png")),))
    _, states = await answer(service, conversation, SamplingParams(), "A boat")
    assert "rows" not in service.message(states[-1]).metadata["image"]


async def test_a_request_has_the_turns_for_backends_that_send_text(service):
    request, _ = await answer(service, conversation_of("Hi"), SamplingParams(), "Hello")
    assert [(turn.role, turn.text) for turn in request.messages] == [("user", "Hi")]


def test_estimated_figures_are_marked(service):
    answer = Answer("id", SamplingParams(seed=1), None, 0).after(replace(finished(), estimated=True))
    assert service.message(answer).metadata["estimated"] is True


@pytest.mark.slow
def test_images_kept_in_memory_give_way_to_one_that_needs_the_memory(store: CountingStore, backend: ManualBackend) -> None:
    """A kept image is released by nobody, so that waiting for it would last for ever."""
    settings = Settings(image_memory_mb=512)
    service = GenerationService(backend, CodePoints(), store, settings)
    kept = store.put_test_image("kept.png", 5000, 4000)
    assert service.load(kept).width == 5000
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(file, "PNG", compress_level=1)
    assert load_image(file.getvalue(), "large.png", settings.image_limits).width == 5000
    reads = len(store.reads)
    assert service.load(kept).width == 5000
    assert len(store.reads) == reads + 1
