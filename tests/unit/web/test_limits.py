"""What one visitor and one address may use, and that nobody else is kept out by it. Also with a real Redis."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from limits import RateLimitItemPerDay
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import Client, FinishEvent
from mllama_demo.errors import (
    BackendBusy,
    BackendUnavailable,
    ConfigError,
    ImageError,
    LimitReached,
    PromptTooLong,
)
from mllama_demo.generation.request import renewed
from mllama_demo.web.errors import ApiError
from mllama_demo.web.limits import ClientLimits
from tests.support.limited_backends import (
    ANN,
    BEN,
    ELSEWHERE,
    PROGRAM,
    accepted,
    answered,
    ended,
    image,
    limited,
    request,
    running_redis,
)
from tests.support.manual_backend import READ, finished
from tests.support.program import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


# --- questions, tokens, images ---------------------------------------------------------------------------------------------


async def test_questions_a_minute_count_for_a_visitor_and_for_an_address(backend, storage) -> None:
    options: dict[str, Any] = {"limit_questions_per_minute": 2, "limit_address_factor": 2, "limits_storage": storage}
    one = limited(backend, **options)
    for _ in range(2):
        await answered(one, backend, request(ANN))
    with pytest.raises(
        LimitReached, match=r"^You may ask 2 questions a minute\. Please try again in (\d+ seconds?|1 minute)\.$"
    ) as caught:
        await answered(one, backend, request(ANN))
    assert 0 < caught.value.retry_s <= 60
    assert caught.value.limit == "client_questions"
    for _ in range(2):
        await answered(one, backend, request(BEN))
    with pytest.raises(LimitReached, match="All visitors at your address together may ask 4 questions a minute"):
        await answered(one, backend, request(Client(ANN.address, "one without a cookie")))
    await answered(one, backend, request(ELSEWHERE))
    await answered(one, backend, request(PROGRAM))
    assert len(backend.requests) == 6
    if storage != "memory://":
        with pytest.raises(LimitReached):  # in another process
            await answered(limited(backend, **options), backend, request(ANN))


async def test_tokens_a_day_count_prompts_and_answers(backend, storage) -> None:
    one = limited(backend, limit_tokens_per_day=15, limits_storage=storage)
    for _ in range(2):  # ten tokens each: the second begins below the limit
        await answered(one, backend, request(ANN))
    with pytest.raises(
        LimitReached, match=r"You may use 15 tokens a day\. Please try again in \d+ (hours?|minutes?|seconds?)\."
    ) as caught:
        await answered(one, backend, request(ANN))
    assert caught.value.limit == "client_tokens"
    await answered(one, backend, request(ELSEWHERE))


async def test_the_tokens_of_an_answer_count_that_its_client_left(backend, storage) -> None:
    one = limited(backend, limit_tokens_per_day=12, limits_storage=storage)
    async with aclosing(one.generate(left := request(ANN))) as events:
        reading = asyncio.create_task(anext(events))
        await until(lambda: left in backend.requests, "the request is taken")
        backend.send(READ)  # a prompt of five tokens
        backend.say(*"seven77")
        await reading
        for _ in range(7):
            await anext(events)
    await until(lambda: not one._counting, "the tokens are counted")
    with pytest.raises(LimitReached, match="You may use 12 tokens a day"):
        await ended(one, request(ANN))


async def test_the_tokens_of_an_answer_count_whose_reader_goes_at_its_last_event(backend, storage) -> None:
    one = limited(backend, limit_tokens_per_day=8, limits_storage=storage)

    async def read() -> None:
        async for event in one.generate(asked):
            if isinstance(event, FinishEvent):
                reading.cancel()

    asked = request(ANN)
    reading = asyncio.create_task(read())
    await until(lambda: asked in backend.requests, "the request is taken")
    backend.send(READ, finished())  # five tokens and three
    await asyncio.wait([reading])
    with pytest.raises(LimitReached, match="You may use 8 tokens a day"):
        await ended(one, request(ANN))


async def test_the_bytes_of_an_image_count_once(backend, storage, tmp_path) -> None:
    one = limited(backend, limit_image_mb_per_day=1, limits_storage=storage)
    first = image(tmp_path, 700_000)
    for _ in range(3):
        await answered(one, backend, request(ANN, first))
    other = image(tmp_path, 700_001)
    for _ in range(2):
        with pytest.raises(LimitReached, match="You may send 1 MiB of images a day") as caught:
            await answered(one, backend, request(ANN, other))
        assert caught.value.limit == "client_images"
    await answered(one, backend, request(ANN))
    await answered(one, backend, request(ELSEWHERE, other))


async def test_without_limits_nothing_is_counted(backend) -> None:
    one = limited(backend)
    for _ in range(50):
        await answered(one, backend, request(ANN))


async def test_a_storage_that_fails_lets_everybody_in(backend, caplog) -> None:
    one = limited(backend, limit_questions_per_minute=1, limits_storage=f"redis://127.0.0.1:{free_port()}")
    for _ in range(20):
        await answered(one, backend, request(ANN))
    assert caplog.text.count("cannot be counted") == 1, "one line for an outage"


async def test_an_outage_of_the_storage_is_told_at_its_beginning_and_at_its_end(backend, caplog, tmp_path) -> None:
    port = free_port()
    one = limited(backend, limit_questions_per_minute=100, limits_storage=f"redis://127.0.0.1:{port}")
    for _ in range(2):
        with running_redis(tmp_path, port):
            for _ in range(2):
                await answered(one, backend, request(ANN))
        for _ in range(2):
            await answered(one, backend, request(ANN))
    told = [record.levelname for record in caplog.records if record.name == "mllama_demo.web.limits"]
    assert told == ["ERROR", "WARNING", "ERROR"]


@pytest.mark.parametrize("hours", [-30, 30])
@pytest.mark.parametrize(("option", "longest_s"), [("limit_questions_per_minute", 60), ("limit_tokens_per_day", 24 * 3600)])
async def test_a_clock_that_is_set_gives_nothing_back_and_locks_nobody_out(
    backend, monkeypatch, hours: int, option: str, longest_s: int
) -> None:
    one = limited(backend, **{option: {"limit_questions_per_minute": 2, "limit_tokens_per_day": 20}[option]})
    for _ in range(2):
        await answered(one, backend, request(ANN))
    clocks = {name: getattr(time, name) for name in ("time", "monotonic")}
    monkeypatch.setattr(time, "time", lambda: clocks["time"]() + hours * 3600)
    with pytest.raises(LimitReached) as caught:
        await answered(one, backend, request(ANN))
    assert 0 < caught.value.retry_s <= longest_s
    monkeypatch.setattr(time, "monotonic", lambda: clocks["monotonic"]() + longest_s + 1)
    await answered(one, backend, request(ANN))


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_clock_that_is_set_locks_nobody_out_of_a_redis(backend, monkeypatch, tmp_path, hours: int) -> None:
    """Whose counts of this minute are lost, because they have the clock of the machine. Redis itself ends those of a day."""
    with running_redis(tmp_path, port := free_port()):
        options: dict[str, Any] = {"limit_questions_per_minute": 2, "limits_storage": f"redis://127.0.0.1:{port}"}
        one = limited(backend, limit_tokens_per_day=40, **options)
        now = time.time
        for shift in (0, hours):
            monkeypatch.setattr(time, "time", lambda shift=shift: now() + shift * 3600)
            for _ in range(2):
                await answered(one, backend, request(ANN))
        with pytest.raises(LimitReached, match="ask 2 questions a minute") as caught:
            await answered(one, backend, request(ANN))
        assert 0 < caught.value.retry_s <= 60
        monkeypatch.setattr(time, "time", lambda: now() + 2 * hours * 3600)
        with pytest.raises(LimitReached, match="use 40 tokens a day"):
            await answered(one, backend, request(ANN))


async def test_a_clock_that_is_set_back_deletes_nothing_of_other_programs_on_the_same_redis(
    backend, monkeypatch, tmp_path
) -> None:
    redis = pytest.importorskip("redis")
    limit = RateLimitItemPerDay(10, namespace="theirs")
    with running_redis(tmp_path, port := free_port()):
        url = f"redis://127.0.0.1:{port}"
        others = FixedWindowRateLimiter(storage_from_string(url))
        assert others.hit(limit, "somebody")
        one = limited(backend, limit_questions_per_minute=2, limit_tokens_per_day=1000, limits_storage=url)
        for visitor in ("ann", "ben"):
            await answered(one, backend, request(Client("192.0.2.1", visitor)))
        with redis.Redis(port=port) as client:
            before = set(client.keys())
            now = time.time
            monkeypatch.setattr(time, "time", lambda: now() - 3 * 3600)
            await answered(one, backend, request(ELSEWHERE))
            gone = before - set(client.keys())
        assert others.get_window_stats(limit, "somebody").remaining == 9
        assert gone == {key for key in before if b":questions/" in key}, "what this program counts by the clock of the machine"
        assert len(gone) == 3


def test_a_storage_that_cannot_be_used_is_named(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="limits_storage must be memory:// or redis://HOST:PORT, got something else"):
        load_settings(["--limits-storage", "mongodb://here"], {})
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match="pip install redis"):
        ClientLimits(Settings(limits_storage="redis://127.0.0.1"))


def test_the_api_tells_when_to_try_again() -> None:
    error = ApiError.from_demo_error(LimitReached("You may ask 2 questions a minute.", 34.2, "client_questions"))
    assert (error.status, error.headers, error.code) == (429, {"Retry-After": "35"}, "rate_limit_exceeded")


# --- refused requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [BackendBusy("full"), BackendUnavailable("loading"), PromptTooLong("long"), ImageError("no picture"), OSError("a bug")],
)
async def test_a_question_that_the_backend_refuses_counts_nothing(backend, storage, tmp_path, refusal: Exception) -> None:
    one = limited(backend, limit_questions_per_minute=2, limit_image_mb_per_day=1, limits_storage=storage)
    picture = image(tmp_path, 600_000)
    await answered(one, backend, request(ANN))
    backend.refusal = refusal
    for number in range(4):
        with pytest.raises(type(refusal)):
            await ended(one, request(ANN, replace(picture, digest=f"digest {number}")))
    backend.refusal = None
    await answered(one, backend, request(ANN, picture))
    with pytest.raises(LimitReached, match="ask 2 questions a minute"):
        await ended(one, request(ANN, picture))


async def test_a_refused_image_counts_when_it_is_sent_again(backend, tmp_path) -> None:
    one = limited(backend, limit_image_mb_per_day=1)
    picture = image(tmp_path, 600_000)
    backend.refusal = BackendBusy("full")
    with pytest.raises(BackendBusy):
        await ended(one, request(ANN, picture))
    backend.refusal = None
    await answered(one, backend, request(ANN, picture))
    with pytest.raises(LimitReached, match="send 1 MiB of images"):
        await ended(one, request(ANN, replace(picture, digest="another")))


async def test_choices_of_a_completion_that_the_backend_refuses_count_nothing(backend, storage) -> None:
    one = limited(backend, limit_questions_per_minute=3, limits_storage=storage)
    backend.refusal = BackendBusy("full")
    three = replace(request(ANN), conversation_id="three", choices=3)
    for _ in range(2):
        results = await asyncio.gather(*[ended(one, renewed(three)) for _ in range(3)], return_exceptions=True)
        assert [type(result) for result in results] == [BackendBusy] * 3
    backend.refusal = None
    for _ in range(3):
        await answered(one, backend, request(ANN))
    with pytest.raises(LimitReached):
        await ended(one, request(ANN))


async def test_a_question_counts_whose_answer_fails_after_it_has_begun(backend, storage) -> None:
    one = limited(backend, limit_questions_per_minute=1, limits_storage=storage)
    reading = asyncio.create_task(ended(one, request(ANN)))
    await backend.taken()
    backend.send(READ, OSError("a bug"))
    with pytest.raises(OSError, match="a bug"):
        await reading
    with pytest.raises(LimitReached):
        await ended(one, request(ANN))


async def test_a_question_counts_whose_visitor_leaves_before_it_has_begun(backend) -> None:
    """A visitor who asks and leaves at once has used the model's time, perhaps."""
    one = limited(backend, limit_questions_per_minute=1)
    reading = asyncio.create_task(ended(one, request(ANN)))
    await backend.taken()
    reading.cancel()
    await asyncio.wait([reading])
    with pytest.raises(LimitReached):
        await ended(one, request(ANN))


async def test_a_question_that_the_limit_of_an_address_refuses_counts_nothing_for_its_visitor(storage) -> None:
    limits = ClientLimits(Settings(limit_questions_per_minute=2, limit_address_factor=2, limits_storage=storage))
    asked = [request(Client(ANN.address, visitor)) for visitor in "abcdefgh"]
    taken = await accepted(limits, *asked)
    assert len(taken) == 4
    left = next(one.client.visitor for one in asked if one not in taken)
    assert len(await accepted(limits, *[request(Client("192.0.2.7", left)) for _ in range(3)])) == 2


async def test_what_cannot_be_taken_back_is_told(backend, caplog, tmp_path) -> None:
    with running_redis(tmp_path, port := free_port()):
        limits = ClientLimits(Settings(limit_questions_per_minute=1, limits_storage=f"redis://127.0.0.1:{port}"))
        taken = await limits.begin(one := request(ANN))
    await limits.take_back(one, taken)
    assert "cannot be counted" in caplog.text
