"""The routes of the Explore page over HTTP: stop, rerun, branch, delete, import."""

from __future__ import annotations

import http.client
import json
import socket
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.explore_visitor import Visitor
from tests.support.openai_clients import wait_idle
from tests.support.program import Program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(400)
# A greedy answer that takes some seconds, because nothing ends it before max_tokens.
LONG = {"prompt": "x " * 299 + "x", "temperature": 0, "seed": 1, "top_p": 1, "top_k": 0, "max_tokens": 1000}
SHORT = {"prompt": "What is this?", "temperature": [0.5, 1.5], "top_p": 1, "seed": 1, "max_tokens": 8}


@pytest.fixture
def visitor(server: Program) -> Visitor:
    return Visitor(server)


@pytest.fixture(scope="module")
def started(server: Program) -> tuple[Visitor, str]:
    """A visitor, and the id of their run, whose only answer was stopped."""
    visitor = Visitor(server)
    return visitor, visitor.stopped_when_writing("run", LONG)["view"]["id"]


def test_a_stopped_rerun_of_an_incomplete_cell_is_saved(started: tuple[Visitor, str]) -> None:
    visitor, run = started
    last = visitor.stopped_when_writing(f"runs/{run}/cells/0/rerun")
    (cell,) = last["view"]["cells"]
    assert (last["event"], last["note"], cell["outcome"]) == ("end", None, "cancelled")
    assert cell["text"]
    assert visitor.get(f"runs/{run}")["cells"] == [cell]


def test_a_stopped_rerun_does_not_replace_a_complete_answer(visitor: Visitor) -> None:
    before = visitor.run({**LONG, "max_tokens": 250})
    last = visitor.stopped_when_writing(f"runs/{before['id']}/cells/0/rerun")
    assert last["note"] == "Stopped. The earlier answer stays."
    assert last["view"]["cells"] == before["cells"]
    assert before["cells"][0]["outcome"] == "max_tokens"


def test_a_stopped_branch_is_saved(started: tuple[Visitor, str]) -> None:
    visitor, run = started
    body = {"position": 1, "token_id": visitor.candidate(run, 0, 1)}
    last = visitor.stopped_when_writing(f"runs/{run}/cells/0/branch", body)
    branch = next(b for b in last["view"]["branches"] if b["index"] == last["branch"])
    assert (branch["outcome"], branch["parent"], branch["position"]) == ("cancelled", 0, 1)
    assert branch in visitor.get(f"runs/{run}")["branches"]


def test_closing_the_connection_stops_a_rerun_and_a_branch_and_saves_the_branch(
    started: tuple[Visitor, str], server: Program
) -> None:
    visitor, run = started
    before = len(visitor.get(f"runs/{run}")["branches"])
    body = {"position": 1, "token_id": visitor.candidate(run, 0, 1)}
    for path, sent in ((f"runs/{run}/cells/0/rerun", {}), (f"runs/{run}/cells/0/branch", body)):
        with visitor.stream(path, sent) as events:
            next(event for event in events if event.get("phase") == "writing" and event["tokens"] > 3)
        wait_idle(server)
    # The branch is saved shortly after its slot becomes free.
    wait_until(lambda: len(visitor.get(f"runs/{run}")["branches"]) > before, "the branch is saved")
    after = visitor.get(f"runs/{run}")["branches"]
    assert len(after) == before + 1
    assert after[-1]["outcome"] == "cancelled"


def test_a_rerun_of_a_deleted_run_ends_with_not_found(server: Program) -> None:
    visitor = Visitor(server)
    run = visitor.stopped_when_writing("run", LONG)["view"]["id"]
    with visitor.stream(f"runs/{run}/cells/0/rerun") as events:
        stop_id = next(events)["run"]
        assert visitor.session.delete(f"{visitor.url}/runs/{run}", timeout=60).status_code == 200
        visitor.post(f"live/{stop_id}/stop")
        last = list(events)[-1]
    assert last["event"] == "error"
    assert f"There is no run {run}" in last["error"]


def test_only_its_owner_can_stop_a_run_and_only_while_it_is_running(visitor: Visitor, server: Program) -> None:
    other = Visitor(server)
    with visitor.stream("run", LONG) as events:
        stop_id = next(events)["run"]
        assert other.post(f"live/{stop_id}/stop").status_code == 404
        assert visitor.post(f"live/{stop_id}/stop", {"cell": 1}).status_code == 404
        assert visitor.post(f"live/{stop_id}/stop", {"cell": "0"}).status_code == 400
        assert visitor.post(f"live/{stop_id}/stop", {"cell": 0}).status_code == 200
        assert list(events)[-1]["view"]["cells"][0]["outcome"] == "cancelled"
    late = visitor.post(f"live/{stop_id}/stop")
    assert (late.status_code, "may just have ended" in late.json()["error"]["message"]) == (404, True)


def test_every_route_of_an_answer_works_for_a_branch_until_it_is_deleted(visitor: Visitor) -> None:
    run = visitor.run(SHORT)["id"]
    body = {"position": 2, "token_id": visitor.candidate(run, 1, 2)}
    with visitor.stream(f"runs/{run}/cells/1/branch", body) as events:
        view = list(events)[-1]["view"]
    (branch,) = view["branches"]
    at, parent = branch["index"], view["cells"][1]
    assert branch["text"][: branch["shared"]] == parent["text"][: branch["shared"]]
    assert (branch["name"], branch["parent_name"], branch["temperature"]) == ("B1", "2", 1.5)
    assert len(visitor.get(f"runs/{run}/cells/{at}/tokens")) > 2
    assert visitor.get(f"runs/{run}/cells/{at}/tokens/2")["forced"]
    values = {"temperature": 1.5, "top_p": 1, "top_k": 0}
    assert visitor.post(f"runs/{run}/cells/{at}/whatif", values).json()["first_difference"] is None
    parting = visitor.get(f"runs/{run}/compare?a=1&b={at}")["divergence"]
    assert (parting["index"], "by hand" in parting["cause"]) == (2, True)
    again = {"position": 4, "token_id": visitor.candidate(run, at, 4)}
    with visitor.stream(f"runs/{run}/cells/{at}/branch", again) as events:
        assert list(events)[-1]["view"]["branches"][1]["parent"] == at

    document = visitor.session.get(f"{visitor.url}/runs/{run}/export.json", timeout=60).json()
    assert [b["parent"] for b in document["branches"]] == [1, at]
    assert "from cell 2" in visitor.session.get(f"{visitor.url}/runs/{run}/export.html", timeout=60).text

    def delete(index: int) -> requests.Response:
        return visitor.session.delete(f"{visitor.url}/runs/{run}/cells/{index}", timeout=60)

    assert "delete B2 first" in delete(at).json()["error"]["message"]
    assert delete(0).status_code == 400
    assert delete(at + 1).status_code == delete(at).status_code == 200
    assert visitor.get(f"runs/{run}")["branches"] == []
    gone = f"runs/{run}/cells/{at}"
    for path in (f"{gone}/tokens", f"{gone}/tokens/0", f"{gone}/snippets"):
        assert visitor.session.get(f"{visitor.url}/{path}", timeout=60).status_code == 404
    for path in (f"{gone}/whatif", f"{gone}/rerun"):
        assert visitor.post(path).status_code == 404
    assert visitor.post(f"{gone}/branch", body).status_code == 404


def test_a_branch_has_no_snippets_and_no_rerun_and_invalid_branches_are_refused(visitor: Visitor) -> None:
    run = visitor.run(SHORT)["id"]
    body = {"position": 2, "token_id": visitor.candidate(run, 1, 2)}
    with visitor.stream(f"runs/{run}/cells/1/branch", body) as events:
        at = list(events)[-1]["branch"]
    assert (
        "no request can"
        in visitor.session.get(f"{visitor.url}/runs/{run}/cells/{at}/snippets", timeout=60).json()["error"]["message"]
    )
    assert "once more instead" in visitor.post(f"runs/{run}/cells/{at}/rerun").json()["error"]["message"]
    for wrong in (
        {},
        {"position": 2},
        {"position": -1, "token_id": 5},
        {"position": "2", "token_id": 5},
        {"position": 99, "token_id": 5},
    ):
        assert visitor.post(f"runs/{run}/cells/1/branch", wrong).status_code == 400, wrong


def test_a_run_is_imported_by_another_visitor_and_a_too_large_body_is_refused_at_once(visitor: Visitor, server: Program) -> None:
    view = visitor.run(SHORT)
    file = visitor.session.get(f"{visitor.url}/runs/{view['id']}/export.json", timeout=60).content
    other = Visitor(server)
    imported = other.session.post(f"{other.url}/import", data=file, timeout=60).json()
    assert imported["id"] != view["id"]  # the first visitor still has a run of this id
    assert {**imported, "id": 0} == {**view, "id": 0}
    assert [run["id"] for run in other.get("runs")] == [imported["id"]]

    address = urlsplit(visitor.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=60)
    connection.putrequest("POST", "/explore/import")
    connection.putheader("Content-Length", str(2**40))
    connection.putheader("Cookie", "; ".join(f"{c.name}={c.value}" for c in visitor.session.cookies))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["code"]) == (413, "too_large")
    connection.close()


def test_a_client_that_disconnects_while_sending_leaves_no_error_in_the_log(visitor: Visitor, server: Program) -> None:
    address = urlsplit(visitor.url)
    request = f"POST /explore/estimate HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 100\r\n\r\n"
    before = server.stderr().count("ERROR")
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall(request.encode() + b"{")
    assert visitor.post("estimate", SHORT).status_code == 200
    assert server.stderr().count("ERROR") == before
