"""Requests that CompletionService refuses before it sends anything to the backend."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mllama_demo.config.settings import Settings
from mllama_demo.errors import LimitReached, PromptTooLong
from mllama_demo.web.errors import ApiError
from mllama_demo.web.limits import ClientLimits, LimitedBackend
from tests.support.completions import begin, body, part, picture, refused, said, taken
from tests.support.manual_backend import ManualBackend
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": 2.5}, "temperature", "from 0 to 2, got 2.5"),
        ({"temperature": float("nan")}, "temperature", "from 0 to 2"),
        ({"top_p": 0}, "top_p", "from 0.01 to 1"),
        ({"top_k": -2}, "top_k", "from 0 to 200"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to 131072, got 0"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens must be a whole number"),
        ({"stop": [""]}, "stop", "1 to 64 characters"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "up to 4 strings"),
    ],
)
async def test_a_value_out_of_bounds_is_refused_with_its_bounds(fields: dict[str, Any], param: str, words: str) -> None:
    error = await refused(ApiError, body(**fields))
    assert (error.status, error.param) == (400, param)
    assert words in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"seed": 1}, "seed"),
        ({"messages": "image"}, "messages"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"top_k": 5}, "top_k"),
    ],
)
async def test_unsupported_capabilities_are_refused(fields: dict[str, Any], param: str) -> None:
    backend = ManualBackend()
    backend.info = replace(
        backend.info, capabilities=frozenset(), ignored={"ignore_eos": "It ends by itself.", "top_k": "It has none."}
    )
    request = body({"role": "user", "content": [part(picture())]}) if "messages" in fields else body(**fields)
    error = await refused(ApiError, request, backend)
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize("top_k", [None, 0, -1])
async def test_a_top_k_that_changes_nothing_is_taken_where_the_backend_has_none(top_k: int | None) -> None:
    backend = ManualBackend()
    backend.info = replace(backend.info, ignored={"top_k": "It has none."})
    assert len(await taken(body(top_k=top_k), backend)) == 1


async def test_tools_are_answered_in_text_or_refused_as_the_operator_says() -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert len(await taken(body(**tools))) == 1
    error = await refused(ApiError, body(**tools), ignore_tools=False)
    assert (error.status, error.param, error.code) == (400, "tools", "unsupported")
    assert len(await taken(body(**tools, tool_choice="none"), ignore_tools=False)) == 1


async def test_json_mode_is_refused_or_answered_in_text_as_the_operator_says() -> None:
    json_mode = {"response_format": {"type": "json_object"}}
    error = await refused(ApiError, body(**json_mode))
    assert (error.status, error.param, error.code) == (400, "response_format", "unsupported")
    assert len(await taken(body(**json_mode), ignore_json_mode=True)) == 1


async def test_a_backend_without_seeds_returns_no_seed() -> None:
    backend = ManualBackend()
    backend.info = replace(backend.info, capabilities=frozenset({"images"}))
    whole, _ = await said(body(), "Hi.", backend=backend)
    assert whole.seed is None


async def test_more_choices_than_one_client_may_have_at_once_are_refused() -> None:
    error = await refused(ApiError, body(n=8))  # three quarters of 2 slots and 8 places in the queue
    assert (error.status, error.param) == (400, "n")
    assert "n must be at most 7 here" in error.message
    backend = ManualBackend()
    backend.info = replace(backend.info, capabilities=frozenset({"images"}))
    limited = LimitedBackend(backend, ClientLimits(Settings()))
    completion = await begin(limited, body(n=7))  # pyright: ignore[reportArgumentType]
    answering = asyncio.ensure_future(completion.whole())
    for _ in range(7):
        await backend.taken()
    answering.cancel()
    await asyncio.wait([answering])


async def test_a_completion_with_more_choices_than_a_limit_leaves_starts_none_and_uses_up_nothing() -> None:
    backend = ManualBackend()
    limited = LimitedBackend(backend, ClientLimits(Settings(limit_questions_per_minute=5)))
    for choices, taken_all in ((3, True), (3, False), (2, True)):
        completion = await begin(limited, body(n=choices))  # pyright: ignore[reportArgumentType]
        before = len(backend.requests)
        answering = asyncio.ensure_future(completion.whole())
        await until(lambda n=before, a=answering: len(backend.requests) > n or a.done(), "it is taken or refused")
        assert answering.done() is not taken_all
        answering.cancel()
        await asyncio.wait([answering])
        assert taken_all or isinstance(answering.exception(), LimitReached)


async def test_a_conversation_that_does_not_fit_is_refused_not_shortened() -> None:
    request = body("a" * 300, {"role": "assistant", "content": "b"}, "c")
    assert "room for 150" in str(await refused(PromptTooLong, request, ManualBackend(context_length=200)))
    assert len(await taken(request, ManualBackend(context_length=600))) == 1


async def test_too_many_characters_are_refused_without_tokenizing() -> None:
    error = await refused(PromptTooLong, body("a" * 60_000), ManualBackend(context_length=200))
    assert "51,200" in str(error)


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64,AAAA", "data:text/html,hello", "ftp://example.com/a.png", "file:///etc/passwd", "/etc/passwd", "x"],
)
async def test_an_invalid_image_is_refused_with_the_path_of_its_message(url: str) -> None:
    error = await refused(ApiError, body("Hello", {"role": "user", "content": [part(url)]}))
    assert (error.status, error.param, error.code) == (400, "messages[1].content", "invalid_image")


async def test_an_image_on_a_host_that_is_not_allowed_is_refused() -> None:
    error = await refused(ApiError, body({"role": "user", "content": [part("http://example.com/a.png")]}), allowed_media_hosts=[])
    assert "only hosts that its operator chose" in error.message
