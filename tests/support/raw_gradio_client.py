"""The chat without its page: Gradio's own protocol by plain HTTP, as somebody would who means to break the rules."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import requests

from mllama_demo.ui.gradio_patches.hidden_components import HIDDEN
from tests.support.program import Program, visitor
from tests.support.waiting import wait_until


class RawChat:
    """One visitor with a cookie, who may call every event handler of the page with any values."""

    def __init__(self, program: Program) -> None:
        self._url = program.url
        self.http = visitor()
        self.http.get(self._url + "/", timeout=60)
        self._config = self.http.get(self._url + "/config", timeout=60).json()
        self._components = {component["id"]: component for component in self._config["components"]}
        self.handlers = [handler for handler in self._config["dependencies"] if handler["backend_fn"]]
        self.ask_handler = self.handler("chat-input", "submit")
        self.conversation_field: int = self.ask_handler["inputs"][0]

    def handler(self, elem_id: str, event: str) -> dict[str, Any]:
        """The handler of one component's event."""
        return next(
            handler
            for handler in self.handlers
            for component, name in handler["targets"]
            if name == event and self._components.get(component, {}).get("props", {}).get("elem_id") == elem_id
        )

    def field(self, elem_id: str) -> int:
        return next(id for id, component in self._components.items() if component["props"].get("elem_id") == elem_id)

    def begin(
        self, handler: dict[str, Any], values: dict[int, Any], query: str = "", event_data: Any = None, session: str = ""
    ) -> requests.Response:
        """Calls a handler, the inputs not in values as on a new page; the stream of what it answers. session: of an open page."""
        data = [values.get(id, self._components[id]["props"].get("value")) for id in handler["inputs"]]
        session = session or uuid.uuid4().hex[:11]
        body = {"data": data, "fn_index": handler["id"], "session_hash": session, "event_data": event_data, "trigger_id": None}
        joined = self.http.post(f"{self._url}/gradio_api/queue/join?{query}", json=body, timeout=60)
        if joined.status_code != 200:
            return joined
        return self.http.get(f"{self._url}/gradio_api/queue/data?session_hash={session}", stream=True, timeout=60)

    def call(self, handler: dict[str, Any], values: dict[int, Any], query: str = "", event_data: Any = None) -> str:
        """All that a handler answers, as text."""
        with self.begin(handler, values, query, event_data) as answer:
            return "\n".join(json.dumps(message, ensure_ascii=False) for message in messages(answer)) or answer.text

    def ask(self, text: str, conversation: str = "", files: list[dict[str, Any]] | None = None) -> str:
        """Asks, and waits until nothing is being answered any more; what the handler answered, an answer under way at most."""
        question = {"text": text, "files": files or []}
        answer = self.call(self.ask_handler, {self.conversation_field: conversation, self.field("chat-input"): question})
        for id in self.conversations():
            wait_until(lambda id=id: f'"elem_classes": {json.dumps([HIDDEN])}' in self.open(id), "Stop is away")
        return answer

    def open(self, conversation: str) -> str:
        """What the page shows that is opened with the link of a conversation."""
        return self.call(self._opening, {}, query=f"c={conversation}")

    def follow(self, conversation: str) -> requests.Response:
        """Opens a conversation on a page of its own; the stream of the answer that is being written, until its end."""
        session = uuid.uuid4().hex[:11]
        with self.begin(self._opening, {}, f"c={conversation}", session=session) as opened:
            list(messages(opened))
        following = next(handler for handler in self.handlers if handler["trigger_after"] == self._opening["id"])
        return self.begin(following, {self.conversation_field: conversation}, session=session)

    @property
    def _opening(self) -> dict[str, Any]:
        return next(handler for handler in self.handlers if any(event == "load" for _, event in handler["targets"]))

    def conversations(self) -> list[str]:
        """Ids of this visitor's conversations."""
        return list(dict.fromkeys(re.findall(r'data-id=\\"([^"\\]+)', self.open(""))))


def messages(stream: requests.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream until its handler is done."""
    for line in stream.iter_lines():
        if line.startswith(b"data:"):
            message = json.loads(line[5:])
            yield message
            if message["msg"] in ("process_completed", "close_stream", "unexpected_error"):
                return
