"""Requests that CompletionService refuses before it sends anything to the backend."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mllama_demo.errors import PromptTooLong
from mllama_demo.web.errors import ApiError
from tests.support.completions import body, part, picture, refused, said, taken
from tests.support.manual_backend import ManualBackend

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"temperature": 2.5}, "temperature", "from 0 to 2, got 2.5"),
        ({"temperature": float("nan")}, "temperature", "from 0 to 2"),
        ({"top_p": 0}, "top_p", "from 0.01 to 1"),
        ({"top_k": -2}, "top_k", "from 0 to 200"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to 4096, got 0"),
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
    ],
)
async def test_unsupported_capabilities_are_refused(fields: dict[str, Any], param: str) -> None:
    backend = ManualBackend()
    backend.info = replace(backend.info, capabilities=frozenset(), ignored={"ignore_eos": "It ends by itself."})
    request = body({"role": "user", "content": [part(picture())]}) if "messages" in fields else body(**fields)
    error = await refused(ApiError, request, backend)
    assert (error.status, error.param) == (400, param)


async def test_a_backend_without_seeds_returns_no_seed() -> None:
    backend = ManualBackend()
    backend.info = replace(backend.info, capabilities=frozenset({"images"}))
    whole, _ = await said(body(), "Hi.", backend=backend)
    assert whole.seed is None


async def test_more_choices_than_slots_and_queue_are_refused() -> None:
    error = await refused(ApiError, body(n=16))  # 2 slots and 8 places in the queue
    assert "n must be at most 10" in error.message


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
