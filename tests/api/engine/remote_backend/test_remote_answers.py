# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportOptionalOperand=false
"""The backend over a server: real sockets, and servers with all their oddities."""

from __future__ import annotations

import base64
import io
import threading
from contextlib import aclosing
from typing import Any

import pytest
from PIL import Image

from mllama_demo.engine.base import PrefillEvent, TokenEvent
from mllama_demo.engine.remote.providers import (
    IGNORE_EOS_UNSUPPORTED,
    LOGPROBS_ARE_REFUSED,
    LOGPROBS_ARE_TOKEN_IDS,
    SEED_UNSUPPORTED,
    TOP_K_UNSUPPORTED,
)
from mllama_demo.errors import PromptTooLong
from mllama_demo.images.loading import load_image
from tests.support.protocol_server import PATIENCE_S, Exchange, hello
from tests.support.remote_backends import answer, events_of, request

pytestmark = pytest.mark.timeout(120)


# --- an answer -----------------------------------------------------------------------------------------------------------


async def test_an_answer_streams_with_the_servers_own_figures(server, connect):
    backend = connect()
    first, *tokens, last = await events_of(backend, request())
    assert isinstance(first, PrefillEvent)
    assert [(t.index, t.text) for t in tokens] == [(0, "Hel"), (1, "lo"), (2, "!")]
    assert (last.reason, last.prompt_tokens, last.completion_tokens, last.estimated) == ("end_of_turn", 40, 3, False)
    assert 0 < last.timings.ttft_s <= last.timings.total_s
    assert server.asked[0].body["model"] == "a-model"
    assert server.asked[0].body["messages"] == [{"role": "user", "content": "What is it?"}]


async def test_without_figures_from_the_server_they_are_called_estimates(server, connect):
    server.chat = lambda exchange: (exchange.say("Hi", "!"), exchange.end(usage=None))
    _, last = await answer(connect())
    assert (last.completion_tokens, last.estimated) == (2, True)
    assert last.prompt_tokens > 0


async def test_each_token_comes_when_the_server_sends_it(server, connect):
    second = threading.Event()

    def chat(exchange: Exchange) -> None:
        exchange.say("first")
        assert second.wait(PATIENCE_S), "the first token was not passed on before the second came"
        exchange.say("second")
        exchange.end()

    server.chat = chat
    async with aclosing(connect().generate(request())) as stream:
        async for event in stream:
            if isinstance(event, TokenEvent) and event.text == "first":
                second.set()
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
async def test_why_an_answer_ended(server, connect, finish, more, sent, reason):
    server.chat = lambda exchange: (exchange.say("x"), exchange.end(finish, **more))
    assert (await answer(connect(), request(sampling={"max_tokens": sent})))[1].reason == reason


async def test_an_image_is_sent_as_its_checked_pixels(server, connect):
    file = io.BytesIO()
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    picture.save(file, "PNG", pnginfo=None)
    loaded = load_image(file.getvalue(), "noise.png")
    await answer(connect(), request("Describe it", loaded))
    image, text = server.asked[0].body["messages"][0]["content"]
    assert text == {"type": "text", "text": "Describe it"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").tobytes() == picture.tobytes()


# --- what each server ignores, lacks or does differently -----------------------------------------------------------------


async def test_the_neuron_fork_gets_no_seed_and_its_way_of_being_greedy(server, connect):
    backend = connect(remote_kind="vllm_neuron")
    await answer(backend, request(sampling={"temperature": 0.0, "seed": 7}))
    await answer(backend, request(sampling={"temperature": 0.7, "top_k": 5, "top_p": 0.5, "seed": 7}))
    greedy, drawn = (exchange.body for exchange in server.asked)
    assert (greedy["temperature"], greedy["top_p"], greedy["top_k"]) == (1.0, 1.0, 1)
    assert (drawn["temperature"], drawn["top_p"], drawn["top_k"]) == (0.7, 0.5, 5)
    assert "seed" not in greedy
    assert "seed" not in drawn
    assert backend.info.capabilities == {"images"}
    assert backend.info.ignored == {"seed": SEED_UNSUPPORTED}
    assert (backend.info.tile_size, backend.info.max_tiles, backend.info.slots) == (560, 4, 4)


async def test_vllm_gets_a_seed_and_no_top_k_of_zero_which_older_versions_refuse(server, connect):
    backend = connect()
    await answer(backend, request(sampling={"top_k": 0, "seed": 7}))
    assert server.asked[0].body["seed"] == 7
    assert "top_k" not in server.asked[0].body
    assert "vLLM" in backend.info.device
    assert backend.info.capabilities == {"images", "seed", "logprobs"}


async def test_an_unknown_server_gets_the_plain_protocol(server, connect):
    server.models[0]["owned_by"] = "somebody"
    backend = connect()
    await answer(backend, request(sampling={"temperature": 0.0, "top_k": 9, "stop": ("###",)}))
    body = server.asked[0].body
    assert (body["temperature"], body["stop"]) == (0.0, ["###"])
    assert "top_k" not in body
    assert backend.info.ignored == {"top_k": TOP_K_UNSUPPORTED, "ignore_eos": IGNORE_EOS_UNSUPPORTED}


@pytest.mark.parametrize(("owner", "sent"), [("vllm", True), ("somebody", None)])
async def test_a_server_that_knows_ignore_eos_is_told(server, connect, owner, sent):
    server.models[0]["owned_by"] = owner
    backend = connect()
    await answer(backend, request(sampling={"ignore_eos": True}))
    await answer(backend, request())
    assert [exchange.body.get("ignore_eos") for exchange in server.asked] == [sent, None]


def test_another_copy_of_the_demo_is_known_by_its_health(server, connect):
    server.models[0]["owned_by"] = "somebody"
    server.health = (200, {"status": "ready", "running": 0, "waiting": 0, "slots": 3})
    backend = connect()
    assert "mllama_demo" in backend.info.device
    assert backend.info.slots == 3
    assert connect(remote_concurrency=2).info.slots == 2


async def test_what_looks_like_markup_of_the_model_loses_its_meaning(server, connect):
    text = "Say <|eot_id|> and 1 <| 2"
    await answer(connect(), request(text))
    sent = server.asked[0].body["messages"][0]["content"]
    assert "<|eot_id|>" not in sent
    assert sent.replace("\u2060", "") == text
    await answer(connect(remote_kind="mllama_demo"), request(text))
    assert server.asked[1].body["messages"][0]["content"] == text, "another copy of the demo does this itself"


def logprob(token: str, value: float, *rivals: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": t, "logprob": v, "bytes": list(t.encode())} for t, v in rivals]
    return {"content": [{"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": top}]}


async def test_logprobs_are_passed_on_when_asked_for(server, connect):
    def chat(exchange: Exchange) -> None:
        exchange.begin()
        exchange.chunk({"content": "cat"}, logprobs=logprob("cat", -0.5, ("dog", -1.5), ("cat", -0.5)))
        exchange.end()

    server.chat = chat
    backend = connect()
    *_, token, _ = await events_of(backend, request(trace=True))
    assert [(p.text, p.logprob, p.likeliest) for p in token.logprobs] == [("cat", -0.5, (("cat", -0.5), ("dog", -1.5)))]
    assert (server.asked[0].body["logprobs"], server.asked[0].body["top_logprobs"]) == (True, 20)
    await answer(backend)
    assert "logprobs" not in server.asked[1].body


async def test_a_server_that_allows_fewer_logprobs_is_asked_for_as_many_as_it_allows(server, connect):
    def chat(exchange: Exchange) -> None:
        if exchange.body.get("top_logprobs", 0) > 5:
            message = "Requested sample logprobs of 20, which is greater than max allowed: 5"
            return exchange.refuse(400, {"error": {"message": message, "type": "BadRequestError"}})
        exchange.begin()
        exchange.chunk({"content": "cat"}, logprobs=logprob("cat", -0.5, ("cat", -0.5)))
        return exchange.end()

    server.chat = chat
    backend = connect()
    for _ in range(2):
        *_, token, last = await events_of(backend, request(trace=True))
        assert (len(token.logprobs), last.reason) == (1, "end_of_turn")
    assert [asked.body["top_logprobs"] for asked in server.asked] == [20, 5, 5]
    assert "logprobs" in backend.info.capabilities


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_logprobs_answers_without_them(server, connect, status):
    def chat(exchange: Exchange) -> None:
        if "logprobs" in exchange.body:
            return exchange.refuse(status, {"error": {"message": "logprobs: Extra inputs are not permitted (got 12)"}})
        return hello(exchange)

    server.chat = chat
    backend = connect(remote_kind="other")
    assert "logprobs" in backend.info.capabilities
    text, last = await answer(backend, request(trace=True))
    assert (text, last.reason) == ("Hello!", "end_of_turn")
    assert "logprobs" not in backend.info.capabilities
    assert backend.info.ignored["logprobs"] == LOGPROBS_ARE_REFUSED


async def test_token_ids_in_the_place_of_probabilities_are_not_shown(server, connect):
    def chat(exchange: Exchange) -> None:
        exchange.begin()
        exchange.chunk({"content": "cat"}, logprobs=logprob("cat", 8415.0, ("cat", 8415.0)))
        exchange.end()

    server.chat = chat
    backend = connect()
    *_, token, last = await events_of(backend, request(trace=True))
    assert (token.text, token.logprobs, last.reason) == ("cat", (), "end_of_turn")
    assert "logprobs" not in backend.info.capabilities
    assert backend.info.ignored["logprobs"] == LOGPROBS_ARE_TOKEN_IDS


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
async def test_an_answer_that_does_not_fit_is_asked_for_as_long_as_the_server_has_room(server, connect, words):
    def chat(exchange: Exchange) -> None:
        if exchange.body["max_tokens"] > 12:
            exchange.refuse(400, {"object": "error", "message": words, "type": "BadRequestError", "param": None, "code": 400})
        else:
            exchange.say("x")
            exchange.end("length", usage=(500, 12))

    server.chat = chat
    _, last = await answer(connect(), request(sampling={"max_tokens": 200}))
    assert [exchange.body["max_tokens"] for exchange in server.asked] == [200, 12]
    assert (last.reason, last.completion_tokens) == ("context_full", 12)


async def test_a_question_that_does_not_fit_is_refused_in_the_servers_words_and_remembered(server, connect):
    words = "This model's maximum context length is 512 tokens. However, you requested 610 tokens (600 in the messages, …)"
    server.chat = lambda exchange: exchange.refuse(400, {"object": "error", "message": words})
    backend = connect()
    asked = request("字" * 100)
    before = backend.estimate.count(asked.messages)
    with pytest.raises(PromptTooLong, match="600 in the messages"):
        await answer(backend, asked)
    assert before < 600 <= backend.estimate.count(asked.messages)


async def test_the_estimate_learns_from_what_the_server_counts(server, connect):
    server.chat = lambda exchange: (exchange.say("x"), exchange.end(usage=(400, 1)))
    backend = connect()
    asked = request("word " * 100)
    await answer(backend, asked)
    assert 400 <= backend.estimate.count(asked.messages) < 450
