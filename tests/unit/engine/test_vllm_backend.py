# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
"""Backend vllm: what it asks the engine, how its tokens become events, and how a request ends in every way it can."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllama_demo.backends import make_backend
from mllama_demo.chat.conversation import ImageRef, Message
from mllama_demo.chat.prompt import encode_chat
from mllama_demo.chat.tokenizer import Tokenizer
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Event, FinishEvent, GenerationRequest, PrefillEvent, QueueEvent, StartedBackend, TokenEvent
from mllama_demo.engine.vllm.engine import installed_fork, sampling_values
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, ConfigError, PromptTooLong, cause_of
from mllama_demo.images.loading import LoadedImage
from mllama_demo.sampling import SamplingParams
from tests.support.events import events_of, text_of
from tests.support.fake_vllm import GENERATIONS, FakeVLLM
from tests.support.neuron_fakes import be_an_instance, have_devices, install_sdk
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(120)
PATIENCE_S = 60.0


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the SDK and a device."""
    install_sdk(monkeypatch)
    be_an_instance(monkeypatch, tmp_path, "trn1.32xlarge")
    have_devices(monkeypatch, tmp_path)
    for variable in (
        "VLLM_USE_V1",
        "VLLM_NO_USAGE_STATS",
        "VLLM_NEURON_FRAMEWORK",
        "NEURON_SCRATCHPAD_PAGE_SIZE",
        "HF_HUB_OFFLINE",
    ):
        monkeypatch.setenv(variable, "")  # restored afterwards
        monkeypatch.delenv(variable)
    return tmp_path


@pytest.fixture(params=["0.7"])
def vllm(request: pytest.FixtureRequest, machine: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> FakeVLLM:
    fake = FakeVLLM(request.param)
    fake.install(monkeypatch, machine / "site")
    end = tokenizer.special_id("<|eot_id|>")
    fake.answer = lambda prompt: [*tokenizer.encode("A red circle."), end]
    return fake


def settings(**options: Any) -> Settings:
    fixed = {"backend": "vllm", "tensor_parallel_size": 1, "seq_len": 256, "batch_size": 2}
    return Settings(**fixed | {"context_encoding_buckets": [64, 128], "token_generation_buckets": [256]} | options)


def started(**options: Any) -> StartedBackend:
    ended = threading.Event()
    backend, _ = make_backend(settings(**options), on_ready=ended.set, on_down=lambda reason: ended.set())
    backend.start()
    assert ended.wait(PATIENCE_S)
    return backend


@pytest.fixture
def backend(vllm: FakeVLLM) -> Iterator[StartedBackend]:
    backend = started()
    assert backend.status().state == "ready"
    yield backend
    backend.close()
    assert vllm.violations == []


def question(
    tokenizer: Tokenizer, text: str = "What is it?", picture: LoadedImage | None = None, **options: Any
) -> GenerationRequest:
    reference = None if picture is None else ImageRef(picture.digest, picture.name, picture.width, picture.height)
    ids = tuple(encode_chat((Message("user", text, reference),), tokenizer))
    return GenerationRequest(ids, image=picture, **options)


def picture(width: int = 40, height: int = 20) -> LoadedImage:
    return LoadedImage(Image.new("RGB", (width, height), "red"), b"", "PNG", "digest", "red.png")


def last(events: Sequence[Event]) -> FinishEvent:
    assert isinstance(events[-1], FinishEvent)
    return events[-1]


@pytest.mark.parametrize("ignore_eos", [False, True])
async def test_an_end_of_turn_ends_the_answer_unless_it_is_to_be_ignored(backend, vllm, tokenizer, ignore_eos: bool) -> None:
    first, more = tokenizer.encode("A red circle."), tokenizer.encode(" And more and more and more.")
    vllm.answer = lambda prompt: [*first, tokenizer.special_id("<|eot_id|>"), *more]
    sampling = SamplingParams(max_tokens=len(first) + 4, ignore_eos=ignore_eos)
    events = await events_of(backend, question(tokenizer, sampling=sampling))
    assert last(events).reason == ("max_tokens" if ignore_eos else "end_of_turn")
    assert text_of(events) == "A red circle." + (tokenizer.decode(more[:3]) if ignore_eos else "")


# --- what the engine is asked --------------------------------------------------------------------------------------------


def test_the_engine_gets_the_arguments_of_the_tutorial(backend, vllm, embedded) -> None:
    arguments = vllm.engine_args
    assert arguments["model"] == str(embedded)
    assert arguments["device"] == "neuron"
    assert arguments["block_size"] == arguments["max_model_len"] == 256
    assert (arguments["max_num_seqs"], arguments["tensor_parallel_size"]) == (2, 1)
    assert arguments["override_neuron_config"]["context_encoding_buckets"] == [64, 128]
    assert arguments["override_neuron_config"]["on_device_sampling_config"]["global_topk"] == 64


def test_nothing_is_reported_or_logged_about_those_who_ask(backend, vllm) -> None:
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert vllm.engine_args["disable_log_requests"] is True


async def test_a_prompt_goes_as_ids_with_one_begin_of_text(backend, vllm, tokenizer) -> None:
    request = question(tokenizer)
    await events_of(backend, request)
    prompt = vllm.prompts[request.id]
    assert prompt["prompt_token_ids"] == list(request.prompt_ids)
    assert prompt["prompt_token_ids"].count(tokenizer.special_id("<|begin_of_text|>")) == 1
    assert "prompt" not in prompt


@pytest.mark.parametrize("vllm", GENERATIONS, indirect=True)
async def test_without_an_image_each_generation_gets_the_form_it_can_take(backend, vllm, tokenizer) -> None:
    request = question(tokenizer)
    assert last(await events_of(backend, request)).reason == "end_of_turn"
    data = vllm.prompts[request.id].get("multi_modal_data")
    if "vllm/multimodal/neuron_multimodal_image_utils.py" in vllm.signatures["files"]:
        assert data["image"].shape == (0, 0)
    else:
        assert data is None


@pytest.mark.parametrize("vllm", GENERATIONS, indirect=True)
async def test_an_image_goes_along_on_all_its_tiles(backend, vllm, tokenizer) -> None:
    request = question(tokenizer, picture=picture())
    await events_of(backend, request)
    image = vllm.prompts[request.id]["multi_modal_data"]["image"]
    side, tiles = backend.info.tile_size, backend.info.max_tiles
    assert image.mode == "RGB"
    assert image.width * image.height == tiles * side * side
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"temperature": 0.0}, (1.0, 1.0, 1)),
        ({"temperature": 1.5, "top_k": 1, "top_p": 0.5}, (1.0, 1.0, 1)),
        ({"temperature": 0.9, "top_p": 0.5, "top_k": 10}, (0.9, 0.5, 10)),
        ({"temperature": 0.9, "top_p": 1.0, "top_k": 0}, (0.9, 1.0, 64)),
        ({"temperature": 0.9, "top_p": 1.0, "top_k": 100}, (0.9, 1.0, 64)),
    ],
)
def test_values_that_the_device_would_misread_are_never_sent(asked: dict[str, Any], sent: tuple[float, float, int]) -> None:
    values = sampling_values(SamplingParams(**asked, seed=3), 64, [7])
    assert (values["temperature"], values["top_p"], values["top_k"]) == sent
    assert "seed" not in values


def test_the_engine_is_told_to_go_on_past_the_end() -> None:
    ends, on = (sampling_values(SamplingParams(ignore_eos=past), 64, [7]) for past in (False, True))
    assert (ends["stop_token_ids"], ends["ignore_eos"]) == ([7], False)
    assert (on["stop_token_ids"], on["ignore_eos"]) == ([], True)


def test_it_is_ready_once_a_question_with_a_picture_was_answered(backend, vllm) -> None:
    (prompt,), (params,) = vllm.prompts.values(), vllm.params.values()
    assert "multi_modal_data" in prompt
    assert (params.max_tokens, params.ignore_eos) == (2, True)
    assert backend.status().estimated_wait_s == 0


def test_it_is_never_ready_where_a_question_cannot_be_answered(vllm) -> None:
    vllm.failure = RuntimeError("no memory left")
    backend = started()
    assert backend.status().state == "down"
    assert "no memory left" in cause_of(backend.status().detail)
    assert not backend.loaded


async def test_each_request_has_sampling_values_of_its_own(backend, vllm, tokenizer) -> None:
    request = question(tokenizer, sampling=SamplingParams(temperature=0.9, top_k=10))
    for _ in range(2):
        await events_of(backend, replace(request, id=f"{len(vllm.params)}"))
    assert len(vllm.params) == 3, "and one more for warming up"
    assert vllm.violations == []


# --- events --------------------------------------------------------------------------------------------------------------


async def test_an_answer_is_read_written_and_finished(backend, tokenizer) -> None:
    request = question(tokenizer)
    events = await events_of(backend, request)
    assert events[0] == PrefillEvent(len(request.prompt_ids), events[0].waited_s)
    assert text_of(events) == "A red circle."
    finish, tokens = last(events), [event for event in events if isinstance(event, TokenEvent)]
    assert [token.index for token in tokens] == list(range(len(tokens)))
    assert (finish.reason, finish.error, finish.estimated) == ("end_of_turn", None, False)
    assert (finish.prompt_tokens, finish.completion_tokens) == (len(request.prompt_ids), len(tokens))
    assert finish.timings.ttft_s is not None
    assert not any(token.trace or token.logprobs for token in tokens)


async def test_max_tokens_ends_an_answer_where_it_says(backend, vllm, tokenizer) -> None:
    finish = last(await events_of(backend, question(tokenizer, sampling=SamplingParams(max_tokens=2))))
    assert (finish.reason, finish.completion_tokens) == ("max_tokens", 2)
    assert vllm.aborted == []


async def test_a_stop_string_is_never_shown_and_the_engine_stops(backend, vllm, tokenizer) -> None:
    request = question(tokenizer, sampling=SamplingParams(stop=(" circle",)))
    events = await events_of(backend, request)
    assert text_of(events) == "A red"
    assert (last(events).reason, last(events).stop_string) == ("stop_string", " circle")
    assert vllm.aborted == [request.id]


async def test_an_engine_that_ends_by_itself_has_run_out_of_context(backend, vllm, tokenizer) -> None:
    vllm.answer = lambda prompt: tokenizer.encode("A red")
    assert last(await events_of(backend, question(tokenizer))).reason == "context_full"


# --- ending early --------------------------------------------------------------------------------------------------------


@pytest.fixture
def endless(vllm: FakeVLLM, backend: StartedBackend, tokenizer: Tokenizer) -> FakeVLLM:
    vllm.answer, vllm.pace_s = lambda prompt: tokenizer.encode("red ") * 1000, 0.005
    return vllm


async def test_closing_the_stream_aborts_the_request(endless, backend, tokenizer) -> None:
    request = question(tokenizer, sampling=SamplingParams(max_tokens=4096))
    async with aclosing(backend.generate(request)) as events:
        async for event in events:
            if isinstance(event, TokenEvent):
                break
    await until(lambda: not endless.live and not backend.status().running, "the request is gone")
    assert endless.aborted == [request.id]


async def test_cancel_ends_the_stream_with_what_was_written(endless, backend, tokenizer) -> None:
    request = question(tokenizer, sampling=SamplingParams(max_tokens=4096))

    async def scene() -> list[Event]:
        seen = []
        async with aclosing(backend.generate(request)) as events:
            async for event in events:
                seen.append(event)
                if len(seen) == 4:
                    backend.cancel(request.id)
        return seen

    events = await scene()
    assert last(events).reason == "cancelled"
    assert text_of(events).startswith("red")
    assert endless.aborted == [request.id]


async def test_the_time_limit_ends_a_request(endless, backend, tokenizer) -> None:
    request = question(tokenizer, sampling=SamplingParams(max_tokens=4096), time_limit_s=0.2)
    assert last(await events_of(backend, request)).reason == "time_limit"
    assert endless.aborted == [request.id]


async def test_no_more_requests_than_slots_reach_the_engine_and_the_next_is_told_its_place(endless, backend, tokenizer) -> None:
    requests = [question(tokenizer, sampling=SamplingParams(max_tokens=20)) for _ in range(5)]
    answers = await asyncio.gather(*(events_of(backend, request) for request in requests))
    assert [last(events).reason for events in answers] == ["max_tokens"] * 5
    assert all(isinstance(events[0], PrefillEvent) for events in answers[:2])
    assert [event.position for event in answers[4] if isinstance(event, QueueEvent)] == [3, 2, 1]
    assert endless.violations == []


async def test_a_full_queue_refuses(vllm, tokenizer) -> None:
    backend = started(batch_size=1, max_waiting=0)
    vllm.answer, vllm.pace_s = lambda prompt: tokenizer.encode("red ") * 1000, 0.005

    async def scene() -> None:
        async with aclosing(backend.generate(question(tokenizer))) as events:
            await anext(events)
            with pytest.raises(BackendBusy):
                await anext(backend.generate(question(tokenizer)))

    try:
        await scene()
    finally:
        backend.close()


async def test_prompts_that_can_never_run_are_refused(backend, tokenizer) -> None:
    with pytest.raises(BadRequest, match="empty"):
        await events_of(backend, GenerationRequest(()))
    with pytest.raises(PromptTooLong, match="room for 128"):
        await events_of(backend, GenerationRequest((5,) * 129))


# --- failing -------------------------------------------------------------------------------------------------------------


async def test_one_failed_request_is_told_and_the_next_is_answered(backend, vllm, tokenizer) -> None:
    vllm.failure = ValueError("no such token")
    finish = last(await events_of(backend, question(tokenizer)))
    assert (finish.reason, cause_of(finish.error)) == ("error", "The model failed on this request: no such token")
    vllm.failure = None
    assert last(await events_of(backend, question(tokenizer))).reason == "end_of_turn"


async def test_an_engine_that_died_takes_the_backend_down(backend, vllm, tokenizer) -> None:
    vllm.failure, vllm.dead = RuntimeError("nrt_execute failed"), True
    assert cause_of(last(await events_of(backend, question(tokenizer))).error) == "The model is down: nrt_execute failed"
    assert backend.status().state == "down"
    with pytest.raises(BackendUnavailable, match=r"^The model is down\.$"):
        await events_of(backend, question(tokenizer))


def test_a_model_that_cannot_be_loaded_says_why(vllm) -> None:
    vllm.failure = RuntimeError("no cores left")
    backend = started()
    assert backend.status().state == "down"
    assert "no cores left" in cause_of(backend.status().detail)
    assert not backend.loaded


def test_what_it_can_do_is_said_beforehand(vllm) -> None:
    info = make_backend(settings())[0].info
    assert info.capabilities == {"images"}, "its probabilities are wrong"
    assert "seed" in info.ignored
    assert (info.name, info.max_top_k, info.max_prompt, info.full_canvas) == ("vllm", 64, 128, True)


def test_without_vllm_it_says_how_to_get_it(machine) -> None:
    with pytest.raises(ConfigError, match=r"not installed here: install the fork of vLLM for Neuron"):
        make_backend(settings())


def test_a_vllm_that_does_not_serve_this_model_on_neuron_is_refused(vllm, machine) -> None:
    (machine / "site" / "vllm" / "worker" / "neuronx_distributed_model_runner.py").unlink()
    with pytest.raises(ConfigError, match="cannot run"):
        installed_fork()


def test_sampling_on_the_host_is_refused(vllm) -> None:
    with pytest.raises(ConfigError, match="on the device only"):
        make_backend(settings(on_device_sampling_config=None))
