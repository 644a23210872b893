"""The official OpenAI client against a real server with a real model."""

from __future__ import annotations

import asyncio
import functools
import http.server
import math
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.openai_clients import NAME, PICTURES, about, async_client, client, data_url, metric, user, wait_idle
from tests.support.program import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

QUESTION = "What is the capital of Italy?"
STORY = "Tell me a story."
LONG: Any = {"max_tokens": 1500, "extra_body": {"ignore_eos": True}}  # busy for longer than a slow client takes to look

TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.fixture(scope="module")
def pictures() -> Iterator[str]:
    """The address of a web server with the example pictures."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(PICTURES))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


# --- answers -------------------------------------------------------------------------------------------------------------


def test_a_question_is_answered(api: Program):
    answer = client(api).chat.completions.create(model=NAME, messages=[user(QUESTION)], temperature=0)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == NAME
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_answer_equals_the_whole_response(api: Program):
    fields = {"model": NAME, "messages": [user(STORY)], "seed": 3, "temperature": 1.5, "max_tokens": 40}
    whole = client(api).chat.completions.create(**fields)
    chunks = list(client(api).chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    *spoken, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in spoken) == whole.choices[0].message.content
    assert spoken[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert [chunk.usage for chunk in spoken] == [None] * len(spoken)
    assert (last.choices, last.usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_same_seed_repeats_an_answer_and_another_does_not(api: Program):
    def ask(seed: int | None) -> tuple[str | None, int]:
        answer = client(api).chat.completions.create(
            model=NAME, messages=[user(STORY)], seed=seed, temperature=2, top_p=1, max_tokens=30
        )
        assert answer.model_extra is not None
        return answer.choices[0].message.content, answer.model_extra["seed"]

    first, _ = ask(5)
    assert ask(5) == (first, 5)
    assert ask(6)[0] != first
    drawn, seed = ask(None)
    assert ask(seed)[0] == drawn, "a seed that was drawn here repeats the answer too"


def test_several_choices_have_their_own_seeds(api: Program):
    fields = {"model": NAME, "messages": [user(STORY)], "temperature": 2, "top_p": 1, "max_tokens": 20}
    answer = client(api).chat.completions.create(**fields, n=3, seed=11)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    second = client(api).chat.completions.create(**fields, seed=12)
    assert second.choices[0].message.content == texts[1]
    streamed = {0: "", 1: "", 2: ""}
    for chunk in client(api).chat.completions.create(**fields, n=3, seed=11, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(streamed.values()) == texts


def test_a_conversation_is_continued(api: Program):
    messages = [
        {"role": "system", "content": "You are brief."},
        user("My name is Ada."),
        {"role": "assistant", "content": "Hello Ada."},
        user(QUESTION),
    ]
    long = client(api).chat.completions.create(model=NAME, messages=messages, max_tokens=2)
    short = client(api).chat.completions.create(model=NAME, messages=messages[-1:], max_tokens=2)
    assert long.usage is not None
    assert short.usage is not None
    assert long.usage.prompt_tokens > short.usage.prompt_tokens
    assert long.choices[0].finish_reason == "length"
    assert long.usage.completion_tokens == 2


async def test_concurrent_requests_get_their_own_answers(api: Program):
    questions = [f"What is {a} plus {b}?" for a in range(3) for b in range(3)]
    async with async_client(api) as asking:
        answers = await asyncio.gather(
            *(asking.chat.completions.create(model=NAME, messages=[user(q)], temperature=0, max_tokens=20) for q in questions)
        )
    together = [answer.choices[0].message.content for answer in answers]
    alone = [client(api).chat.completions.create(model=NAME, messages=[user(q)], temperature=0, max_tokens=20) for q in questions]
    assert together == [answer.choices[0].message.content for answer in alone]


# --- images --------------------------------------------------------------------------------------------------------------


def test_an_image_in_a_data_url_is_seen(api: Program):
    texts = {}
    for name in ("dog", "apples"):
        messages = [about(data_url(PICTURES / f"{name}.png"))]
        answer = client(api).chat.completions.create(model=NAME, messages=messages, temperature=0, max_tokens=40)
        texts[name] = answer.choices[0].message.content
        assert answer.model_extra is not None
        assert (answer.model_extra["image"]["width"], answer.model_extra["image"]["message"]) == (640, 0)
    assert "dog" in texts["dog"].lower()
    assert "apple" in texts["apples"].lower()


def test_an_image_at_a_url_gives_the_same_answer(api: Program, pictures: str):
    from_web, from_request = (
        client(api).chat.completions.create(model=NAME, messages=[about(url)], temperature=0, max_tokens=40)
        for url in (f"{pictures}/dog.png", data_url(PICTURES / "dog.png"))
    )
    assert from_web.choices[0].message.content == from_request.choices[0].message.content
    assert from_web.usage == from_request.usage


def test_the_newest_image_is_seen_with_a_system_message_too(api: Program):
    messages = [
        {"role": "system", "content": "You describe pictures."},
        about(data_url(PICTURES / "dog.png")),
        {"role": "assistant", "content": "This is a picture of a dog."},
        about(data_url(PICTURES / "apples.png")),
    ]
    answer = client(api).chat.completions.create(model=NAME, messages=messages, temperature=0, max_tokens=40)
    assert "apple" in (answer.choices[0].message.content or "").lower()
    assert answer.model_extra is not None
    assert (answer.model_extra["image"]["message"], answer.model_extra["image"]["not_seen"]) == (3, 1)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("{pictures}/LICENSE.md", "is not an image that can be read"),
        ("{pictures}/no-such.png", "HTTP status 404"),
        ("http://localhost:1/a.png", "only hosts that its operator chose"),
        ("http://169.254.169.254/latest/meta-data", "only hosts that its operator chose"),
        ("file:///etc/passwd", "only http, https and data URLs"),
        ("/etc/passwd", "only http, https and data URLs"),
        ("data:image/png;base64,!", "base64 text is broken"),
    ],
)
def test_an_image_that_cannot_be_fetched_or_read_is_reported(api: Program, pictures: str, url: str, words: str):
    with pytest.raises(openai.BadRequestError) as caught:
        client(api).chat.completions.create(model=NAME, messages=[about(url.format(pictures=pictures))])
    assert words in caught.value.message
    assert (caught.value.code, caught.value.param) == ("invalid_image", "messages[0].content")


# --- stop strings ----------------------------------------------------------------------------------------------------------


def test_a_stop_string_ends_the_answer_across_token_borders(api: Program):
    fields = {"model": NAME, "messages": [user(STORY)], "temperature": 0, "max_tokens": 20}
    full = client(api).chat.completions.create(**fields).choices[0].message.content or ""
    assert len(full) > 20
    for start in range(3, 12):
        stop = full[start : start + 6]
        answer = client(api).chat.completions.create(**fields, stop=["never said", stop])
        assert answer.choices[0].message.content == full[: full.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
        assert answer.choices[0].model_extra == {"stop_reason": stop}


def test_only_text_that_is_no_stop_string_is_streamed(api: Program):
    fields = {"model": NAME, "messages": [user(STORY)], "temperature": 0, "max_tokens": 20}
    full = client(api).chat.completions.create(**fields).choices[0].message.content or ""
    stop = full[8:16]
    for string, expected in ((stop, full[:8]), (stop[:-1] + "\N{SNOWMAN}", full)):
        said = ""
        for chunk in client(api).chat.completions.create(**fields, stop=string, stream=True):
            said += chunk.choices[0].delta.content or ""
            assert expected.startswith(said)
        assert said == expected


# --- log probabilities -----------------------------------------------------------------------------------------------------


def test_logprobs_belong_to_the_tokens_of_the_answer(api: Program):
    fields = {"model": NAME, "messages": [user(STORY)], "seed": 1, "temperature": 1, "top_p": 1, "max_tokens": 20}
    answer = client(api).chat.completions.create(**fields, logprobs=True, top_logprobs=20)
    (choice,) = answer.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    said = b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content)
    assert said.decode() == choice.message.content
    for entry in choice.logprobs.content:
        tops = [top.logprob for top in entry.top_logprobs]
        assert len(tops) == 20
        assert tops == sorted(tops, reverse=True)
        assert sum(math.exp(top) for top in tops) <= 1 + 1e-6
        if entry.token in [top.token for top in entry.top_logprobs]:
            assert entry.logprob in tops
        else:
            assert entry.logprob <= tops[-1]
    streamed = [
        entry
        for chunk in client(api).chat.completions.create(**fields, logprobs=True, top_logprobs=20, stream=True)
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in choice.logprobs.content]
    assert [entry.logprob for entry in streamed] == pytest.approx([entry.logprob for entry in choice.logprobs.content], abs=1e-4)


def test_the_greedy_token_is_the_likeliest(api: Program):
    answer = client(api).chat.completions.create(
        model=NAME, messages=[user(QUESTION)], temperature=0, logprobs=True, top_logprobs=1
    )
    assert answer.choices[0].logprobs is not None
    for entry in answer.choices[0].logprobs.content or []:
        assert [(top.token, top.logprob) for top in entry.top_logprobs] == [(entry.token, entry.logprob)]


# --- models and errors -----------------------------------------------------------------------------------------------------


def test_models_are_listed_and_retrieved(api: Program):
    models = client(api).models.list().data
    assert models[0].id == NAME
    assert models[0].model_extra is not None
    assert models[0].model_extra["max_model_len"] == 2048
    assert models[0].model_extra["capabilities"]["images"] is True
    for model in models:
        assert client(api).models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError):
        client(api).models.retrieve("gpt-4o")


@pytest.mark.parametrize("stream", [False, True])
def test_a_front_end_that_offers_tools_gets_text_and_a_note(api: Program, stream: bool):
    create: Any = client(api).chat.completions.with_raw_response.create
    raw = create(model=NAME, messages=[user("Hi")], tools=[TOOL] * 36, tool_choice="auto", stream=stream, max_tokens=4)
    assert raw.headers["x-ignored-fields"] == "tools"
    answer = raw.parse()
    texts = [c.choices[0].delta.content for c in answer if c.choices] if stream else [answer.choices[0].message.content]
    assert "".join(text or "" for text in texts)
    plain = create(model=NAME, messages=[user("Hi")], stream=stream, max_tokens=1)
    assert "x-ignored-fields" not in plain.headers


def test_errors_map_to_the_exceptions_of_the_client(api: Program):
    def ask(key: str = "a-key-for-the-tests", **fields: object) -> None:
        client(api, key).chat.completions.create(**{"model": NAME, "messages": [user("Hi")], **fields})

    with pytest.raises(openai.AuthenticationError) as unknown:
        ask(key="another-key-that-is-wrong")
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as model:
        ask(model="gpt-4o")
    assert (model.value.code, model.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bounds:
        ask(temperature=3)
    assert bounds.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as tools:
        ask(tools=[TOOL], tool_choice="required")
    assert (tools.value.code, tools.value.param) == ("unsupported", "tools")
    with pytest.raises(openai.BadRequestError) as length:
        ask(messages=[user("word " * 3000)])
    assert length.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as size:
        ask(messages=[user("x" * 500_000)])
    assert (size.value.status_code, size.value.code) == (413, "too_large")


def test_a_full_queue_answers_429_with_retry_after(api: Program):
    before = metric(api, "mllama_demo_requests_refused_total", reason="busy")
    long: Any = {"model": NAME, "messages": [user(STORY)], "max_tokens": 300, "extra_body": {"ignore_eos": True}}
    with client(api).chat.completions.create(**long, n=16, stream=True) as stream:
        next(iter(stream))
        other = client(api, key="another-key", address="127.0.0.2")
        with other.chat.completions.create(**long, n=8, stream=True) as second:
            next(iter(second))
            late = client(api, key="another-key", address="127.0.0.3")
            with pytest.raises(openai.RateLimitError, match="asks for 9 answers") as caught:
                late.chat.completions.create(**long, n=9)
    assert caught.value.code == "queue_full"
    assert int(caught.value.response.headers["retry-after"]) >= 1
    assert metric(api, "mllama_demo_requests_refused_total", reason="busy") > before
    wait_idle(api)


# --- leaving ---------------------------------------------------------------------------------------------------------------


def aborts(api: Program) -> float:
    return metric(api, "vllm:request_success_total", finished_reason="abort")


def test_closing_a_stream_frees_slots_and_queue_places(api: Program):
    wait_idle(api)
    before = aborts(api)
    with client(api).chat.completions.create(model=NAME, messages=[user(STORY)], n=16, stream=True, **LONG) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        wait_until(lambda: api.health()["waiting"] == 12, "all that have no slot wait")  # the first word can come before that
    wait_idle(api)
    wait_until(lambda: aborts(api) >= before + 12, "those that waited were not answered for nobody")


async def test_cancelling_a_request_without_stream_frees_slots_too(api: Program):
    wait_idle(api)
    before = aborts(api)
    async with async_client(api) as asking:
        asked = asyncio.create_task(asking.chat.completions.create(model=NAME, messages=[user(STORY)], n=16, **LONG))
        await asyncio.to_thread(wait_until, lambda: api.health()["waiting"] == 12, "all slots are busy")
        asked.cancel()
        await asyncio.wait([asked])
    wait_idle(api)
    wait_until(lambda: aborts(api) >= before + 12, "those that waited are counted as well")
