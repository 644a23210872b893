"""A grid with values that the backend would not read is refused, by the API and by the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support.program import Program, running, visitor
from tests.support.protocol_server import ProtocolServer, hello

pytestmark = pytest.mark.timeout(300)
GRID = {"prompt": "What is this?", "temperature": [0.5, 1.0], "max_tokens": 4}


@pytest.fixture(scope="module")
def model_server() -> Iterator[ProtocolServer]:
    server = ProtocolServer()
    server.chat = hello
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["other", "vllm_neuron"])
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, model_server: ProtocolServer
) -> Iterator[Any]:
    """The program in front of a server that has no top_k, and of one that draws without a seed and tells no probabilities."""
    options = ("--backend", "openai", "--remote-url", model_server.url, "--remote-kind", request.param)
    with running(tmp_path_factory.mktemp("front"), *options) as program:
        program.wait_ready()
        yield request.param, program


def explore(program: Program, path: str, **values: Any) -> requests.Response:
    with visitor() as session:
        session.get(f"{program.url}/explore", timeout=60)
        headers = {"Origin": program.url}
        return session.post(f"{program.url}{path}", json={**GRID, **values}, headers=headers, timeout=60)


REFUSED = {"other": [{"top_k": [5, 10]}, {"top_k": 5}], "vllm_neuron": [{"seed": [1, 2]}, {"traces": True}]}
TAKEN = {"other": [{"top_k": 0}, {"top_k": [0]}, {"seed": [1, 2]}], "vllm_neuron": [{"top_k": [5, 10]}]}


def test_a_value_that_the_backend_does_not_read_is_named(front: tuple[str, Program]) -> None:
    kind, program = front
    for values in REFUSED[kind]:
        answer = explore(program, "/v1/explore", **values)
        assert answer.status_code == 400, values
        error = answer.json()["error"]
        [name] = values
        assert (error["param"], error["code"]) == (name, "unsupported")
        assert error["message"].startswith(f"{name} cannot be used: the backend that runs the model ")


def test_what_the_backend_reads_or_what_has_no_effect_is_taken(front: tuple[str, Program]) -> None:
    kind, program = front
    for values in TAKEN[kind]:
        answer = explore(program, "/v1/explore", **values)
        assert answer.status_code == 200, answer.text
        last = json.loads(answer.text.splitlines()[-1])
        assert {cell["text"] for cell in last["run"]["cells"]} == {"Hello!"}


def test_a_default_that_the_backend_does_not_read_is_left_out_of_the_run(front: tuple[str, Program]) -> None:
    kind, program = front
    if kind != "other":
        pytest.skip("the other server reads top_k")
    last = json.loads(explore(program, "/v1/explore").text.splitlines()[-1])
    assert last["run"]["grid"]["top_k"] == [0]


def test_the_page_is_told_what_is_ignored_and_its_requests_are_checked_too(front: tuple[str, Program]) -> None:
    kind, program = front
    with visitor() as session:
        ignored = session.get(f"{program.url}/explore/about", timeout=60).json()["ignored"]
    assert list(ignored) == (["top_k"] if kind == "other" else ["seed"])
    for path in ("/explore/run", "/explore/estimate"):
        refused = explore(program, path, top_k=[5, 10])
        assert refused.status_code == (400 if kind == "other" else 200), refused.text
        assert explore(program, path, seed=[1, 2]).status_code == 200, "each seed is one more answer"
