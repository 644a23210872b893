"""A visitor of the Explore page over HTTP, without a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from tests.support.program import Program
from tests.support.program import visitor as new_session

JsonEvent = dict[str, Any]


class Visitor:
    """A visitor of the page with their own cookie."""

    def __init__(self, server: Program) -> None:
        self.url = f"{server.url}/explore"
        self.session = new_session()
        assert self.session.get(self.url, timeout=60).status_code == 200

    def get(self, path: str) -> Any:
        answer = self.session.get(f"{self.url}/{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.session.post(f"{self.url}/{path}", json={} if body is None else body, timeout=240, **options)

    @contextmanager
    def stream(self, path: str, body: Any = None) -> Iterator[Iterator[JsonEvent]]:
        """The events as they arrive. Leaving the context closes the connection."""
        with self.post(path, body, stream=True) as answer:
            assert answer.status_code == 200, answer.text
            yield (json.loads(line) for line in answer.iter_lines())

    def run(self, grid: JsonEvent) -> JsonEvent:
        """Generates a whole run and returns its view."""
        with self.stream("run", grid) as events:
            return list(events)[-1]["view"]

    def stopped_when_writing(self, path: str, body: Any = None) -> JsonEvent:
        """Starts a stream, stops it after some tokens, and returns the last event."""
        with self.stream(path, body) as events:
            stop_id = next(events)["run"]
            next(event for event in events if event.get("phase") == "writing" and event["tokens"] > 2)
            assert self.post(f"live/{stop_id}/stop").json() == {"stopped": True}
            return list(events)[-1]

    def candidate(self, run: str, index: int, position: int) -> int:
        """The id of a candidate that was not chosen."""
        steps = self.get(f"runs/{run}/cells/{index}/tokens/{position}")
        return next(c["token_id"] for c in steps["candidates"] if not c["chosen"])
