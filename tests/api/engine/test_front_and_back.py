"""Two programs: one with the page, in front of one with the model. Both are real, and so is what goes over the wire."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

import mllama_demo
from mllama_demo.chat.conversation import Message
from mllama_demo.config.settings import Settings
from mllama_demo.engine.base import FinishEvent, GenerationRequest, TokenEvent
from mllama_demo.engine.remote.backend import OpenAIBackend
from mllama_demo.sampling import SamplingParams
from tests.support.program import Program, free_port, running, visitor
from tests.support.raw_gradio_client import RawChat
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)
START_S = 400  # two programs start at the same time
APPLES = Path(mllama_demo.__file__).parent / "images" / "example_images" / "apples.png"
QUESTION = "What is in this image?"


@dataclass
class Pair:
    """front asks back for every answer. port: of back, on which it can be started again."""

    front: Program
    back: Program
    port: int


def ready(program: Program) -> bool:
    answer = program.get("/health")
    return answer is not None and answer.status_code == 200


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    port = free_port()
    with (
        running(tmp_path_factory.mktemp("back"), "--port", str(port), "--api-only", "true", "--batch-size", "2") as back,
        running(tmp_path_factory.mktemp("front"), "--backend", "openai", "--remote-url", f"http://127.0.0.1:{port}") as front,
    ):
        back.url = f"http://127.0.0.1:{port}"
        for program in (back, front):
            wait_until(lambda program=program: ready(program), f"ready{program.output()}", START_S)
        yield Pair(front, back, port)


def ask(program: Program, text: str = QUESTION, image: Path | None = None, **more: Any) -> requests.Response:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        url = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    body = {"messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 24, **more}
    with visitor() as http:
        return http.post(program.url + "/v1/chat/completions", json=body, timeout=120, stream=bool(more.get("stream")))


def words(answer: requests.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_the_front_is_what_the_back_says(pair):
    assert pair.front.health()["slots"] == 2
    served, shown = (program.get("/v1/models").json()["data"][0] for program in (pair.back, pair.front))
    assert shown["id"] == served["id"]
    assert shown["max_model_len"] == served["max_model_len"]


@pytest.mark.parametrize("image", [APPLES, None])
def test_an_answer_is_the_same_through_the_front(pair, image):
    """Word for word and token for token: the image and the conversation come through undamaged."""
    direct, through = ask(pair.back, image=image), ask(pair.front, image=image)
    assert words(through) == words(direct) != ""
    assert through.json()["usage"] == direct.json()["usage"]


def test_a_seed_draws_the_same_answer_through_the_front(pair):
    values = {"temperature": 1.5, "seed": 11, "top_k": 40, "image": APPLES}
    assert words(ask(pair.front, **values)) == words(ask(pair.back, **values))


def test_the_page_of_the_front_answers(pair):
    visitor = RawChat(pair.front)
    visitor.ask("Hello!")
    answer = visitor.open(*visitor.conversations())
    assert "First token" in answer
    assert re.search(r"\d+ tokens?\b", answer)
    assert not re.search(r"about \d+ tokens?\b", answer), "the back told its figures"


def test_a_client_that_leaves_the_front_frees_the_slot_in_the_back(pair):
    answer = ask(pair.front, "Tell me a very long story.", temperature=1.0, max_tokens=1900, ignore_eos=True, stream=True)
    lines = answer.iter_lines()  # kept: to collect this generator closes the connection
    next(line for line in lines if line.startswith(b"data:") and json.loads(line[5:])["choices"])
    assert pair.back.health()["running"] == 1
    answer.close()
    wait_until(lambda: pair.front.health()["running"] == 0, "the front has ended it")
    wait_until(lambda: pair.back.health()["running"] == 0, "the back has ended it")


async def test_logprobs_come_through(pair):
    backend = OpenAIBackend(Settings(backend="openai", remote_url=pair.back.url))
    backend.start()
    try:
        wait_until(lambda: backend.status().state == "ready", "ready")
        sampling = SamplingParams(temperature=0.0, max_tokens=5)
        request = GenerationRequest((), sampling, messages=(Message("user", "Hello!"),), trace=True)

        async def read() -> list[Any]:
            async with aclosing(backend.generate(request)) as events:
                return [event async for event in events]

        *events, last = await read()
    finally:
        backend.close()
    assert isinstance(last, FinishEvent)
    told = [step for event in events if isinstance(event, TokenEvent) for step in event.logprobs]
    assert told
    for step in told:
        assert step.logprob == pytest.approx(step.likeliest[0][1]), "greedy takes the likeliest"
        assert len(step.likeliest) == 20
        assert "logprobs" in backend.info.capabilities


def test_the_api_of_the_front_passes_logprobs_on(pair):
    values = {"logprobs": True, "top_logprobs": 3, "max_tokens": 5}
    direct, through = (ask(program, **values).json()["choices"][0]["logprobs"]["content"] for program in (pair.back, pair.front))
    assert [entry["token"] for entry in through] == [entry["token"] for entry in direct] != []
    for mine, theirs in zip(through, direct, strict=True):
        assert mine["logprob"] == pytest.approx(theirs["logprob"])
        assert [one["token"] for one in mine["top_logprobs"]] == [one["token"] for one in theirs["top_logprobs"]]
    with ask(pair.front, stream=True, **values) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith(b"data: {")]
    streamed = [
        entry for event in events for choice in event["choices"] for entry in (choice["logprobs"] or {}).get("content", ())
    ]
    assert [entry["token"] for entry in streamed] == [entry["token"] for entry in direct]
    assert pair.front.get("/v1/models").json()["data"][0]["capabilities"]["logprobs"]


def test_the_front_lives_through_a_restart_of_the_back(pair, tmp_path):
    pair.back.interrupt()
    # A back that is ending still answers that it is not ready.
    wait_until(lambda: "cannot be reached" in pair.front.health().get("reason", ""), "the front notices")
    assert pair.front.health()["status"] == "down"
    refused = ask(pair.front)
    assert refused.status_code == 503
    assert "cannot be reached" in refused.json()["error"]["message"]
    with running(tmp_path, "--port", str(pair.port), "--api-only", "true"):
        wait_until(lambda: ready(pair.front), "the front finds the new back", START_S)
        assert words(ask(pair.front, image=APPLES))
        assert pair.front.health()["slots"] == 4, "it is another back, with other slots"
