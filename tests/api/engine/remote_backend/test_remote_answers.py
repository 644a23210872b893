# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false, reportOptionalOperand=false
"""The backend over a server: real sockets, and servers with all their oddities."""

from __future__ import annotations

import base64
import io
import threading
from contextlib import aclosing

import pytest
from PIL import Image
from starlette.datastructures import Headers

from mllama_demo.engine.base import PrefillEvent, TokenEvent
from mllama_demo.errors import BadRequest, PromptTooLong
from mllama_demo.images.loading import load_image
from tests.support.events import events_of
from tests.support.protocol_server import PATIENCE_S, Exchange, hello
from tests.support.remote_backends import answer, request

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


async def test_the_server_gets_the_id_of_the_request_with_a_suffix_for_each_answer(server, connect):
    backend = connect()
    for asked in (request(request_id="abc-1"), request(request_id="abc-1"), request()):
        await answer(backend, asked)
    first, second, none = (Headers(exchange.headers).get("X-Request-Id", "") for exchange in server.asked)
    assert first.startswith("abc-1-")
    assert second.startswith("abc-1-")
    assert first != second
    assert none == ""


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
        ("max_tokens", {}, 5, "max_tokens"),
        ("eos_token", {}, 5, "end_of_turn"),
        ("end_turn", {}, 5, "end_of_turn"),
        ("STOP", {}, 5, "end_of_turn"),
        ("stop_sequence", {}, 5, "stop_string"),
        ("something new", {}, 5, "end_of_turn"),
        ("content_filter", {}, 5, "error"),
        ("abort", {}, 5, "error"),
    ],
)
async def test_why_an_answer_ended(server, connect, finish, more, sent, reason):
    server.chat = lambda exchange: (exchange.say("x"), exchange.end(finish, **more))
    text, last = await answer(connect(), request(sampling={"max_tokens": sent}))
    assert (text, last.reason) == ("x", reason)


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


# --- lengths -------------------------------------------------------------------------------------------------------------


def test_the_length_of_the_context_is_the_servers(server, connect):
    assert connect(seq_len=4096).info.context_length == 512
    del server.models[0]["max_model_len"]
    assert connect(seq_len=4096).info.context_length == 4096


@pytest.mark.parametrize("name", ["context_length", "context_window", "max_context_length", "max_input_tokens"])
def test_the_context_is_read_under_every_programs_name_for_it(server, connect, name):
    server.models = [{"id": "a-model", "owned_by": "somebody", name: 32768}]
    assert connect().info.told_context == 32768


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/props", {"default_generation_settings": {"n_ctx": 8192}}),
        ("/info", {"max_total_tokens": 8192, "max_input_tokens": 8000}),
    ],
)
def test_the_context_is_asked_of_a_server_behind_a_proxy(server, connect, path, body):
    server.models = [{"id": "a-model", "owned_by": "somebody"}]
    server.routes[path] = (200, body)
    assert connect().info.told_context == 8192


async def test_where_nobody_knows_the_context_the_server_decides_and_is_believed(server, connect):
    server.models = [{"id": "a-model", "owned_by": "somebody"}]
    words = "This model's maximum context length is 900 tokens. However, you requested 4196 tokens (100 in the messages, …)"

    def chat(exchange: Exchange) -> None:
        if exchange.body["max_tokens"] > 800:
            exchange.refuse(400, {"error": {"message": words}})
        else:
            hello(exchange)

    server.chat = chat
    backend = connect()
    assert (backend.info.told_context, backend.info.context_known) == (None, False)
    await answer(backend, request(sampling={"max_tokens": 4096}))
    assert [exchange.body["max_tokens"] for exchange in server.asked] == [4096, 800]
    assert backend.info.told_context == 900


# --- parameters that a server does not take ------------------------------------------------------------------------------

OPENAI_MAX = {
    "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "type": "invalid_request_error",
    "param": "max_tokens",
    "code": "unsupported_parameter",
}


@pytest.mark.parametrize(
    ("refused", "status", "error"),
    [
        ("max_tokens", 400, {"error": OPENAI_MAX}),
        (
            "seed",
            422,
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        ),
        ("stream_options", 400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}}),
        (
            "stream_options",
            400,
            {"object": "error", "message": "[{'loc': ('body', 'stream_options'), 'msg': 'extra fields not permitted'}]"},
        ),
        ("seed", 400, {"error": {"message": "This parameter is not supported.", "param": "seed"}}),
    ],
)
async def test_a_parameter_that_no_answer_needs_is_left_out_once_and_for_all(server, connect, refused, status, error):
    server.chat = lambda exchange: exchange.refuse(status, error) if refused in exchange.body else hello(exchange)
    backend = connect()
    for _ in range(2):
        assert (await answer(backend, request(sampling={"seed": 7, "max_tokens": 9})))[0] == "Hello!"
    assert [refused in exchange.body for exchange in server.asked] == [True, False, False]
    assert {exchange.body.get("max_completion_tokens") for exchange in server.asked[1:]} == {
        9 if refused == "max_tokens" else None
    }
    assert ("seed" in backend.info.capabilities) == (refused != "seed")


async def test_a_refusal_of_a_value_is_not_taken_for_a_refusal_of_its_parameter(server, connect):
    error = {"error": {"message": "max_tokens is not allowed to be larger than 5.", "param": "max_tokens"}}
    server.chat = lambda exchange: exchange.refuse(400, error)
    backend = connect()
    with pytest.raises(BadRequest, match="not allowed to be larger than 5"):
        await answer(backend, request(sampling={"max_tokens": 9}))
    server.chat = hello
    await answer(backend, request(sampling={"max_tokens": 5}))
    assert server.asked[-1].body["max_tokens"] == 5, "a name that did not help is not remembered"


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
