"""What the Explore page asks of the server, by plain HTTP: whatever generates can be stopped, and what came of it is kept."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.openai_clients import wait_idle
from tests.support.program import Program, visitor, wait_until

pytestmark = pytest.mark.timeout(400)
# An answer that lasts some seconds: greedy, it says nothing that ends it.
LONG = {"prompt": "x " * 299 + "x", "temperature": 0, "seed": 1, "top_p": 1, "top_k": 0, "max_tokens": 1000}
SHORT = {"prompt": "What is this?", "temperature": [0.5, 1.5], "top_p": 1, "seed": 1, "max_tokens": 8}
Line = dict[str, Any]


class Visit:
    """A visitor of the page, with a cookie of their own."""

    def __init__(self, server: Program) -> None:
        self.url = f"{server.url}/explore"
        self.session = visitor()
        assert self.session.get(self.url, timeout=60).status_code == 200

    def get(self, path: str) -> Any:
        answer = self.session.get(f"{self.url}/{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.session.post(f"{self.url}/{path}", json={} if body is None else body, timeout=240, **options)

    @contextmanager
    def stream(self, path: str, body: Any = None) -> Iterator[Iterator[Line]]:
        """The lines as they come; leaving closes the connection."""
        with self.post(path, body, stream=True) as answer:
            assert answer.status_code == 200, answer.text
            yield (json.loads(line) for line in answer.iter_lines())

    def run(self, grid: Line) -> Line:
        """A whole run; its view."""
        with self.stream("run", grid) as lines:
            return list(lines)[-1]["view"]

    def stopped_when_writing(self, path: str, body: Any = None) -> Line:
        """Starts it, stops it after some tokens; the last line."""
        with self.stream(path, body) as lines:
            job = next(lines)["run"]
            next(line for line in lines if line.get("phase") == "writing" and line["tokens"] > 2)
            assert self.post(f"live/{job}/stop").json() == {"stopped": True}
            return list(lines)[-1]

    def candidate(self, run: str, index: int, position: int) -> int:
        """A token that was not chosen there."""
        steps = self.get(f"runs/{run}/cells/{index}/tokens/{position}")
        return next(c["token_id"] for c in steps["candidates"] if not c["chosen"])


@pytest.fixture
def visit(server: Program) -> Visit:
    return Visit(server)


@pytest.fixture(scope="module")
def started(server: Program) -> tuple[Visit, str]:
    """A visitor with a run of one long answer that was stopped: its id."""
    visit = Visit(server)
    return visit, visit.stopped_when_writing("run", LONG)["view"]["id"]


def test_a_cell_anew_is_stopped_and_what_it_said_is_kept(started: tuple[Visit, str]) -> None:
    visit, run = started
    last = visit.stopped_when_writing(f"runs/{run}/cells/0/rerun")
    (cell,) = last["view"]["cells"]
    assert (last["event"], last["note"], cell["outcome"]) == ("end", None, "cancelled")
    assert cell["text"]
    assert visit.get(f"runs/{run}")["cells"] == [cell]


def test_a_complete_answer_stays_when_its_repetition_is_stopped(visit: Visit) -> None:
    before = visit.run({**LONG, "max_tokens": 250})
    last = visit.stopped_when_writing(f"runs/{before['id']}/cells/0/rerun")
    assert last["note"] == "Stopped. The earlier answer stays."
    assert last["view"]["cells"] == before["cells"]
    assert before["cells"][0]["outcome"] == "max_tokens"


def test_a_branch_is_stopped_and_what_it_said_is_kept(started: tuple[Visit, str]) -> None:
    visit, run = started
    body = {"position": 1, "token_id": visit.candidate(run, 0, 1)}
    last = visit.stopped_when_writing(f"runs/{run}/cells/0/branch", body)
    branch = next(b for b in last["view"]["branches"] if b["index"] == last["branch"])
    assert (branch["outcome"], branch["parent"], branch["position"]) == ("cancelled", 0, 1)
    assert branch in visit.get(f"runs/{run}")["branches"]


def test_a_connection_that_closes_stops_the_cell_and_the_branch_and_keeps_the_branch(
    started: tuple[Visit, str], server: Program
) -> None:
    visit, run = started
    before = len(visit.get(f"runs/{run}")["branches"])
    body = {"position": 1, "token_id": visit.candidate(run, 0, 1)}
    for path, sent in ((f"runs/{run}/cells/0/rerun", {}), (f"runs/{run}/cells/0/branch", body)):
        with visit.stream(path, sent) as lines:
            next(line for line in lines if line.get("phase") == "writing" and line["tokens"] > 3)
        wait_idle(server)
    # It is kept a moment after its slot is free.
    wait_until(lambda: len(visit.get(f"runs/{run}")["branches"]) > before, "the branch is kept")
    after = visit.get(f"runs/{run}")["branches"]
    assert len(after) == before + 1
    assert after[-1]["outcome"] == "cancelled"


def test_a_run_deleted_meanwhile_is_said_to_be_gone(server: Program) -> None:
    visit = Visit(server)
    run = visit.stopped_when_writing("run", LONG)["view"]["id"]
    with visit.stream(f"runs/{run}/cells/0/rerun") as lines:
        job = next(lines)["run"]
        assert visit.session.delete(f"{visit.url}/runs/{run}", timeout=60).status_code == 200
        visit.post(f"live/{job}/stop")
        last = list(lines)[-1]
    assert last == {"event": "error", "error": f"There is no run {run}."}


def test_nobody_else_can_stop_it_and_what_is_over_cannot_be_stopped(visit: Visit, server: Program) -> None:
    other = Visit(server)
    with visit.stream("run", LONG) as lines:
        job = next(lines)["run"]
        assert other.post(f"live/{job}/stop").status_code == 404
        assert visit.post(f"live/{job}/stop", {"cell": 1}).status_code == 404
        assert visit.post(f"live/{job}/stop", {"cell": "0"}).status_code == 400
        assert visit.post(f"live/{job}/stop", {"cell": 0}).status_code == 200
        assert list(lines)[-1]["view"]["cells"][0]["outcome"] == "cancelled"
    over = visit.post(f"live/{job}/stop")
    assert (over.status_code, "may just have ended" in over.json()["error"]["message"]) == (404, True)


def test_a_branch_is_an_answer_like_any_other_until_it_is_deleted(visit: Visit) -> None:
    run = visit.run(SHORT)["id"]
    body = {"position": 2, "token_id": visit.candidate(run, 1, 2)}
    with visit.stream(f"runs/{run}/cells/1/branch", body) as lines:
        view = list(lines)[-1]["view"]
    (branch,) = view["branches"]
    at, parent = branch["index"], view["cells"][1]
    assert branch["text"][: branch["shared"]] == parent["text"][: branch["shared"]]
    assert (branch["name"], branch["parent_name"], branch["temperature"]) == ("B1", "2", 1.5)
    assert len(visit.get(f"runs/{run}/cells/{at}/tokens")) > 2
    assert visit.get(f"runs/{run}/cells/{at}/tokens/2")["forced"]
    values = {"temperature": 1.5, "top_p": 1, "top_k": 0}
    assert visit.post(f"runs/{run}/cells/{at}/whatif", values).json()["first_difference"] is None
    parting = visit.get(f"runs/{run}/compare?a=1&b={at}")["divergence"]
    assert (parting["index"], "by hand" in parting["cause"]) == (2, True)
    again = {"position": 4, "token_id": visit.candidate(run, at, 4)}
    with visit.stream(f"runs/{run}/cells/{at}/branch", again) as lines:
        assert list(lines)[-1]["view"]["branches"][1]["parent"] == at

    document = visit.session.get(f"{visit.url}/runs/{run}/export.json", timeout=60).json()
    assert [b["parent"] for b in document["branches"]] == [1, at]
    assert "from cell 2" in visit.session.get(f"{visit.url}/runs/{run}/export.html", timeout=60).text

    def delete(index: int) -> requests.Response:
        return visit.session.delete(f"{visit.url}/runs/{run}/cells/{index}", timeout=60)

    assert "delete B2 first" in delete(at).json()["error"]["message"]
    assert delete(0).status_code == 400
    assert delete(at + 1).status_code == delete(at).status_code == 200
    assert visit.get(f"runs/{run}")["branches"] == []
    gone = f"runs/{run}/cells/{at}"
    for path in (f"{gone}/tokens", f"{gone}/tokens/0", f"{gone}/snippets"):
        assert visit.session.get(f"{visit.url}/{path}", timeout=60).status_code == 404
    for path in (f"{gone}/whatif", f"{gone}/rerun"):
        assert visit.post(path).status_code == 404
    assert visit.post(f"{gone}/branch", body).status_code == 404


def test_what_a_branch_cannot_do_is_said(visit: Visit) -> None:
    run = visit.run(SHORT)["id"]
    body = {"position": 2, "token_id": visit.candidate(run, 1, 2)}
    with visit.stream(f"runs/{run}/cells/1/branch", body) as lines:
        at = list(lines)[-1]["branch"]
    assert (
        "no request can"
        in visit.session.get(f"{visit.url}/runs/{run}/cells/{at}/snippets", timeout=60).json()["error"]["message"]
    )
    assert "once more instead" in visit.post(f"runs/{run}/cells/{at}/rerun").json()["error"]["message"]
    for wrong in (
        {},
        {"position": 2},
        {"position": -1, "token_id": 5},
        {"position": "2", "token_id": 5},
        {"position": 99, "token_id": 5},
    ):
        assert visit.post(f"runs/{run}/cells/1/branch", wrong).status_code == 400, wrong


def test_what_is_imported_is_what_was_exported_and_too_much_is_refused_at_once(visit: Visit, server: Program) -> None:
    view = visit.run(SHORT)
    file = visit.session.get(f"{visit.url}/runs/{view['id']}/export.json", timeout=60).content
    stranger = Visit(server)
    imported = stranger.session.post(f"{stranger.url}/import", data=file, timeout=60).json()
    assert imported["id"] != view["id"]  # it is another visitor's still
    assert {**imported, "id": 0} == {**view, "id": 0}
    assert [run["id"] for run in stranger.get("runs")] == [imported["id"]]

    address = urlsplit(visit.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=60)
    connection.putrequest("POST", "/explore/import")
    connection.putheader("Content-Length", str(2**40))
    connection.putheader("Cookie", "; ".join(f"{c.name}={c.value}" for c in visit.session.cookies))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["code"]) == (413, "too_large")
    connection.close()


def test_a_page_that_is_left_while_it_asks_leaves_no_trace_in_the_log(visit: Visit, server: Program) -> None:
    address = urlsplit(visit.url)
    request = f"POST /explore/estimate HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 100\r\n\r\n"
    before = server.stderr()
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        connection.sendall(request.encode() + b"{")
    assert visit.post("estimate", SHORT).status_code == 200
    assert server.stderr() == before
