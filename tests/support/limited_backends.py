"""Backends with limits of their clients, requests to them, and a Redis that counts."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Client, FinishEvent, GenerationRequest
from mllama_demo.errors import LimitReached
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.web.limits import ClientLimits, LimitedBackend
from tests.support.manual_backend import READ, ManualBackend, finished
from tests.support.waiting import PATIENCE_S, until, wait_until

ANN, BEN = Client("192.0.2.1", "ann"), Client("192.0.2.1", "ben")
ELSEWHERE = Client("192.0.2.2", "cy")
PROGRAM = Client()


def image(tmp_path: Path, size: int) -> LoadedImage:
    """A picture whose file has at least so many bytes."""
    Image.effect_noise((400, 400), 100).convert("RGB").save(path := tmp_path / "noise.png")
    data = path.read_bytes()
    return load_image(data + bytes(max(0, size - len(data))), "noise.png")


def request(client: Client, picture: LoadedImage | None = None) -> GenerationRequest:
    return GenerationRequest((1, 2, 3), client=client, image=picture)


async def answered(backend: LimitedBackend, inner: ManualBackend, one: GenerationRequest) -> None:
    """Asks, and reads the answer of ten tokens to its end."""
    reading = asyncio.create_task(ended(backend, one))
    await until(lambda: one in inner.requests or reading.done(), "the request is taken or refused")
    if not reading.done():
        inner._mail[one.id].put_nowait(READ)
        inner._mail[one.id].put_nowait(FinishEvent("end_of_turn", "Hi.", 3, 7, finished().timings))
    await reading


async def ended(backend: LimitedBackend, one: GenerationRequest) -> None:
    async with aclosing(backend.generate(one)) as events:
        async for _ in events:
            pass


@contextmanager
def running_redis(folder: Path, port: int) -> Iterator[None]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    line = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    try:
        wait_until(listens, "Redis listens")
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def limited(inner: ManualBackend, **settings: Any) -> LimitedBackend:
    return LimitedBackend(inner, ClientLimits(Settings(**settings)))


async def accepted(limits: ClientLimits, *requests: GenerationRequest) -> list[GenerationRequest]:
    """Those of the requests that the limits take when all of them come at once."""
    results = await asyncio.gather(*map(limits.begin, requests), return_exceptions=True)
    refused = [isinstance(result, LimitReached) for result in results]
    assert not any(isinstance(result, BaseException) and not known for result, known in zip(results, refused, strict=True)), (
        results
    )
    return [one for one, known in zip(requests, refused, strict=True) if not known]
