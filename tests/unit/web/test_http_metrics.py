"""Responses are counted by family of routes and status; addresses are no labels."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mllama_demo.web.http_metrics import HttpMetrics, family_of
from mllama_demo.web.metrics import Metrics
from tests.support.manual_backend import ManualBackend

METRICS = "mllama_demo_http_responses_total"


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("/", "page"),
        ("/v1/chat/completions", "api"),
        ("/v1", "api"),
        ("/v1x", "other"),
        ("/gradio_api/queue/join", "chat"),
        ("/picture/0123", "chat"),
        ("/explore", "explore"),
        ("/explore/static/explore.js", "files"),
        ("/web/static/ndjson.js", "files"),
        ("/assets/index.js", "files"),
        ("/admin/figures", "admin"),
        ("/login", "sign_in"),
        ("/metrics", "monitoring"),
        ("/wp-login.php", "other"),
        ("", "other"),
        ("//", "other"),
    ],
)
def test_paths_belong_to_families(path: str, family: str) -> None:
    assert family_of(path) == family


def counted(metrics: Metrics) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(metrics.render()[0].decode())
    samples = [sample for family in families for sample in family.samples if sample.name == METRICS]
    return {(sample.labels["route"], sample.labels["status"]): sample.value for sample in samples}


async def test_responses_are_counted_by_status_and_exceptions_as_500() -> None:
    metrics = Metrics(ManualBackend(), "tiny")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/fails":
            raise RuntimeError("no")
        await send({"type": "http.response.start", "status": 429, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    transport = httpx.ASGITransport(HttpMetrics(app, metrics), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/v1/one", "/v1/two", "/v1/fails", "/explore"):
            await client.get(path)
    assert counted(metrics) == {("api", "429"): 2, ("api", "500"): 1, ("explore", "429"): 1}
