"""The responses that `python -m benchmarks serve` receives: read after their end, with the times at which the parts arrived."""

from __future__ import annotations

import asyncio
import json

import h11
import pytest

from benchmarks.raw_stream import RawResponse, post
from benchmarks.serve import read

EVENTS = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": "A"}}]},
    {"choices": [{"delta": {"content": " dög"}}]},
    {"choices": [], "usage": {"completion_tokens": 2}},
]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def lines(events: list[dict]) -> list[bytes]:
    return [b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


def streamed(size: int) -> RawResponse:
    """A response whose parts have `size` bytes each. A part arrives each second."""
    whole = HEAD + b"".join(chunk(line) for line in lines(EVENTS)) + chunk(b"")
    parts = [whole[start : start + size] for start in range(0, len(whole), size)]
    return RawResponse([(float(second), part) for second, part in enumerate(parts)], lasted=float(len(parts)))


@pytest.mark.parametrize("size", [1, 7, 50, 10_000])
def test_events_do_not_depend_on_how_the_bytes_arrive(size: int) -> None:
    assert [event for _, event in streamed(size).events()] == EVENTS
    reply = read(streamed(size))
    assert (reply.tokens, len(reply.pieces), reply.counted, reply.error) == (2, 2, False, "")


def test_an_event_arrives_with_its_last_byte() -> None:
    begins = [HEAD, *(chunk(line) for line in lines(EVENTS)), chunk(b"")]
    response = RawResponse([(float(second), part) for second, part in enumerate(begins)], lasted=9.0)
    reply = read(response)
    assert reply.pieces == [2.0, 3.0]
    assert reply.done == 9.0


def test_what_goes_wrong_is_the_error_of_the_reply() -> None:
    refused = RawResponse([(0.1, b'HTTP/1.1 429 Too Many\r\nContent-Length: 12\r\n\r\n{"error":"x"'), (0.2, b"")], lasted=0.2)
    assert read(refused).error == 'RuntimeError: 429: {"error":"x"'
    cut = RawResponse([(0.1, HEAD + chunk(lines(EVENTS)[1]))], lasted=0.2)
    with pytest.raises(h11.RemoteProtocolError):
        list(cut.events())
    assert len(read(cut).pieces) == 1
    failed = RawResponse([(0.1, HEAD + chunk(b'data: {"error": "out of memory"}\n\n') + chunk(b""))], lasted=0.2)
    assert read(failed).error == "RuntimeError: out of memory"
    assert "TimeoutError" in read(RawResponse([(0.1, HEAD)], lasted=1.0, failure=TimeoutError())).error


def test_a_request_over_a_connection() -> None:
    async def exchange() -> tuple[bytes, RawResponse, RawResponse]:
        received = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.append(await reader.readuntil(b"}"))
            writer.write(HEAD + b"".join(chunk(line) for line in lines(EVENTS)) + chunk(b""))
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
        response = await post(url, {"a": 1}, {"Authorization": "Bearer key"}, 10)
        server.close()
        await server.wait_closed()
        return received[0], response, await post(url, {}, {}, 10)

    sent, response, refused = asyncio.run(exchange())
    assert sent.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nConnection: close\r\n" in sent
    assert b"\r\nAuthorization: Bearer key\r\n" in sent
    assert sent.endswith(b'\r\n\r\n{"a": 1}')
    assert [event for _, event in response.events()] == EVENTS
    assert isinstance(refused.failure, ConnectionRefusedError)
