"""Receives the stream of an HTTP response with little work, so that a program that measures leaves the cores to the server.

Each part of the response is kept as bytes, with the time of its arrival. Nothing is parsed before the response has ended.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11


@dataclass
class RawResponse:
    """The bytes of a response as they arrived.

    Attributes:
        parts: When each part arrived, in seconds from the sending of the request, and its bytes.
        lasted: Seconds from the sending to the end.
        failure: Why the response has no end: an error of the connection, or TimeoutError.
    """

    parts: list[tuple[float, bytes]] = field(default_factory=list)
    lasted: float = 0.0
    failure: Exception | None = None

    def body(self) -> Iterator[tuple[float, bytes]]:
        """Yields the pieces of the body with their times of arrival.

        Raises:
            RuntimeError: The status is not 200. The message has the status and the body.
            h11.RemoteProtocolError: The response is not complete.
            Exception: The failure.
        """
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="POST", target="/", headers=[("host", "-")]))
        connection.send(h11.EndOfMessage())
        status, refusal = 200, b""
        for arrived, data in [*self.parts, (self.lasted, b"")]:  # no bytes: the end of the connection
            if not data and self.failure is not None:
                raise self.failure
            connection.receive_data(data)
            for event in iter(connection.next_event, h11.NEED_DATA):
                if isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data) and status == 200:
                    yield arrived, bytes(event.data)
                elif isinstance(event, h11.Data):
                    refusal += event.data
                elif isinstance(event, h11.EndOfMessage) and status != 200:
                    raise RuntimeError(f"{status}: {refusal.decode(errors='replace')[:300]}")
                elif isinstance(event, h11.EndOfMessage):
                    return

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """Yields the JSON of each server-sent event with the time at which its last byte arrived. Raises what body raises."""
        rest = b""
        for arrived, data in self.body():
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                value = line.removeprefix(b"data:").strip()
                if line.startswith(b"data:") and value != b"[DONE]":
                    yield arrived, json.loads(value)


class _Receiver(asyncio.Protocol):
    def __init__(self, parts: list[tuple[float, bytes]], began: float) -> None:
        self._parts, self._began = parts, began
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._parts.append((time.perf_counter() - self._began, data))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)  # RawResponse.body says what is missing


async def post(url: str, body: Any, headers: dict[str, str], timeout_s: float) -> RawResponse:
    """Sends JSON to an address of http:// or https://, and receives the response to its end, or for `timeout_s`."""
    response, began = RawResponse(), time.perf_counter()
    try:
        await asyncio.wait_for(_exchange(url, body, headers, _Receiver(response.parts, began)), timeout_s)
    except Exception as error:
        response.failure = error
    response.lasted = time.perf_counter() - began
    return response


async def _exchange(url: str, body: Any, headers: dict[str, str], receiver: _Receiver) -> None:
    address = urlsplit(url)
    secure = address.scheme == "https"
    content = json.dumps(body).encode()
    fields = {"Host": address.netloc, "Content-Type": "application/json", "Content-Length": len(content), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**fields, **headers}.items())
    port = address.port or (443 if secure else 80)
    transport, _ = await asyncio.get_running_loop().create_connection(
        lambda: receiver, address.hostname or "", port, ssl=secure or None
    )
    try:
        transport.write(f"POST {address.path} HTTP/1.1\r\n{head}\r\n".encode() + content)
        await receiver.ended
    finally:
        transport.abort()
