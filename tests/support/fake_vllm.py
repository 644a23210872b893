# pyright: reportAttributeAccessIssue=false
"""Stands in for the Neuron fork of vLLM, which runs on no machine without a Neuron device. It takes what the recorded
signatures of one generation take and nothing else, and behaves as the fork does where a caller could trip over it."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.paths import ROOT

DATA = ROOT / "tests" / "contract" / "data"
GENERATIONS = ("0.6", "0.7", "0.9")


def signatures(generation: str) -> dict[str, Any]:
    """What was read from the fork's source."""
    return json.loads((DATA / f"vllm_neuron_{generation}.json").read_text())


class FakeVLLM:
    """The module and what happened in it. answer: prompt ids to the ids of an answer. pace_s: between two tokens.

    prompts, params: of all requests, by id. aborted: ids. violations: rules that were broken.
    """

    def __init__(self, generation: str) -> None:
        self.signatures = signatures(generation)
        self.answer: Callable[[Sequence[int]], Sequence[int]] = lambda prompt: []
        self.pace_s = 0.0
        self.failure: Exception | None = None
        self.dead = False
        self.engine_args: dict[str, Any] = {}
        self.prompts: dict[str, dict[str, Any]] = {}
        self.params: dict[str, Any] = {}
        self.aborted: list[str] = []
        self.violations: list[str] = []
        self.live: set[str] = set()

    def install(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """Makes `import vllm` find it, with the files that tell the generations apart."""
        for file in ("vllm/__init__.py", *self.signatures["files"]):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        self._fill(module := importlib.import_module("vllm"))
        del sys.modules["vllm"]  # so that it is gone again after the test
        monkeypatch.setitem(sys.modules, "vllm", module)

    def _fill(self, module: ModuleType) -> None:
        fake = self

        def checked(name: str, values: dict[str, Any]) -> None:
            if unknown := set(values) - set(fake.signatures[name]):
                raise TypeError(f"{name} got unexpected keyword arguments {sorted(unknown)}")

        class AsyncEngineArgs:
            def __init__(self, **values: Any) -> None:
                checked("AsyncEngineArgs", values)
                fake.engine_args = values

        class SamplingParams(SimpleNamespace):
            def __init__(self, **values: Any) -> None:
                checked("SamplingParams", values)
                super().__init__(**values)
                assert self.temperature >= 0.0
                assert 0.0 < self.top_p <= 1.0
                assert self.top_k == -1 or self.top_k >= 1
                assert self.max_tokens >= 1

        class AsyncLLMEngine:
            errored = property(lambda self: fake.dead)

            @classmethod
            def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLMEngine:
                return cls()

            async def abort(self, request_id: str) -> None:
                fake.aborted.append(request_id)

            def generate(self, *arguments: Any) -> AsyncIterator[Any]:
                assert len(arguments) == len(fake.signatures["AsyncLLMEngine"]["generate"]["required"])
                return fake.stream(*arguments)

        module.AsyncEngineArgs, module.SamplingParams, module.AsyncLLMEngine = AsyncEngineArgs, SamplingParams, AsyncLLMEngine

    async def stream(self, prompt: dict[str, Any], params: Any, request_id: str) -> AsyncIterator[Any]:
        if unknown := set(prompt) - set(self.signatures["TokensPrompt"]):
            self.violations.append(f"a prompt has {sorted(unknown)}")
        if any(params is other for other in self.params.values()):
            self.violations.append("one SamplingParams for two requests")
        self.prompts[request_id], self.params[request_id] = prompt, params
        self.live.add(request_id)
        if len(self.live) > self.engine_args["max_num_seqs"]:
            self.violations.append("more requests than slots")
        ids: list[int] = []
        try:
            for token_id in self.answer(prompt["prompt_token_ids"]):
                await asyncio.sleep(self.pace_s)
                if self.failure is not None:
                    raise self.failure
                if request_id in self.aborted:
                    raise asyncio.CancelledError
                ids.append(token_id)
                finished = token_id in params.stop_token_ids or len(ids) >= params.max_tokens
                yield SimpleNamespace(finished=finished, outputs=[SimpleNamespace(token_ids=ids)])
                if finished:
                    return
        except GeneratorExit:
            raise asyncio.CancelledError from None
        finally:
            params.top_k = 256  # the fork writes into them
            self.live.discard(request_id)
