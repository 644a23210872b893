"""CompletionService: backend requests from a body, and a response or chunks from the events of the backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from mllama_demo.engine.base import FinishEvent, QueueEvent, TokenEvent
from mllama_demo.errors import BackendBusy, DemoError
from mllama_demo.openai_api.completion import Completion
from mllama_demo.openai_api.response_schema import ChatChunk
from mllama_demo.sampling import MAX_ANSWER_TOKENS
from mllama_demo.web.errors import ApiError
from tests.support.completions import begin, body, part, picture, prompt_text, said, taken
from tests.support.manual_backend import READ, ManualBackend, finished

pytestmark = pytest.mark.timeout(60)


# --- what the backend is asked for -----------------------------------------------------------------------------------------


async def test_missing_values_are_the_deployments_and_max_tokens_is_the_context() -> None:
    (request,) = await taken(body(), ManualBackend(context_length=2000), temperature=0.3, top_p=0.7, top_k=9, max_tokens=50)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.stop) == (0.3, 0.7, 9, ())
    assert sampling.max_tokens == 2000
    assert sampling.seed is not None
    assert not request.trace


async def test_given_values_are_used() -> None:
    fields = {
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 4,
        "seed": 7,
        "stop": "a",
        "max_tokens": 3,
        "logprobs": True,
        "ignore_eos": True,
    }
    backend = ManualBackend()
    backend.info = replace(backend.info, capabilities=frozenset({"seed", "probabilities"}))
    (request,) = await taken(body(**fields), backend)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (1.0, 0.5, 4, 7)
    assert (sampling.stop, sampling.max_tokens, request.trace, sampling.ignore_eos) == (("a",), 3, True, True)


async def test_max_completion_tokens_overrides_max_tokens() -> None:
    (request,) = await taken(body(max_tokens=5, max_completion_tokens=3))
    assert request.sampling.max_tokens == 3


@pytest.mark.parametrize("context", [2000, 16_384])
async def test_max_tokens_is_limited_to_the_context_length(context: int) -> None:
    for asked in (context, 20_000, 10**9):
        (request,) = await taken(body(max_tokens=asked), ManualBackend(context_length=context))
        assert request.sampling.max_tokens == context
    (request,) = await taken(body(max_completion_tokens=10**9), ManualBackend(context_length=10**6))
    assert request.sampling.max_tokens == MAX_ANSWER_TOKENS


@pytest.mark.parametrize(("seed", "drawn"), [(0, 0), (-1, 2**32 - 1), (2**32 + 5, 5), (2**63 - 1, 2**32 - 1)])
async def test_every_64_bit_seed_is_accepted(seed: int, drawn: int) -> None:
    (request,) = await taken(body(seed=seed))
    assert request.sampling.seed == drawn


async def test_top_k_minus_one_turns_it_off() -> None:
    (request,) = await taken(body(top_k=-1), top_k=5)
    assert request.sampling.top_k == 0


async def test_choices_have_their_own_seeds_and_share_prompt_and_queue_turn() -> None:
    requests = await taken(body(n=3, seed=2**32 - 2))
    assert [request.sampling.seed for request in requests] == [2**32 - 2, 2**32 - 1, 0]
    assert {request.queue_path[:2] for request in requests} == {("", "me")}
    assert len({request.queue_path for request in requests}) == 1
    assert len({request.id for request in requests}) == 3
    assert len({request.prompt_ids for request in requests}) == 1


async def test_the_prompt_has_roles_and_texts_in_order() -> None:
    (request,) = await taken(
        body(
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
            {"role": "assistant", "content": "Three."},
            "Four?",
        )
    )
    prompt = prompt_text(request)
    places = [prompt.index(word) for word in ("system", "Be brief.", "One\ntwo", "Three.", "Four?")]
    assert places == sorted(places)


async def test_the_deployments_system_prompt_is_used_unless_the_request_has_one() -> None:
    assert "Be kind." in prompt_text((await taken(body(), system_prompt="Be kind."))[0])
    own = body({"role": "system", "content": "Be odd."}, "Hello?")
    assert "Be kind." not in prompt_text((await taken(own, system_prompt="Be kind."))[0])


async def test_system_text_beside_an_image_moves_into_the_user_turn() -> None:
    own = body({"role": "system", "content": "Be brief."}, {"role": "user", "content": [part(picture())]})
    prompt = prompt_text((await taken(own))[0])
    assert "Be brief." in prompt
    assert "system" not in prompt


async def test_only_the_newest_image_is_fetched() -> None:
    request = body(
        {"role": "user", "content": [part("http://nowhere.invalid/a.png"), {"type": "text", "text": "And this?"}]},
        {"role": "assistant", "content": "Nothing."},
        {"role": "user", "content": [part(picture(70, 30)), {"type": "text", "text": "And this?"}]},
        {"role": "assistant", "content": "A line."},
        "Sure?",
    )
    (asked,) = await taken(request)
    assert asked.image is not None
    assert (asked.image.width, asked.image.height) == (70, 30)
    whole, chunks = await said(request, "Yes.")
    for seen in (whole.image, chunks[0].image):
        assert seen is not None
        assert (seen.message, seen.width, seen.height, seen.rows, seen.columns, seen.not_seen) == (2, 70, 30, 1, 3, 1)


# --- the answer ----------------------------------------------------------------------------------------------------------


async def test_the_chunks_together_are_the_response() -> None:
    whole, chunks = await said(body(seed=5), "A", " boat", "", " sails")
    (choice,) = whole.choices
    assert (choice.message.content, choice.finish_reason, choice.stop_reason) == ("A boat sails", "stop", None)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "A boat sails"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert whole.seed == chunks[0].seed == 5
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (5, 4, 9)


async def test_usage_is_in_the_last_chunk_on_request_and_null_before() -> None:
    _, chunks = await said(body(stream=True, stream_options={"include_usage": True}), "Hi")
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6
    assert all('"usage":null' in chunk.model_dump_json(exclude_unset=True) for chunk in chunks[:-1])
    _, without = await said(body(stream=True), "Hi")
    assert all("usage" not in chunk.model_dump(exclude_unset=True) for chunk in without)


@pytest.mark.parametrize(
    ("end", "finish_reason", "stop_reason"),
    [
        (finished("end_of_turn"), "stop", None),
        (replace(finished("stop_string"), stop_string="###"), "stop", "###"),
        (finished("max_tokens"), "length", None),
        (finished("context_full"), "length", "context_full"),
        (finished("time_limit"), "length", "time_limit"),
    ],
)
async def test_finish_reason_and_stop_reason_tell_why_an_answer_ended(
    end: FinishEvent, finish_reason: str, stop_reason: str | None
) -> None:
    whole, chunks = await said(body(), "Hi", end=end)
    for choice in (whole.choices[0], chunks[-1].choices[0]):
        assert (choice.finish_reason, choice.stop_reason) == (finish_reason, stop_reason)


@pytest.mark.parametrize(
    ("end", "state", "status"),
    [
        (finished("error", error="No power."), "ready", 500),
        (finished("error", error="No power."), "down", 503),
        (finished("cancelled"), "ready", 503),
        (finished("time_limit", tokens=0), "ready", 503),
    ],
)
async def test_a_failed_answer_is_an_error_streamed_or_not(end: FinishEvent, state: str, status: int) -> None:
    backend = ManualBackend()
    backend.state = state

    async def drain(completion: Completion, streamed: bool) -> None:
        if not streamed:
            await completion.whole()
        async for _ in completion.chunks():
            pass

    async def scene(streamed: bool) -> None:
        reading = asyncio.create_task(drain(await begin(backend, body()), streamed))
        await backend.taken()
        backend.send(READ, end)
        with pytest.raises(ApiError) as caught:
            await reading
        assert caught.value.status == status

    await scene(False)
    await scene(True)


async def test_interleaved_tokens_go_to_their_choices() -> None:
    backend = ManualBackend()

    async def scene() -> list[ChatChunk | QueueEvent]:
        chunks = (await begin(backend, body(n=2))).chunks()
        reading = asyncio.create_task(_all(chunks))
        first, second = await backend.taken(), await backend.taken()
        for token in range(3):
            for name, request in (("a", first), ("b", second)):
                backend.send_to(request.id, TokenEvent(token, 7, f"{name}{token}"))
        for request in (second, first):
            backend.send_to(request.id, finished())
        return await reading

    texts = {0: "", 1: ""}
    chunks = await scene()
    for chunk in chunks:
        assert isinstance(chunk, ChatChunk)
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "a0a1a2", 1: "b0b1b2"}
    assert len({chunk.id for chunk in chunks if isinstance(chunk, ChatChunk)}) == 1


async def _all(chunks: AsyncGenerator[Any, None]) -> list[Any]:
    return [chunk async for chunk in chunks]


# --- queueing and leaving ------------------------------------------------------------------------------------------------


async def test_queue_positions_come_before_the_first_chunk() -> None:
    backend = ManualBackend()
    async with aclosing((await begin(backend, body())).chunks()) as chunks:
        waiting = asyncio.ensure_future(anext(chunks))
        await backend.taken()
        backend.send(QueueEvent(2, 1.5))
        assert await waiting == QueueEvent(2, 1.5)
        backend.send(READ)
        assert isinstance(await anext(chunks), ChatChunk)


async def test_a_full_queue_raises_before_the_first_chunk() -> None:
    backend = ManualBackend()
    backend.refusal = BackendBusy("Full.")
    with pytest.raises(DemoError, match="Full"):
        await anext((await begin(backend, body(n=2))).chunks())


@pytest.mark.parametrize("streamed", [True, False])
async def test_closing_frees_the_slots_of_all_choices(streamed: bool) -> None:
    backend = ManualBackend()
    completion = await begin(backend, body(n=2))
    reading = asyncio.create_task(_all(completion.chunks()) if streamed else completion.whole())
    for _ in range(2):
        await backend.taken()
    backend.send(READ)
    backend.say("One")
    await asyncio.sleep(0)
    assert backend.closed == []
    reading.cancel()
    await asyncio.wait([reading])
    assert sorted(backend.closed) == sorted(request.id for request in backend.requests)


async def test_a_choice_that_fails_ends_the_others() -> None:
    backend = ManualBackend()
    reading = asyncio.create_task((await begin(backend, body(n=2))).whole())
    for _ in range(2):
        await backend.taken()
    backend.send(READ, finished("error", error="No power."))
    with pytest.raises(ApiError, match="No power"):
        await reading
    assert len(backend.closed) == 2
