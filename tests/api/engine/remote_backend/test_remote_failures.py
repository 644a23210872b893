"""Servers that refuse, break off, are busy, go and come back, and readers that leave."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import pytest

from mllama_demo.engine.base import FinishEvent, QueueEvent, TokenEvent
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, cause_of
from mllama_demo.runtime.logs import RequestIdFilter
from tests.support.events import events_of
from tests.support.protocol_server import PATIENCE_S, Exchange, ProtocolServer, hello
from tests.support.remote_backends import answer, request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


# --- failures, by their true cause ---------------------------------------------------------------------------------------


EXTRA = {"type": "extra_forbidden", "loc": ["body", "frequency_penalty"], "msg": "Extra inputs are not permitted", "input": 0}
FLAT = {"object": "error", "message": "the true cause", "type": "BadRequestError", "param": None, "code": 400}
NESTED = {"error": {"message": "the true cause", "type": "invalid_request_error", "param": None, "code": None}}


@pytest.mark.parametrize(
    ("status", "error", "kind", "said"),
    [
        (400, FLAT, BadRequest, "the true cause"),
        (400, NESTED, BadRequest, "the true cause"),
        (400, {"detail": "the true cause"}, BadRequest, "the true cause"),
        (422, {"detail": [{"loc": ["body"], "msg": "the true cause"}]}, BadRequest, "the true cause"),
        (422, {"detail": [EXTRA]}, BadRequest, "frequency_penalty: Extra inputs are not permitted"),
        (413, b"the true cause", BadRequest, "the true cause"),
        (404, FLAT, BackendUnavailable, "the true cause"),
        (401, {"error": "Unauthorized"}, BackendUnavailable, "remote_api_key"),
        (429, NESTED, BackendBusy, "the true cause"),
        (500, b"Internal Server Error", BackendUnavailable, "Internal Server Error"),
        (502, b"<html><h1>Bad Gateway</h1></html>", BackendUnavailable, "502, Bad Gateway"),
        (503, FLAT, BackendUnavailable, "the true cause"),
        (599, b"", BackendUnavailable, "599"),
    ],
)
async def test_a_refusal_is_told_in_the_servers_own_words(server, connect, status, error, kind, said):
    server.chat = lambda exchange: exchange.refuse(status, error)
    with pytest.raises(kind) as caught:
        await answer(connect())
    assert type(caught.value) is kind
    assert said in cause_of(caught.value)
    assert "<h1>" not in cause_of(caught.value)


@contextmanager
def filtered(handler: logging.Handler, added: logging.Filter) -> Iterator[None]:
    handler.addFilter(added)
    yield
    handler.removeFilter(added)


async def test_the_line_of_a_failure_has_the_id_of_the_request(server, connect, caplog):
    server.chat = lambda exchange: exchange.refuse(500, FLAT)
    with pytest.raises(BackendUnavailable), filtered(caplog.handler, RequestIdFilter()):
        await answer(connect(), request(request_id="abc-1"))
    [line] = [record for record in caplog.records if "the true cause" in record.getMessage()]
    assert line.__dict__["request_id"] == "abc-1"


@pytest.mark.parametrize("event", [FLAT, NESTED])
async def test_a_failure_in_the_middle_keeps_what_came_and_says_why(server, connect, event):
    server.chat = lambda exchange: (exchange.say("So far"), exchange.event(event), exchange.event("[DONE]"))
    text, last = await answer(connect())
    assert (text, last.reason) == ("So far", "error")
    assert "the true cause" in cause_of(last.error)


async def test_an_answer_that_just_stops_is_no_whole_answer(server, connect):
    server.chat = lambda exchange: exchange.say("So far")
    text, last = await answer(connect())
    assert (text, last.reason) == ("So far", "error")
    assert "broke off" in cause_of(last.error)


async def test_rubbish_is_called_so(server, connect):
    server.chat = lambda exchange: (exchange.say("So far"), exchange.event("{no json"))
    assert "no chat completion" in cause_of((await answer(connect()))[1].error)


async def test_silence_has_an_end(server, connect):
    """The first token is waited for as long as the settings say, which is longer than a test may."""
    waited = threading.Event()
    server.chat = lambda exchange: (exchange.begin(), waited.wait(PATIENCE_S))
    _, last = await answer(connect(remote_silence_timeout_s=1))
    waited.set()
    assert last.reason == "error"
    assert "silent" in cause_of(last.error)


async def test_a_time_limit_closes_the_connection(server, connect):
    gone: list[bool] = []
    server.chat = lambda exchange: (exchange.say("So far"), gone.append(exchange.wait_gone()))
    text, last = await answer(connect(), request(time_limit_s=1.5))
    assert (text, last.reason) == ("So far", "time_limit")
    wait_until(lambda: gone == [True], lambda: "the connection is closed")


# --- cancelling ----------------------------------------------------------------------------------------------------------


async def test_closing_the_stream_closes_the_connection(server, connect):
    gone: list[bool] = []
    server.chat = lambda exchange: (exchange.say("one", "two"), gone.append(exchange.wait_gone()))
    backend = connect()

    async def read_a_little() -> None:
        async with aclosing(backend.generate(request())) as stream:
            async for event in stream:
                if isinstance(event, TokenEvent):
                    return

    await read_a_little()
    wait_until(lambda: gone == [True], lambda: "the connection is closed")
    wait_until(lambda: backend.status().running == 0, lambda: "the slot is free")


async def test_cancelling_finishes_the_stream_and_closes_the_connection(server, connect):
    gone: list[bool] = []
    server.chat = lambda exchange: (exchange.say("one"), gone.append(exchange.wait_gone()))
    backend = connect()
    asked = request()
    async with aclosing(backend.generate(asked)) as stream:
        async for event in stream:
            if isinstance(event, TokenEvent):
                backend.cancel("no such request")
                backend.cancel(asked.id)
    last = event
    assert isinstance(last, FinishEvent)
    assert last.reason == "cancelled"
    wait_until(lambda: gone == [True], lambda: "the connection is closed")


async def test_a_stream_that_is_closed_at_once_is_never_sent(server, connect):
    backend = connect(remote_concurrency=1)
    for _ in range(20):
        stream = backend.generate(request())
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await stream.aclose()
    assert [type(e) for e in await events_of(backend, request())][-1] is FinishEvent
    wait_until(lambda: backend.status().running == backend.status().waiting == 0, lambda: "nothing is under way")


# --- many at once --------------------------------------------------------------------------------------------------------


async def test_no_more_are_sent_at_once_than_the_server_has_slots(server, connect):
    release = threading.Event()

    def chat(exchange: Exchange) -> None:
        exchange.say("x")
        assert release.wait(PATIENCE_S)
        exchange.end()

    server.chat = chat
    backend = connect(remote_concurrency=2, max_waiting=3)
    positions: list[int] = []

    async def read(index: int) -> FinishEvent:
        async with aclosing(backend.generate(request(f"question {index}"))) as stream:
            async for event in stream:
                if isinstance(event, QueueEvent):
                    positions.append(event.position)
        assert isinstance(event, FinishEvent)
        return event

    reading = [asyncio.ensure_future(read(index)) for index in range(5)]
    await asyncio.to_thread(wait_until, lambda: len(server.asked) == 2 and len(positions) == 3, lambda: "three wait")
    assert (backend.status().running, backend.status().waiting) == (2, 3)
    with pytest.raises(BackendBusy, match="3 questions are waiting"):
        await anext(backend.generate(request()))
    release.set()
    finished = await asyncio.gather(*reading)
    assert [event.reason for event in finished] == ["end_of_turn"] * 5
    assert server.most == 2
    assert sorted(positions) == [1, 1, 1, 2, 2, 3], "each is told when the place changes"


async def test_first_come_first_served(server, connect):
    backend = connect(remote_concurrency=1)
    await asyncio.gather(*(events_of(backend, request(f"question {index}")) for index in range(5)))
    asked = [exchange.body["messages"][0]["content"] for exchange in server.asked]
    assert asked == [f"question {index}" for index in range(5)]


async def test_the_same_id_twice_is_refused(server, connect):
    release = threading.Event()
    server.chat = lambda exchange: (exchange.say("x"), release.wait(PATIENCE_S), exchange.end())
    backend = connect()
    asked = request()
    async with aclosing(backend.generate(asked)) as stream:
        await anext(stream)
        with pytest.raises(BadRequest, match="already under way"):
            await anext(backend.generate(asked))
        release.set()
        assert [type(event) async for event in stream][-1] is FinishEvent


# --- coming and going ----------------------------------------------------------------------------------------------------


async def test_a_server_that_is_not_there_yet_is_waited_for(connect):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    backend = connect(wait=False, remote_url=f"http://127.0.0.1:{port}/v1")
    wait_until(lambda: "connection refused" in cause_of(backend.status().detail), lambda: cause_of(backend.status().detail))
    assert (backend.status().state, backend.loaded) == ("loading", False)
    with pytest.raises(BackendUnavailable, match=r"^The server that runs the model cannot be reached\.$"):
        await answer(backend)
    late = ProtocolServer(port)
    try:
        wait_until(lambda: backend.status().state == "ready", lambda: cause_of(backend.status().detail))
        assert (await answer(backend))[0] == "Hello!"
    finally:
        late.stop()


async def test_a_server_that_restarts_is_found_again(server, connect):
    downs: list[str] = []
    backend = connect()
    backend._on_down = downs.append
    assert (await answer(backend))[0] == "Hello!"
    server.stop()
    # A connection that is being accepted while the server stops is reset; the next one is refused.
    wait_until(lambda: "connection refused" in cause_of(backend.status().detail), lambda: f"refused, not {backend.status()}")
    assert backend.status().state == "down"
    with pytest.raises(BackendUnavailable, match=r"^The server that runs the model cannot be reached\.$"):
        await answer(backend)
    again = ProtocolServer(server.port)
    again.models[0]["id"] = "another-model"
    try:
        wait_until(lambda: backend.status().state == "ready", lambda: cause_of(backend.status().detail))
        assert (await answer(backend))[0] == "Hello!"
        assert backend.info.model == again.asked[0].body["model"] == "another-model"
        assert len(downs) == 1
    finally:
        again.stop()


@pytest.mark.parametrize(
    ("health", "said"),
    [
        ((503, b""), "its engine is dead"),
        ((503, {"status": "loading", "reason": "warming up"}), "warming up"),
    ],
)
def test_a_server_without_an_engine_is_down_until_it_has_one(server, connect, health, said):
    server.health = health
    backend = connect(wait=False)
    wait_until(lambda: said in cause_of(backend.status().detail), lambda: cause_of(backend.status().detail))
    server.health = (404, {"detail": "Not Found"})
    wait_until(lambda: backend.status().state == "ready", lambda: "a server without /health is taken for healthy")


async def test_a_wrong_key_is_named_without_being_told(server, connect):
    server.key = "right-key"
    backend = connect(wait=False, remote_api_key="wrong-key")
    wait_until(lambda: "remote_api_key" in cause_of(backend.status().detail), lambda: cause_of(backend.status().detail))
    assert "401" in cause_of(backend.status().detail)
    assert "wrong-key" not in cause_of(backend.status().detail)
    assert (await answer(connect(remote_api_key="right-key")))[0] == "Hello!"


async def test_nothing_of_the_environment_goes_to_the_server(server, connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-another-server")
    monkeypatch.setenv("OPENAI_ORG_ID", "an-organisation")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "a-project")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    await answer(connect())
    assert not {"a-key-of-another-server", "an-organisation", "a-project"} & set(
        " ".join(server.asked[0].headers.values()).split()
    )


async def test_a_model_that_is_not_listed_is_asked_for_and_the_servers_refusal_is_what_people_read(server, connect, caplog):
    backend = connect(remote_model="b-model")
    assert "lists a-model, and not b-model; it is asked for b-model all the same" in caplog.text
    server.chat = lambda exchange: exchange.refuse(404, {"error": {"message": "The model b-model does not exist."}})
    with pytest.raises(BackendUnavailable, match="The model b-model does not exist"):
        await answer(backend)
    server.chat = hello
    assert (await answer(backend))[0] == "Hello!"
    assert {exchange.body["model"] for exchange in server.asked} == {"b-model"}


@pytest.mark.parametrize(
    "listing", [(200, {"object": "list", "data": []}), (404, {"detail": "Not Found"}), (500, b"Internal Server Error")]
)
async def test_a_server_that_lists_nothing_is_asked_for_the_named_model(server, connect, listing):
    server.routes["/v1/models"] = listing
    backend = connect(remote_model="a/model")
    assert (await answer(backend))[0] == "Hello!"
    assert server.asked[0].body["model"] == backend.info.model == "a/model"
    assert not backend.info.context_known


def test_a_server_that_lists_nothing_needs_a_name(server, connect):
    server.models = []
    backend = connect(wait=False)
    wait_until(lambda: "name one with remote_model" in cause_of(backend.status().detail), lambda: backend.status().detail)


async def test_closing_ends_what_is_under_way(server, connect):
    server.chat = lambda exchange: (exchange.say("x"), exchange.wait_gone())
    backend = connect()
    seen = []
    async with aclosing(backend.generate(request())) as stream:
        async for event in stream:
            seen.append(event)
            if isinstance(event, TokenEvent):
                await asyncio.to_thread(backend.close)
    last = seen[-1]
    assert isinstance(last, FinishEvent)
    assert (last.reason, last.error) == ("error", "The demo is shutting down.")
    backend.close()
    with pytest.raises(BackendUnavailable):
        await answer(backend)
