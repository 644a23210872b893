"""The guide in the documentation says what the program does: the commands, and the sentences of the page."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest

from mllama_demo.config.settings import Settings
from mllama_demo.engine.remote.errors import to_demo_error
from mllama_demo.engine.remote.probe import probe
from mllama_demo.errors import BackendUnavailable
from mllama_demo.web.guide.routes import PROGRAMS, Program
from tests.support.paths import ROOT


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_guides_and_the_configuration_name_the_same_commands(program: Program) -> None:
    documented = (ROOT / "docs" / "laptop-model.md").read_text(encoding="utf-8")
    config = re.search(r"configs/[\w.-]+", program.commands[-1])
    assert config is not None
    in_config = (ROOT / config[0]).read_text(encoding="utf-8")
    assert f"## {program.name}\n" in documented
    for command in program.commands:
        assert command in documented
        assert f"#   {command}" in in_config


class APIConnectionError(Exception):
    """Named as in the openai client."""


class APITimeoutError(Exception):
    """Named as in the openai client."""


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status_code, self.body = status, {"error": {"message": message}}


class Client:
    """A program that has these models."""

    def __init__(self, *models: str) -> None:
        self.models = SimpleNamespace(list=self._list)
        self._names = models

    async def _list(self, **_: Any) -> Any:
        return SimpleNamespace(data=[SimpleNamespace(id=name) for name in self._names])

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}

    post = get


def sentences() -> list[str]:
    """What visitors read when a question or the start of the page fails."""
    failures = [
        APIConnectionError(),
        APITimeoutError(),
        Refusal(503, "Loading model"),
        Refusal(500, "image input is not supported"),
        Refusal(400, "the request exceeds the available context size"),
    ]
    told = [str(to_demo_error(failure, "http://127.0.0.1:11434/v1")) for failure in failures]
    for client in (Client(), Client("llama3.2")):
        with pytest.raises(BackendUnavailable) as caught:
            asyncio.run(probe(client, Settings(remote_kind="ollama", remote_model="llama3.2-vision")))
        told.append(str(caught.value))
    return told


def test_the_guide_quotes_the_sentences_of_the_page() -> None:
    documented = (ROOT / "docs" / "laptop-model.md").read_text(encoding="utf-8")
    table = documented.partition("| the page says |")[2].partition("\n\n")[0]
    quoted = [row.split("|")[1].strip() for row in table.splitlines()[2:]]
    patterns = [".*".join(re.escape(part) for part in quote.split("…")) for quote in quoted]
    told = sentences()
    assert len(quoted) == len(told)
    for sentence in told:
        assert sum(bool(re.search(pattern, sentence)) for pattern in patterns) == 1, sentence
