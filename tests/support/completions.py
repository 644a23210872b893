# pyright: reportArgumentType=false
"""Chat completions on a backend that a test plays by hand: what it is asked for, and what comes back."""

from __future__ import annotations

import asyncio
import base64
import io
from contextlib import aclosing
from typing import Any

import pytest
from PIL import Image

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Client, FinishEvent, GenerationRequest
from mllama_demo.openai_api.completion import CompletionService
from mllama_demo.openai_api.response_schema import ChatChunk, ChatCompletion
from mllama_demo.openai_api.schema import ChatRequest
from tests.support.code_points import SPECIAL, CodePoints
from tests.support.manual_backend import READ, ManualBackend, finished

pytestmark = pytest.mark.timeout(60)


def picture(width: int = 8, height: int = 6, color: str = "red") -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def body(*messages: Any, **fields: Any) -> ChatRequest:
    """messages: texts of the user, or whole messages."""
    turns = [m if isinstance(m, dict) else {"role": "user", "content": m} for m in messages or ("Hello?",)]
    return ChatRequest.model_validate({"messages": turns, **fields})


def begin(backend: ManualBackend, request: ChatRequest, visitor: str = "me", **settings: Any) -> Any:
    return CompletionService(Settings(**settings), backend, CodePoints()).begin(request, "tiny", Client(visitor=visitor))


async def taken(request: ChatRequest, backend: ManualBackend | None = None, **settings: Any) -> list[GenerationRequest]:
    """What the backend is asked for."""
    backend = backend or ManualBackend()
    completion = await begin(backend, request, **settings)
    async with aclosing(completion.chunks()) as chunks:
        waiting = asyncio.ensure_future(anext(chunks))
        for _ in range(request.n or 1):
            await backend.taken()
        waiting.cancel()
        await asyncio.wait([waiting])
    return backend.requests


async def said(
    request: ChatRequest, *texts: str, end: FinishEvent | None = None, backend: ManualBackend | None = None
) -> tuple[ChatCompletion, list[ChatChunk]]:
    """The answer made of these tokens, whole and in chunks."""
    backend = backend or ManualBackend()

    async def send() -> None:
        for _ in range(2):
            await backend.taken()
            backend.send(READ)
            backend.say(*texts)
            backend.send(end or finished(tokens=len(texts)))

    sending = asyncio.create_task(send())
    whole = await (await begin(backend, request)).whole()
    chunks = [chunk async for chunk in (await begin(backend, request)).chunks()]
    await sending
    return whole, [chunk for chunk in chunks if isinstance(chunk, ChatChunk)]


def prompt_text(request: GenerationRequest) -> str:
    """Its prompt, each special token as a bar."""
    return "".join("|" if id >= SPECIAL else chr(id) for id in request.prompt_ids)


async def refused(error: type[Exception], request: ChatRequest, backend: ManualBackend | None = None, **settings: Any) -> Any:
    """The refusal, which must come before the backend hears of the request."""
    backend = backend or ManualBackend()
    with pytest.raises(error) as caught:
        await begin(backend, request, **settings)
    assert backend.requests == []
    return caught.value
