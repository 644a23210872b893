"""What the tests of the API share: how its server is started, and clients of it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import httpx2
import openai
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.paths import ROOT
from tests.support.program import Program, visitor
from tests.support.waiting import wait_until

KEY = "a-key-for-the-tests"
NAME = "tiny"
# A name as the tutorial of AWS has it.
MODEL_PATH = "/home/ubuntu/model_hf/Llama-3.2-90B-Vision-Instruct-hf"
MAX_REQUEST_BYTES = 400_000
OPTIONS = (
    *("--api-only", "--api-keys", f"another-key,{KEY}", "--served-model-name", f"{NAME},{MODEL_PATH}"),
    *("--max-request-bytes", str(MAX_REQUEST_BYTES), "--allowed-media-hosts", "127.0.0.1", "--max-waiting", "20"),
)
PICTURES = ROOT / "mllama_demo" / "images" / "example_images"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def client(program: Program, key: str = KEY, address: str = "127.0.0.1") -> openai.OpenAI:
    """address: from which it connects; one address cannot fill the queue."""
    transport = httpx2.HTTPTransport(local_address=address)
    http_client = openai.DefaultHttpxClient(transport=transport, trust_env=False)
    return openai.OpenAI(base_url=f"{program.url}/v1", api_key=key, max_retries=0, timeout=120, http_client=http_client)


def async_client(program: Program) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{program.url}/v1", api_key=KEY, max_retries=0, timeout=120)


def data_url(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def about(url: str, text: str = "What is this?") -> Any:
    """A user's turn with an image."""
    return {"role": "user", "content": [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def post(program: Program, body: Any, **options: Any) -> requests.Response:
    """A chat completion by plain HTTP; body: JSON, or bytes as they are."""
    content = {"data": body} if isinstance(body, (bytes, str)) else {"json": body}
    headers = {**AUTHORIZED, "Content-Type": "application/json", **options.pop("headers", {})}
    with visitor() as session:
        return session.post(f"{program.url}/v1/chat/completions", headers=headers, timeout=120, **content, **options)


def metric(program: Program, name: str, **labels: str) -> float:
    """The value of one sample of /metrics, as Prometheus would read it."""
    page = program.get("/metrics")
    assert page is not None
    for family in text_string_to_metric_families(page.text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"/metrics has no {name}")


def wait_idle(program: Program) -> None:
    def idle() -> bool:
        health = program.health()
        return (health["running"], health["waiting"]) == (0, 0)

    wait_until(idle, "all slots are free")
