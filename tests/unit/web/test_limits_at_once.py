"""Limits of clients where requests come at once, and where a completion has several choices. Also with a real Redis."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import BackendStatus, Client
from mllama_demo.errors import (
    BackendBusy,
    BadRequest,
    LimitReached,
)
from mllama_demo.generation.request import renewed
from mllama_demo.images.loading import LoadedImage
from mllama_demo.web.limits import ClientLimits, LimitedBackend, client_share
from tests.support.limited_backends import ANN, BEN, ELSEWHERE, accepted, answered, ended, limited, request
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(60)


# --- several at once, and completions of several choices ---------------------------------------------------------------------


def bytes_of_image(size: int, digest: str) -> LoadedImage:
    return LoadedImage(Image.new("RGB", (8, 8)), bytes(size), "PNG", digest, "a.png")


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
