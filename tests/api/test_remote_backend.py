"""The backend over a server: against real sockets, servers with all their oddities, and servers that go and come back."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from PIL import Image
from protocol_server import PATIENCE_S, Exchange, ProtocolServer

from mllama_demo.backend.base import Event, FinishEvent, GenerationRequest, PrefillEvent, QueueEvent, TokenEvent
from mllama_demo.backend.openai_backend import OpenAIBackend
from mllama_demo.backend.remote_kinds import NO_IGNORE_EOS, NO_SEED, NO_TOP_K, WRONG_LOGPROBS
from mllama_demo.config import Settings
from mllama_demo.conversation import ImageRef, Message
from mllama_demo.errors import BackendBusy, BackendUnavailable, BadRequest, PromptTooLong
from mllama_demo.images import LoadedImage, load_image
from mllama_demo.sampling import SamplingParams

pytestmark = pytest.mark.timeout(120)
QUESTION = (Message("user", "What is it?"),)


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    server = ProtocolServer()
    yield server
    server.stop()


@pytest.fixture
def connect(server) -> Iterator[Callable[..., OpenAIBackend]]:
    """Makes started backends for the server, waiting until they are ready unless told not to."""
    made: list[OpenAIBackend] = []

    def make(wait: bool = True, **options: Any) -> OpenAIBackend:
        options = {"remote_url": server.url, "backend": "openai", **options}
        backend = OpenAIBackend(Settings(**options), look_every_s=0.1)
        backend.start()
        made.append(backend)
        if wait:
            until(lambda: backend.status().state == "ready", lambda: f"ready; {backend.status()}")
        return backend

    yield make
    for backend in made:
        backend.close()


def until(condition: Callable[[], Any], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + 3 * PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what()}"
        time.sleep(0.01)


def request(text: str = "What is it?", image: LoadedImage | None = None, **options: Any) -> GenerationRequest:
    sampling = SamplingParams(**options.pop("sampling", {}))
    seen = image and ImageRef(image.digest, image.name, image.width, image.height)
    return GenerationRequest((), sampling, image=image, messages=(Message("user", text, seen or None),), **options)


async def events_of(backend: OpenAIBackend, asked: GenerationRequest) -> list[Event]:
    async with aclosing(backend.generate(asked)) as stream:
        return [event async for event in stream]


def answer(backend: OpenAIBackend, asked: GenerationRequest | None = None) -> tuple[str, FinishEvent]:
    """The text and the last event."""
    *events, last = asyncio.run(asyncio.wait_for(events_of(backend, asked or request()), 3 * PATIENCE_S))
    assert isinstance(last, FinishEvent)
    return "".join(e.text for e in events if isinstance(e, TokenEvent)) + last.text, last


# --- an answer -----------------------------------------------------------------------------------------------------------


def test_an_answer_streams_with_the_servers_own_figures(server, connect):
    backend = connect()
    first, *tokens, last = asyncio.run(events_of(backend, request()))
    assert isinstance(first, PrefillEvent)
    assert [(t.index, t.text) for t in tokens] == [(0, "Hel"), (1, "lo"), (2, "!")]
    assert (last.reason, last.prompt_tokens, last.completion_tokens, last.estimated) == ("end_of_turn", 40, 3, False)
    assert 0 < last.timings.ttft_s <= last.timings.total_s
    assert server.asked[0].body["model"] == "a-model"
    assert server.asked[0].body["messages"] == [{"role": "user", "content": "What is it?"}]


def test_without_figures_from_the_server_they_are_called_estimates(server, connect):
    server.chat = lambda exchange: (exchange.say("Hi", "!"), exchange.end(usage=None))
    _, last = answer(connect())
    assert (last.completion_tokens, last.estimated) == (2, True)
    assert last.prompt_tokens > 0


def test_each_token_comes_when_the_server_sends_it(server, connect):
    second = threading.Event()

    def chat(exchange: Exchange) -> None:
        exchange.say("first")
        assert second.wait(PATIENCE_S), "the first token was not passed on before the second came"
        exchange.say("second")
        exchange.end()

    server.chat = chat

    async def read() -> None:
        async with aclosing(connect().generate(request())) as stream:
            async for event in stream:
                if isinstance(event, TokenEvent) and event.text == "first":
                    second.set()

    asyncio.run(read())
    assert second.is_set()


@pytest.mark.parametrize(
    ("finish", "more", "sent", "reason"),
    [
        ("stop", {}, 5, "end_of_turn"),
        ("stop", {"stop_reason": "###"}, 5, "stop_string"),
        ("stop", {"stop_reason": 128009}, 5, "end_of_turn"),
        ("length", {}, 5, "max_tokens"),
    ],
)
def test_why_an_answer_ended(server, connect, finish, more, sent, reason):
    server.chat = lambda exchange: (exchange.say("x"), exchange.end(finish, **more))
    assert answer(connect(), request(sampling={"max_tokens": sent}))[1].reason == reason


def test_an_image_is_sent_as_its_checked_pixels(server, connect):
    file = io.BytesIO()
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    picture.save(file, "PNG", pnginfo=None)
    loaded = load_image(file.getvalue(), "noise.png")
    answer(connect(), request("Describe it", loaded))
    image, text = server.asked[0].body["messages"][0]["content"]
    assert text == {"type": "text", "text": "Describe it"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").tobytes() == picture.tobytes()


# --- what each server ignores, lacks or does differently ------------------------------------------------------------------


def test_the_neuron_fork_gets_no_seed_and_its_way_of_being_greedy(server, connect):
    backend = connect(remote_kind="vllm_neuron")
    answer(backend, request(sampling={"temperature": 0.0, "seed": 7}))
    answer(backend, request(sampling={"temperature": 0.7, "top_k": 5, "top_p": 0.5, "seed": 7}))
    greedy, drawn = (exchange.body for exchange in server.asked)
    assert (greedy["temperature"], greedy["top_p"], greedy["top_k"]) == (1.0, 1.0, 1)
    assert (drawn["temperature"], drawn["top_p"], drawn["top_k"]) == (0.7, 0.5, 5)
    assert "seed" not in greedy
    assert "seed" not in drawn
    assert backend.info.capabilities == {"images"}
    assert backend.info.ignored == {"seed": NO_SEED}
    assert (backend.info.tile_size, backend.info.max_tiles, backend.info.slots) == (560, 4, 4)


def test_vllm_gets_a_seed_and_no_top_k_of_zero_which_older_versions_refuse(server, connect):
    backend = connect()
    answer(backend, request(sampling={"top_k": 0, "seed": 7}))
    assert server.asked[0].body["seed"] == 7
    assert "top_k" not in server.asked[0].body
    assert "vLLM" in backend.info.device
    assert backend.info.capabilities == {"images", "seed", "logprobs"}


def test_an_unknown_server_gets_the_plain_protocol(server, connect):
    server.models[0]["owned_by"] = "somebody"
    backend = connect()
    answer(backend, request(sampling={"temperature": 0.0, "top_k": 9, "stop": ("###",)}))
    body = server.asked[0].body
    assert (body["temperature"], body["stop"]) == (0.0, ["###"])
    assert "top_k" not in body
    assert backend.info.ignored == {"top_k": NO_TOP_K, "ignore_eos": NO_IGNORE_EOS}


@pytest.mark.parametrize(("owner", "sent"), [("vllm", True), ("somebody", None)])
def test_a_server_that_knows_ignore_eos_is_told(server, connect, owner, sent):
    server.models[0]["owned_by"] = owner
    backend = connect()
    answer(backend, request(sampling={"ignore_eos": True}))
    answer(backend, request())
    assert [exchange.body.get("ignore_eos") for exchange in server.asked] == [sent, None]


def test_another_copy_of_the_demo_is_known_by_its_health(server, connect):
    server.models[0]["owned_by"] = "somebody"
    server.health = (200, {"status": "ready", "running": 0, "waiting": 0, "slots": 3})
    backend = connect()
    assert "mllama_demo" in backend.info.device
    assert backend.info.slots == 3
    assert connect(remote_concurrency=2).info.slots == 2


def test_what_looks_like_markup_of_the_model_loses_its_meaning(server, connect):
    text = "Say <|eot_id|> and 1 <| 2"
    answer(connect(), request(text))
    sent = server.asked[0].body["messages"][0]["content"]
    assert "<|eot_id|>" not in sent
    assert sent.replace("\u2060", "") == text
    answer(connect(remote_kind="mllama_demo"), request(text))
    assert server.asked[1].body["messages"][0]["content"] == text, "another copy of the demo does this itself"


def logprob(token: str, value: float, *rivals: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": t, "logprob": v, "bytes": list(t.encode())} for t, v in rivals]
    return {"content": [{"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": top}]}


def test_logprobs_are_passed_on_when_asked_for(server, connect):
    def chat(exchange: Exchange) -> None:
        exchange.begin()
        exchange.chunk({"content": "cat"}, logprobs=logprob("cat", -0.5, ("dog", -1.5), ("cat", -0.5)))
        exchange.end()

    server.chat = chat
    backend = connect()
    *_, token, _ = asyncio.run(events_of(backend, request(trace=True)))
    assert [(p.text, p.logprob, p.likeliest) for p in token.logprobs] == [("cat", -0.5, (("cat", -0.5), ("dog", -1.5)))]
    assert (server.asked[0].body["logprobs"], server.asked[0].body["top_logprobs"]) == (True, 20)
    answer(backend)
    assert "logprobs" not in server.asked[1].body


def test_token_ids_in_the_place_of_probabilities_are_not_shown(server, connect):
    def chat(exchange: Exchange) -> None:
        exchange.begin()
        exchange.chunk({"content": "cat"}, logprobs=logprob("cat", 8415.0, ("cat", 8415.0)))
        exchange.end()

    server.chat = chat
    backend = connect()
    *_, token, last = asyncio.run(events_of(backend, request(trace=True)))
    assert (token.text, token.logprobs, last.reason) == ("cat", (), "end_of_turn")
    assert "logprobs" not in backend.info.capabilities
    assert backend.info.ignored["logprobs"] == WRONG_LOGPROBS


# --- lengths -------------------------------------------------------------------------------------------------------------


def test_the_length_of_the_context_is_the_servers(server, connect):
    assert connect(seq_len=4096).info.context_length == 512
    del server.models[0]["max_model_len"]
    assert connect(seq_len=4096).info.context_length == 4096


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 512 tokens. However, you requested 700 tokens (500 in the messages, 200 in the "
        "completion). Please reduce the length of the messages or completion.",
        "'max_tokens' or 'max_completion_tokens' is too large: 200. This model's maximum context length is 512 tokens and your "
        "request has 500 input tokens (200 > 512 - 500).",
    ],
)
def test_an_answer_that_does_not_fit_is_asked_for_as_long_as_the_server_has_room(server, connect, words):
    def chat(exchange: Exchange) -> None:
        if exchange.body["max_tokens"] > 12:
            exchange.refuse(400, {"object": "error", "message": words, "type": "BadRequestError", "param": None, "code": 400})
        else:
            exchange.say("x")
            exchange.end("length", usage=(500, 12))

    server.chat = chat
    _, last = answer(connect(), request(sampling={"max_tokens": 200}))
    assert [exchange.body["max_tokens"] for exchange in server.asked] == [200, 12]
    assert (last.reason, last.completion_tokens) == ("context_full", 12)


def test_a_question_that_does_not_fit_is_refused_in_the_servers_words_and_remembered(server, connect):
    words = "This model's maximum context length is 512 tokens. However, you requested 610 tokens (600 in the messages, …)"
    server.chat = lambda exchange: exchange.refuse(400, {"object": "error", "message": words})
    backend = connect()
    asked = request("字" * 100)
    before = backend.estimate.count(asked.messages)
    with pytest.raises(PromptTooLong, match="600 in the messages"):
        answer(backend, asked)
    assert before < 600 <= backend.estimate.count(asked.messages)


def test_the_estimate_learns_from_what_the_server_counts(server, connect):
    server.chat = lambda exchange: (exchange.say("x"), exchange.end(usage=(400, 1)))
    backend = connect()
    asked = request("word " * 100)
    answer(backend, asked)
    assert 400 <= backend.estimate.count(asked.messages) < 450


# --- failures, by their true cause ---------------------------------------------------------------------------------------

FLAT = {"object": "error", "message": "the true cause", "type": "BadRequestError", "param": None, "code": 400}
NESTED = {"error": {"message": "the true cause", "type": "invalid_request_error", "param": None, "code": None}}


@pytest.mark.parametrize(
    ("status", "error", "kind", "said"),
    [
        (400, FLAT, BadRequest, "the true cause"),
        (400, NESTED, BadRequest, "the true cause"),
        (400, {"detail": "the true cause"}, BadRequest, "the true cause"),
        (422, {"detail": [{"loc": ["body"], "msg": "the true cause"}]}, BadRequest, "the true cause"),
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
def test_a_refusal_is_told_in_the_servers_own_words(server, connect, status, error, kind, said):
    server.chat = lambda exchange: exchange.refuse(status, error)
    with pytest.raises(kind) as caught:
        answer(connect())
    assert type(caught.value) is kind
    assert said in str(caught.value)
    assert "<h1>" not in str(caught.value)


@pytest.mark.parametrize("event", [FLAT, NESTED])
def test_a_failure_in_the_middle_keeps_what_came_and_says_why(server, connect, event):
    server.chat = lambda exchange: (exchange.say("So far"), exchange.event(event), exchange.event("[DONE]"))
    text, last = answer(connect())
    assert (text, last.reason) == ("So far", "error")
    assert "the true cause" in (last.error or "")


def test_an_answer_that_just_stops_is_no_whole_answer(server, connect):
    server.chat = lambda exchange: exchange.say("So far")
    text, last = answer(connect())
    assert (text, last.reason) == ("So far", "error")
    assert "broke off" in (last.error or "")


def test_rubbish_is_called_so(server, connect):
    server.chat = lambda exchange: (exchange.say("So far"), exchange.event("{no json"))
    assert "no chat completion" in (answer(connect())[1].error or "")


def test_silence_has_an_end(server, connect):
    """The first token is waited for as long as the settings say, which is longer than a test may."""
    waited = threading.Event()
    server.chat = lambda exchange: (exchange.begin(), waited.wait(PATIENCE_S))
    _, last = answer(connect(remote_silence_timeout_s=1))
    waited.set()
    assert last.reason == "error"
    assert "silent" in (last.error or "")


def test_a_time_limit_closes_the_connection(server, connect):
    gone: list[bool] = []
    server.chat = lambda exchange: (exchange.say("So far"), gone.append(exchange.wait_gone()))
    text, last = answer(connect(), request(time_limit_s=1.5))
    assert (text, last.reason) == ("So far", "time_limit")
    until(lambda: gone == [True], lambda: "the connection is closed")


# --- cancelling ----------------------------------------------------------------------------------------------------------


def test_closing_the_stream_closes_the_connection(server, connect):
    gone: list[bool] = []
    server.chat = lambda exchange: (exchange.say("one", "two"), gone.append(exchange.wait_gone()))
    backend = connect()

    async def read_a_little() -> None:
        async with aclosing(backend.generate(request())) as stream:
            async for event in stream:
                if isinstance(event, TokenEvent):
                    return

    asyncio.run(read_a_little())
    until(lambda: gone == [True], lambda: "the connection is closed")
    until(lambda: backend.status().running == 0, lambda: "the slot is free")


def test_cancelling_finishes_the_stream_and_closes_the_connection(server, connect):
    gone: list[bool] = []
    server.chat = lambda exchange: (exchange.say("one"), gone.append(exchange.wait_gone()))
    backend = connect()
    asked = request()

    async def read() -> Event:
        async with aclosing(backend.generate(asked)) as stream:
            async for event in stream:
                if isinstance(event, TokenEvent):
                    backend.cancel("no such request")
                    backend.cancel(asked.id)
        return event

    last = asyncio.run(asyncio.wait_for(read(), PATIENCE_S))
    assert isinstance(last, FinishEvent)
    assert last.reason == "cancelled"
    until(lambda: gone == [True], lambda: "the connection is closed")


def test_a_stream_that_is_closed_at_once_is_never_sent(server, connect):
    backend = connect(remote_concurrency=1)

    async def scene() -> None:
        for _ in range(20):
            stream = backend.generate(request())
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await stream.aclose()
        assert [type(e) for e in await events_of(backend, request())][-1] is FinishEvent

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_S))
    until(lambda: backend.status().running == backend.status().waiting == 0, lambda: "nothing is under way")


# --- many at once --------------------------------------------------------------------------------------------------------


def test_no_more_are_sent_at_once_than_the_server_has_slots(server, connect):
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

    async def scene() -> list[FinishEvent]:
        reading = [asyncio.ensure_future(read(index)) for index in range(5)]
        await asyncio.to_thread(until, lambda: len(server.asked) == 2 and len(positions) == 3, lambda: "three wait")
        assert (backend.status().running, backend.status().waiting) == (2, 3)
        with pytest.raises(BackendBusy, match="3 questions are waiting"):
            await anext(backend.generate(request()))
        release.set()
        return await asyncio.gather(*reading)

    finished = asyncio.run(asyncio.wait_for(scene(), 3 * PATIENCE_S))
    assert [event.reason for event in finished] == ["end_of_turn"] * 5
    assert server.most == 2
    assert sorted(positions) == [1, 1, 1, 2, 2, 3], "each is told when the place changes"


def test_first_come_first_served(server, connect):
    backend = connect(remote_concurrency=1)

    async def scene() -> None:
        await asyncio.gather(*(events_of(backend, request(f"question {index}")) for index in range(5)))

    asyncio.run(asyncio.wait_for(scene(), 3 * PATIENCE_S))
    asked = [exchange.body["messages"][0]["content"] for exchange in server.asked]
    assert asked == [f"question {index}" for index in range(5)]


def test_the_same_id_twice_is_refused(server, connect):
    release = threading.Event()
    server.chat = lambda exchange: (exchange.say("x"), release.wait(PATIENCE_S), exchange.end())
    backend = connect()
    asked = request()

    async def scene() -> None:
        async with aclosing(backend.generate(asked)) as stream:
            await anext(stream)
            with pytest.raises(BadRequest, match="already under way"):
                await anext(backend.generate(asked))
            release.set()
            assert [type(event) async for event in stream][-1] is FinishEvent

    asyncio.run(scene())


# --- coming and going ----------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_yet_is_waited_for(connect):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    backend = connect(wait=False, remote_url=f"http://127.0.0.1:{port}/v1")
    until(lambda: "connection refused" in backend.status().detail, lambda: backend.status().detail)
    assert (backend.status().state, backend.loaded) == ("loading", False)
    with pytest.raises(BackendUnavailable, match="connection refused"):
        answer(backend)
    late = ProtocolServer(port)
    try:
        until(lambda: backend.status().state == "ready", lambda: backend.status().detail)
        assert answer(backend)[0] == "Hello!"
    finally:
        late.stop()


def test_a_server_that_restarts_is_found_again(server, connect):
    downs: list[str] = []
    backend = connect()
    backend._on_down = downs.append
    assert answer(backend)[0] == "Hello!"
    server.stop()
    until(lambda: backend.status().state == "down", lambda: "down")
    assert "connection refused" in backend.status().detail
    with pytest.raises(BackendUnavailable, match="connection refused"):
        answer(backend)
    again = ProtocolServer(server.port)
    again.models[0]["id"] = "another-model"
    try:
        until(lambda: backend.status().state == "ready", lambda: backend.status().detail)
        assert answer(backend)[0] == "Hello!"
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
    until(lambda: said in backend.status().detail, lambda: backend.status().detail)
    server.health = (404, {"detail": "Not Found"})
    until(lambda: backend.status().state == "ready", lambda: "a server without /health is taken for healthy")


def test_a_wrong_key_is_named_without_being_told(server, connect):
    server.key = "right-key"
    backend = connect(wait=False, remote_api_key="wrong-key")
    until(lambda: "remote_api_key" in backend.status().detail, lambda: backend.status().detail)
    assert "401" in backend.status().detail
    assert "wrong-key" not in backend.status().detail
    assert answer(connect(remote_api_key="right-key"))[0] == "Hello!"


def test_nothing_of_the_environment_goes_to_the_server(server, connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-another-server")
    monkeypatch.setenv("OPENAI_ORG_ID", "an-organisation")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "a-project")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    answer(connect())
    assert not {"a-key-of-another-server", "an-organisation", "a-project"} & set(
        " ".join(server.asked[0].headers.values()).split()
    )


def test_a_model_that_is_not_served_is_named_with_those_that_are(server, connect):
    backend = connect(wait=False, remote_model="b-model")
    until(lambda: "b-model" in backend.status().detail, lambda: backend.status().detail)
    assert "a-model" in backend.status().detail
    server.models.append({"id": "b-model"})
    until(lambda: backend.status().state == "ready", lambda: "ready")
    assert answer(backend)[0] == "Hello!"
    assert server.asked[0].body["model"] == "b-model"


def test_closing_ends_what_is_under_way(server, connect):
    server.chat = lambda exchange: (exchange.say("x"), exchange.wait_gone())
    backend = connect()

    async def scene() -> list[Event]:
        seen = []
        async with aclosing(backend.generate(request())) as stream:
            async for event in stream:
                seen.append(event)
                if isinstance(event, TokenEvent):
                    await asyncio.to_thread(backend.close)
        return seen

    last = asyncio.run(asyncio.wait_for(scene(), PATIENCE_S))[-1]
    assert isinstance(last, FinishEvent)
    assert (last.reason, last.error) == ("error", "The demo is shutting down.")
    backend.close()
    with pytest.raises(BackendUnavailable):
        answer(backend)
