"""Every response has the id of its request, and so has everything that is done for the request."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from mllama_demo.engine.base import GenerationRequest
from mllama_demo.runtime.logs import REQUEST_ID
from mllama_demo.web.request_ids import RequestIds


class App:
    """Answers with status 503, and notes the ids that it saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen += [REQUEST_ID.get(), GenerationRequest(()).request_id]
        await send({"type": "http.response.start", "status": 503, "headers": [(b"X-Request-ID", b"another")]})
        await send({"type": "http.response.body", "body": b""})


async def answered(app: Any, sent: str | None) -> list[str]:
    headers = {} if sent is None else {"X-Request-Id": sent}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(RequestIds(app)), base_url="http://test") as client:
        return (await client.get("/", headers=headers)).headers.get_list("x-request-id")


@pytest.mark.parametrize("sent", ["abc-123", "Root=1-67891233-abcdef012345678912345678", "x" * 100])
async def test_the_id_of_the_client_is_kept(sent: str) -> None:
    app = App()
    assert await answered(app, sent) == [sent]
    assert app.seen == [sent, sent]


@pytest.mark.parametrize("sent", [None, "", "two words", "x" * 101, "a,b", '"', "<script>", "%0a"])
async def test_a_request_without_a_usable_id_gets_one(sent: str | None) -> None:
    app = App()
    [made] = await answered(app, sent)
    [other] = await answered(app, sent)
    assert made != sent
    assert made != other
    assert len(made) == 16
    assert app.seen == [made, made, other, other]
