"""A flood of requests from one address, over the API and over the page, and a visitor of another address who asks meanwhile."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from tests.support.program import Program, running, visitor
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.timeout(300)
QUESTION = {
    "model": "embedded",
    "messages": [{"role": "user", "content": "Tell me a story"}],
    "max_tokens": 24,
    "ignore_eos": True,
    "stream": True,
}


class FromAddress(HTTPAdapter):
    """Connects from another address of this machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **options)


@pytest.fixture(scope="module")
def one_slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with running(tmp_path_factory.mktemp("one-slot"), "--batch-size", "1", "--max-waiting", "40") as program:
        program.wait_ready()
        yield program


def ask(program: Program, address: str) -> tuple[int, list[int]]:
    """The status of a question, and its places in the queue."""
    with visitor() as session:
        session.mount("http://", FromAddress(address))
        answer = session.post(f"{program.url}/v1/chat/completions", json=QUESTION, stream=True, timeout=PATIENCE_S)
        places = [re.match(rb": waiting, number (\d+) in line", line) for line in answer.iter_lines()]
        return answer.status_code, [int(place[1]) for place in places if place is not None]


def test_another_address_waits_for_two_answers_of_the_flood_at_most(one_slot: Program) -> None:
    flood: list[tuple[int, list[int]]] = []
    threads = [threading.Thread(target=lambda: flood.append(ask(one_slot, "127.0.0.1"))) for _ in range(100)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(status == 429 for status, _ in flood) >= 50, "most of the flood is refused")
    assert one_slot.health()["waiting"] > 3
    status, places = ask(one_slot, "127.0.0.2")
    for thread in threads:
        thread.join(PATIENCE_S)
    assert status == 200
    assert max(places, default=1) == 1, "one answer is being written, and this one is next"
    assert {code for code, _ in flood} == {200, 429}
    assert max(place for _, taken in flood for place in taken) > 10
    assert sum(code == 200 for code, _ in flood) >= 30, "three quarters of the places"


def test_a_refusal_tells_when_to_try_again(one_slot: Program) -> None:
    refusals: list[requests.Response] = []

    def flood() -> None:
        with visitor() as session:
            answer = session.post(f"{one_slot.url}/v1/chat/completions", json=QUESTION, timeout=PATIENCE_S)
            if answer.status_code == 429:
                refusals.append(answer)

    threads = [threading.Thread(target=flood) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert refusals
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refusals)
    assert all("of your requests are running or waiting already" in answer.json()["error"]["message"] for answer in refusals)
