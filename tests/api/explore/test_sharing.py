"""Over HTTP: a shared run is read by everyone and changed by its owner alone, and nobody explores the chat of others."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.explore_visitor import Visitor
from tests.support.program import Program

pytestmark = pytest.mark.timeout(300)
SHORT = {"prompt": "What is this?", "temperature": [0.5, 1.5], "top_p": 1, "seed": 1, "max_tokens": 8}


def status(visitor: Visitor, method: str, path: str, body: Any = None) -> int:
    return visitor.session.request(method, f"{visitor.url}/{path}", json=body, timeout=60).status_code


def test_a_shared_run_is_read_by_everyone_and_changed_by_its_owner_alone(server: Program) -> None:
    owner, other = Visitor(server), Visitor(server)
    run = owner.run({**SHORT, "image": "dog.png"})
    made = owner.post(f"runs/{run['id']}/shares", {"lifetime": "1 day"}).json()
    token = made["path"].rpartition("/")[2]
    shared = other.get(f"runs/{token}")
    assert (shared["id"], shared["shared"], shared["cells"]) == (token, True, run["cells"])
    assert other.session.get(f"{other.url}/runs/{token}/image", timeout=60).headers["Content-Type"] == "image/png"
    assert other.session.get(f"{other.url}/runs/{token}/thumbnail", timeout=60).headers["Content-Type"] == "image/webp"
    assert other.post(f"runs/{token}/cells/0/whatif", {"temperature": 1, "position": 0}).json()["candidates"]["left"]
    for method, path in (
        ("POST", "again"),
        ("POST", "cells/0/rerun"),
        ("POST", "cells/0/branch"),
        ("DELETE", "cells/0"),
        ("PATCH", ""),
        ("DELETE", ""),
        ("POST", "shares"),
    ):
        body = {"title": "mine", "lifetime": "1 day", "position": 0, "token_id": 1}
        for id in (token, run["id"]):
            assert status(other, method, f"runs/{id}/{path}".rstrip("/"), body) == 404, (method, path)
    assert status(other, "GET", f"runs/{run['id']}") == 404
    assert status(other, "GET", f"runs/{run['id']}/thumbnail") == 404
    copy = other.post(f"runs/{token}/copy").json()["id"]
    assert [line["id"] for line in other.get("runs")] == [copy]
    assert owner.session.delete(f"{owner.url}/runs/{run['id']}/shares", timeout=60).json()["ended"] == 1
    assert status(other, "GET", f"runs/{token}") == status(other, "GET", f"runs/{token}/thumbnail") == 410
    assert other.get(f"runs/{copy}")["cells"] == run["cells"]


def test_a_run_is_renamed_and_refuses_a_name_that_is_too_long(server: Program) -> None:
    owner = Visitor(server)
    run = owner.run(SHORT)["id"]
    assert owner.session.patch(f"{owner.url}/runs/{run}", json={"title": "  A\n name "}, timeout=60).json() == {"title": "A name"}
    assert [line["title"] for line in owner.get("runs")] == ["A name"]
    for title in ("", " \n", "x" * 121, None):
        assert status(owner, "PATCH", f"runs/{run}", {"title": title}) == 400


def test_an_answer_goes_to_the_chat_and_comes_back_to_its_owner_alone(server: Program) -> None:
    owner, other = Visitor(server), Visitor(server)
    history = [{"role": "user", "text": "What is it?", "image": True}, {"role": "assistant", "text": "A dog."}]
    run = owner.run({**SHORT, "prompt": "Which colour?", "image": "dog.png", "history": history})
    assert run["history"] == [{**history[0]}, {**history[1], "image": False}]
    address = urlsplit(owner.post(f"runs/{run['id']}/cells/1/chat").json()["address"])
    values = parse_qs(address.query)
    assert (address.path, values["temperature"], values["top_k"], values["seed"]) == ("./", ["1.5"], ["0"], ["1"])
    (conversation,) = values["c"]
    found = owner.get(f"chat/{conversation}/3")
    assert (found["prompt"], found["history"]) == ("Which colour?", run["history"])
    assert (found["values"]["temperature"], found["values"]["max_tokens"]) == (1.5, 8)
    again = owner.run(
        {**found["values"], **{name: found[name] for name in ("prompt", "history")}, "image": found["image"]["source"]}
    )
    assert again["cells"][0]["text"] == run["cells"][1]["text"]
    for path in (f"chat/{conversation}/3", f"chat/{conversation}/3/image", f"chat/{'0' * 32}/3"):
        assert status(other, "GET", path) == 404
    assert status(other, "POST", "run", {**SHORT, "image": found["image"]["source"]}) == 404
    assert status(owner, "GET", f"chat/{conversation}/2") == 400, "a question is not an answer"
    assert status(owner, "GET", f"chat/{conversation}/9") == 404


def test_a_history_that_no_chat_can_have_is_refused(server: Program) -> None:
    visitor = Visitor(server)
    for history in (
        [{"role": "system", "text": "x"}],
        [{"role": "user", "text": "x", "image": True}] * 2,
        [{"role": "assistant", "text": "x", "image": True}],
        [{"role": "user"}],
        "text",
        [{"role": "user", "text": "x" * 200_001}],
    ):
        answer = visitor.post("estimate", {**SHORT, "history": history})
        assert answer.status_code == 400
        assert "history" in answer.json()["error"]["message"]
