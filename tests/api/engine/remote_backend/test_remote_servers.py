# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportOptionalOperand=false
"""The backend over servers that differ: what each ignores, lacks or does in another way, and which model it is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from mllama_demo.config.neuron import OnDeviceSampling
from mllama_demo.engine.remote.providers import (
    IGNORE_EOS_UNSUPPORTED,
    LOGPROBS_ARE_REFUSED,
    LOGPROBS_ARE_TOKEN_IDS,
    SEED_UNSUPPORTED,
    TOP_K_UNSUPPORTED,
)
from mllama_demo.errors import cause_of
from tests.support.events import events_of
from tests.support.protocol_server import Exchange, hello
from tests.support.remote_backends import answer, request
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)


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
    assert backend.info.full_canvas


async def test_the_neuron_fork_gets_the_top_k_that_its_device_is_limited_to(server, connect):
    backend = connect(remote_kind="vllm_neuron", on_device_sampling_config=OnDeviceSampling(global_topk=16))
    for top_k in (5, 50, 0):
        await answer(backend, request(sampling={"temperature": 0.7, "top_k": top_k}))
    assert [exchange.body["top_k"] for exchange in server.asked] == [5, 16, 16]
    assert backend.info.max_top_k == 16


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


# --- which model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"id": "nomic-embed-text:latest"},
        {"id": "BAAI/bge-m3"},
        {"id": "text-embedding-3-small"},
        {"id": "whisper-1"},
        {"id": "something", "type": "embedding"},
        {"id": "something", "task": "feature-extraction"},
    ],
)
async def test_models_that_cannot_chat_are_passed_over(server, connect, other):
    server.models.insert(0, other)
    backend = connect()
    await answer(backend)
    assert server.asked[0].body["model"] == backend.info.model == "a-model"


@pytest.mark.parametrize("name", ["embedded", "org/Llama-3.2-11B-Vision-Instruct", "gte5-chat"])
def test_a_model_with_a_similar_name_is_no_such_model(server, connect, name):
    server.models = [{"id": name}]
    assert connect().info.model == name


def test_only_models_that_cannot_chat_is_a_sentence(server, connect):
    server.models = [{"id": "bge-m3"}]
    backend = connect(wait=False)
    wait_until(lambda: "cannot chat (bge-m3)" in cause_of(backend.status().detail), lambda: backend.status().detail)


async def test_a_model_that_is_named_is_used_whatever_it_is_called(server, connect):
    server.models.append({"id": "my-embed-chat"})
    await answer(connect(remote_model="my-embed-chat"))
    assert server.asked[0].body["model"] == "my-embed-chat"


def test_a_choice_among_several_is_said(server, connect, caplog):
    server.models += [{"id": "b-model"}, {"id": "c-model"}]
    connect()
    assert "lists 3 models, and a-model is used; remote_model names another" in caplog.text
