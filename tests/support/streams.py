"""Streamed answers of the API, read in threads, so that a test can do something to the program meanwhile."""

from __future__ import annotations

import json
import threading
from typing import Any

import requests

from tests.support.program import Program, visitor
from tests.support.waiting import PATIENCE_S, wait_until

QUESTION = {"messages": [{"role": "user", "content": "Tell me a story"}], "ignore_eos": True}


class StreamedAnswer:
    """An answer of max_tokens tokens, whatever the model says. Returns from its constructor after the first token.

    Attributes:
        text: The text so far.
        events: The objects so far, and each other line of the stream as text.
    """

    def __init__(self, program: Program, max_tokens: int) -> None:
        self.text, self.events = "", []
        self._body = {**QUESTION, "max_tokens": max_tokens, "stream": True}
        self._url = f"{program.url}/v1/chat/completions"
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: self.text, "the first token")

    def _read(self) -> None:
        with visitor() as session, session.post(self._url, json=self._body, stream=True, timeout=PATIENCE_S) as response:
            for line in (line.decode() for line in response.iter_lines()):
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    self.events.append(event)
                    self.text += "".join(choice["delta"].get("content", "") for choice in event.get("choices", ()))
                elif line:
                    self.events.append(line)

    def finish(self) -> list[Any]:
        """All events, after the end of the stream."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.events

    def error(self) -> dict[str, Any]:
        """The error that the stream ends with, before its last line."""
        *_, last, done = self.finish()
        assert done == "data: [DONE]"
        return last["error"]


def ask(program: Program, **options: Any) -> requests.Response:
    """The response to the same question at once."""
    with visitor() as session:
        return session.post(f"{program.url}/v1/chat/completions", json={**QUESTION, **options}, timeout=PATIENCE_S)
