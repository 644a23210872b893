"""/v1/explore of a running server over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from mllama_demo.explore.import_export import from_json
from tests.support.openai_clients import AUTHORIZED, NAME, PICTURES, data_url, post, user, wait_idle
from tests.support.program import Program, visitor
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
GRID = {"prompt": "What is this?", "temperature": [0.5, 1.5], "top_p": 1.0, "seed": [1, 2], "max_tokens": 8}


def explore(program: Program, body: Any, **options: Any) -> requests.Response:
    content = {"data": body} if isinstance(body, bytes) else {"json": body}
    with visitor() as session:
        return session.post(f"{program.url}/v1/explore", headers=AUTHORIZED, timeout=240, **content, **options)


def events_of(answer: requests.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_grid_streams_its_cells_and_ends_with_an_importable_run(api: Program):
    events = events_of(explore(api, {**GRID, "image": data_url(PICTURES / "apples.png"), "traces": True}))
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    assert [(c["temperature"], c["seed"]) for c in events[0]["cells"]] == [(0.5, 1), (0.5, 2), (1.5, 1), (1.5, 2)]
    run = from_json(json.dumps(events[-1]["run"]))
    texts = ["".join(event["text"] for event in events if event.get("cell") == i) for i in range(4)]
    assert texts == [cell.text for cell in run.cells]
    assert all(cell.complete and cell.traces for cell in run.cells)
    assert run.image is not None


def test_a_cell_equals_chat_completions_with_the_same_values(api: Program):
    run = events_of(explore(api, {**GRID, "max_tokens": 16}))[-1]["run"]
    assert all(token["trace"] is None for cell in run["cells"] for token in cell["tokens"])
    for cell in run["cells"]:
        values = {name: cell[name] for name in ("temperature", "top_p", "top_k", "seed")}
        answer = post(api, {"model": NAME, "messages": [user("What is this?")], "max_tokens": 16, **values})
        assert answer.json()["choices"][0]["message"]["content"] == cell["text"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": [0.5, 9]}, ["temperature", "from 0 to 2", "9"]),
        ({"temprature": [0.5]}, ["temprature", "did you mean temperature"]),
        ({"prompt": None}, ["prompt"]),
        ({"seed": list(range(100))}, ["200 cells", "at most 144"]),
        ({"image": "/etc/passwd"}, ["image", "data URL"]),
        ({"image": "data:image/png;base64,AAAA"}, ["image"]),
        ({"traces": 1}, ["traces", "true or false"]),
        ({"top_k": []}, ["top_k", "empty"]),
        ({"history": [{"role": "user", "text": "\ud800"}]}, ["history[0].text: whole Unicode characters are allowed"]),
        ({"image\ud800": "x"}, ["half a surrogate pair at 5"]),
    ],
)
def test_an_invalid_grid_is_refused_and_the_message_names_the_value(api: Program, change: dict[str, Any], words: list[str]):
    answer = explore(api, {**GRID, **change})
    assert answer.status_code == 400
    assert all(word in answer.json()["error"]["message"] for word in words), answer.text


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 40_000])
def test_a_body_without_a_json_object_is_refused(api: Program, body: bytes):
    answer = explore(api, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_a_request_needs_the_api_key_and_the_method_post(api: Program):
    with visitor() as session:
        assert session.post(f"{api.url}/v1/explore", json=GRID, timeout=60).status_code == 401
        wrong = session.get(f"{api.url}/v1/explore", headers=AUTHORIZED, timeout=60)
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")


def test_closing_the_connection_stops_the_cells(api: Program):
    wait_idle(api)
    long = {**GRID, "prompt": "x " * 299 + "x", "temperature": 0, "seed": [1, 2, 3, 4], "top_k": 0, "max_tokens": 2000}
    with visitor() as session, session.post(f"{api.url}/v1/explore", json=long, headers=AUTHORIZED, stream=True) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()  # keep a reference: the garbage collector would close the connection
        next(lines)
        wait_until(lambda: api.health()["running"] > 0, "a cell is running")
    wait_idle(api)


def test_openapi_describes_the_route(api: Program):
    answer = api.get("/openapi.json")
    assert answer is not None
    operation = answer.json()["paths"]["/v1/explore"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["prompt"]
    assert "temperature" in schema["properties"]
    assert "application/x-ndjson" in operation["responses"]["200"]["content"]
