"""What one visitor and one address may use, and that nobody else is kept out by it. Also with a real Redis."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from limits import RateLimitItemPerDay
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter
from PIL import Image

from mllama_demo.config.loader import load_settings
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendStatus, Client, FinishEvent, GenerationRequest
from mllama_demo.errors import (
    BackendBusy,
    BackendUnavailable,
    BadRequest,
    ConfigError,
    ImageError,
    LimitReached,
    PromptTooLong,
)
from mllama_demo.generation.request import renewed
from mllama_demo.images.loading import LoadedImage, load_image
from mllama_demo.web.errors import ApiError
from mllama_demo.web.limits import ClientLimits, LimitedBackend, client_share
from tests.support.manual_backend import READ, ManualBackend, finished
from tests.support.program import free_port
from tests.support.waiting import PATIENCE_S, until, wait_until

pytestmark = pytest.mark.timeout(60)

ANN, BEN = Client("192.0.2.1", "ann"), Client("192.0.2.1", "ben")
ELSEWHERE = Client("192.0.2.2", "cy")
PROGRAM = Client()


def image(tmp_path: Path, size: int) -> LoadedImage:
    """A picture whose file has at least so many bytes."""
    Image.effect_noise((400, 400), 100).convert("RGB").save(path := tmp_path / "noise.png")
    data = path.read_bytes()
    return load_image(data + bytes(max(0, size - len(data))), "noise.png")


def request(client: Client, picture: LoadedImage | None = None) -> GenerationRequest:
    return GenerationRequest((1, 2, 3), client=client, image=picture)


async def answered(backend: LimitedBackend, inner: ManualBackend, one: GenerationRequest) -> None:
    """Asks, and reads the answer of ten tokens to its end."""
    reading = asyncio.create_task(ended(backend, one))
    await until(lambda: one in inner.requests or reading.done(), "the request is taken or refused")
    if not reading.done():
        inner._mail[one.id].put_nowait(READ)
        inner._mail[one.id].put_nowait(FinishEvent("end_of_turn", "Hi.", 3, 7, finished().timings))
    await reading


async def ended(backend: LimitedBackend, one: GenerationRequest) -> None:
    async with aclosing(backend.generate(one)) as events:
        async for _ in events:
            pass


@pytest.fixture(params=["memory", "redis"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "memory":
        yield "memory://"
        return
    with running_redis(tmp_path, port := free_port()):
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def running_redis(folder: Path, port: int) -> Iterator[None]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    line = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    try:
        wait_until(listens, "Redis listens")
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def limited(inner: ManualBackend, **settings: Any) -> LimitedBackend:
    return LimitedBackend(inner, ClientLimits(Settings(**settings)))


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


# --- several at once, and completions of several choices ---------------------------------------------------------------------


def bytes_of_image(size: int, digest: str) -> LoadedImage:
    return LoadedImage(Image.new("RGB", (8, 8)), bytes(size), "PNG", digest, "a.png")


async def accepted(limits: ClientLimits, *requests: GenerationRequest) -> list[GenerationRequest]:
    """Those of the requests that the limits take when all of them come at once."""
    results = await asyncio.gather(*map(limits.begin, requests), return_exceptions=True)
    refused = [isinstance(result, LimitReached) for result in results]
    assert not any(isinstance(result, BaseException) and not known for result, known in zip(results, refused, strict=True)), (
        results
    )
    return [one for one, known in zip(requests, refused, strict=True) if not known]


async def test_of_questions_that_come_at_once_no_more_are_taken_than_are_left(storage) -> None:
    options: dict[str, Any] = {"limit_questions_per_minute": 5, "limit_address_factor": 2, "limits_storage": storage}
    limits = ClientLimits(Settings(**options))
    assert len(await accepted(limits, *[request(ANN) for _ in range(40)])) == 5
    assert len(await accepted(limits, *[request(BEN) for _ in range(40)])) == 5, "Ann's refused ones are nobody's"
    assert await accepted(limits, request(Client(ANN.address, "cy"))) == []


async def test_of_images_that_come_at_once_no_more_are_taken_than_are_left_and_the_others_count_nothing(storage) -> None:
    limits = ClientLimits(Settings(limit_image_mb_per_day=1, limits_storage=storage))
    each = [bytes_of_image(600_000, f"digest {number}") for number in range(8)]
    assert len(await accepted(limits, *[request(ANN, one) for one in each])) == 1
    same = [request(ANN, bytes_of_image(400_000, "another")) for _ in range(8)]
    assert len(await accepted(limits, *same)) == 8, "what is left is enough, and one image counts once"
    assert await accepted(limits, request(ANN, bytes_of_image(100_000, "one more"))) == []


async def test_the_choices_of_a_completion_are_taken_together_or_not_at_all(backend, storage) -> None:
    one = limited(backend, limit_questions_per_minute=5, limits_storage=storage)

    async def asked(choices: int) -> int:
        """Returns how many of the choices reached the backend. Raises what each of them raised."""
        first, before = replace(request(ANN), conversation_id=f"{choices} choices", choices=choices), len(backend.requests)
        running = [asyncio.create_task(ended(one, renewed(first))) for _ in range(choices)]
        await until(lambda: len(backend.requests) == before + choices or running[0].done(), "all are taken or refused")
        for task in running:
            task.cancel()
        results = await asyncio.gather(*running, return_exceptions=True)
        if failures := [result for result in results if isinstance(result, Exception)]:
            assert len(failures) == choices
            assert len(backend.requests) == before
            raise failures[0]
        return len(backend.requests) - before

    assert await asked(3) == 3
    for _ in range(2):
        with pytest.raises(LimitReached, match="You may ask 5 questions a minute"):
            await asked(4)
    assert await asked(2) == 2, "what was refused counts nothing"
    with pytest.raises(BadRequest, match=r"^You may ask 5 questions a minute, which is less than this request alone needs\.$"):
        await asked(6)
    assert not one._at_once
    assert not one._admissions


async def test_a_completion_has_places_for_all_of_its_choices_or_for_none(backend) -> None:
    one = limited(backend)
    running = [asyncio.create_task(ended(one, request(ANN))) for _ in range(5)]
    await until(lambda: len(backend.requests) == 5, "five of seven places are taken")
    three = replace(request(ANN), conversation_id="three", choices=3)
    for result in await asyncio.gather(*[ended(one, renewed(three)) for _ in range(3)], return_exceptions=True):
        assert isinstance(result, BackendBusy)
        assert "asks for 3 answers, and 5 of your requests are running" in str(result)
    assert len(backend.requests) == 5
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def test_a_completion_begins_no_choice_where_the_queue_has_no_place_for_all_of_them(backend) -> None:
    one = limited(backend)
    running = [asyncio.create_task(ended(one, request(client))) for client in (ANN, ELSEWHERE) for _ in range(4)]
    await until(lambda: len(backend.requests) == 8, "eight of ten places are taken")
    third = Client("192.0.2.3", "di")
    three = replace(request(third), conversation_id="three", choices=3)
    for result in await asyncio.gather(*[ended(one, renewed(three)) for _ in range(3)], return_exceptions=True):
        assert type(result) is BackendBusy
        assert "it has places for 2 more answers, and this request asks for 3 answers" in str(result)
    assert len(backend.requests) == 8
    two = replace(request(third), conversation_id="two", choices=2)
    running += [asyncio.create_task(ended(one, renewed(two))) for _ in range(2)]
    await until(lambda: len(backend.requests) == 10, "two are taken")
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def test_a_place_that_a_completion_has_is_taken_by_nobody_while_its_choices_are_counted(backend, monkeypatch) -> None:
    counted, limits = asyncio.Event(), ClientLimits(Settings())
    monkeypatch.setattr(limits, "begin", lambda one: asyncio.sleep(0) if one.choices == 1 else counted.wait())
    one = LimitedBackend(backend, limits)
    running = [asyncio.create_task(ended(one, request(ELSEWHERE))) for _ in range(6)]
    await until(lambda: len(backend.requests) == 6, "six of ten places are taken")
    three = replace(request(ANN), conversation_id="three", choices=3)
    choices = [asyncio.create_task(ended(one, renewed(three))) for _ in range(3)]
    await until(lambda: one._admissions.get("three") is not None, "the choices are being counted")
    third = Client("192.0.2.3", "di")
    running.append(asyncio.create_task(ended(one, request(third))))
    await until(lambda: len(backend.requests) == 7, "the tenth place is free")
    with pytest.raises(BackendBusy, match="8 questions are waiting already"):
        await ended(one, request(third))
    two = replace(request(third), conversation_id="two", choices=2)
    with pytest.raises(BackendBusy, match="it has no place left, and this request asks for 2 answers"):
        await ended(one, renewed(two))
    counted.set()
    await until(lambda: len(backend.requests) == 10, "all choices have begun")
    for task in [*running, *choices]:
        task.cancel()
    await asyncio.wait([*running, *choices])
    assert not one._admissions


async def test_choices_that_never_come_leave_their_places(backend) -> None:
    one = limited(backend)
    for number in range(3):
        seven = replace(request(ANN), conversation_id=f"completion {number}", choices=7)
        first = asyncio.create_task(ended(one, renewed(seven)))
        await until(lambda n=number: len(backend.requests) == n + 1, "the first choice has begun")
        first.cancel()
        await asyncio.wait([first])
    assert not one._admissions


# --- at once ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cookies", [True, False])
async def test_a_flood_leaves_a_quarter_of_all_places(backend, cookies: bool) -> None:
    one = limited(backend)
    places = (backend.info.slots + backend.status().max_waiting) * 3 // 4
    assert places == 7
    flood = [request(Client("192.0.2.1", "ann" if cookies else f"new {index}")) for index in range(places)]
    running = [asyncio.create_task(ended(one, item)) for item in flood]
    await until(lambda: len(backend.requests) == places, "all are taken")
    with pytest.raises(BackendBusy, match="7 of your requests are running or waiting already") as caught:
        await ended(one, request(Client("192.0.2.1", "ann")))
    assert caught.value.limit == "client_places", "one client alone does not fill the queue"
    await answered(one, backend, request(ELSEWHERE))
    running[-1].cancel()
    await asyncio.wait(running[-1:])
    await answered(one, backend, request(ANN))
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    assert not one._at_once


@pytest.mark.parametrize(("slots", "waiting", "share"), [(4, 64, 51), (4, 0, 4), (1, 0, 1), (1, 2, 3), (4, 4, 6)])
def test_all_places_may_be_used_where_there_are_few(slots: int, waiting: int, share: int) -> None:
    assert client_share(BackendStatus("ready", "", 0, 0, slots, waiting, None)) == share


async def test_where_one_client_may_have_all_places_the_backend_says_that_they_are_taken(backend, monkeypatch) -> None:
    monkeypatch.setattr(backend, "status", lambda: BackendStatus("ready", "", 1, 1, 1, 1, None))
    one = limited(backend)
    running = [asyncio.create_task(ended(one, request(ANN))) for _ in range(2)]
    await until(lambda: len(backend.requests) == 2, "both are taken")
    backend.refusal = BackendBusy("2 questions are running or waiting already.")
    with pytest.raises(BackendBusy) as caught:
        await ended(one, request(ANN))
    assert caught.value is backend.refusal
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def test_a_flood_that_comes_while_the_storage_is_asked_takes_no_more(backend, monkeypatch) -> None:
    limits = ClientLimits(Settings())
    asked = asyncio.Event()
    monkeypatch.setattr(limits, "begin", lambda _: asked.wait())
    one = LimitedBackend(backend, limits)
    running = [asyncio.create_task(ended(one, request(ANN))) for _ in range(20)]
    await until(lambda: sum(task.done() for task in running) == 13, "all but seven are refused")
    asked.set()
    await until(lambda: len(backend.requests) == 7, "seven are taken")
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert not one._at_once


async def test_a_request_that_a_limit_refuses_leaves_its_place(backend) -> None:
    one = limited(backend, limit_questions_per_minute=1)
    await answered(one, backend, request(ANN))
    for _ in range(10):
        with pytest.raises(LimitReached):
            await ended(one, request(ANN))
    assert not one._at_once


@pytest.fixture
def backend() -> ManualBackend:
    return ManualBackend()
