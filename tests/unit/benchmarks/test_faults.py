"""What the benchmark `faults` counts, and how it begins and ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.faults import CLIENTS, LOST, Load
from tests.support.paths import ROOT
from tests.support.waiting import wait_until


class Nonsense(BaseHTTPRequestHandler):
    """Answers every request with a stream, or a page, that nobody understands."""

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"data: {nonsense}\n\n" if self.command == "POST" else b"[]")

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def nonsense() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_answer_that_nobody_understands_breaks_the_promise(nonsense: str) -> None:
    load = Load([cast("Any", SimpleNamespace(url=nonsense, killed=False))])
    with load:
        wait_until(lambda: len(load.wrong) == CLIENTS, lambda: "\n".join(load.wrong))
    assert load.outcomes[LOST] == CLIENTS, "over the API and on the page"
    assert sum("JSONDecodeError" in line for line in load.wrong) == CLIENTS - CLIENTS // 3


@pytest.mark.slow
def test_without_a_database_it_says_so_in_one_sentence() -> None:
    blocked = "import sys; sys.modules['psycopg'] = None; from benchmarks.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", blocked, "faults"], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "PostgreSQL needs its driver: pip install 'psycopg[binary]'.\n"
