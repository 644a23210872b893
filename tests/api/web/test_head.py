"""Probes and proxies ask with HEAD: every address that answers GET answers HEAD with the same status and without a body."""

from __future__ import annotations

import pytest

from tests.support.program import Program, visitor

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/health", "/version", "/metrics", "/v1/models", "/v1/models/embedded", "/explore", "/present", "/laptop-model"),
        *("/status", "/openapi.json", "/config", "/manifest.json", "/web/static/ndjson.js", "/no-such-page", "/v1/no-such-route"),
    ],
)
def test_head_is_get_without_a_body(server: Program, path: str):
    with visitor() as browser:
        browser.headers["Accept"] = "text/html, */*"
        get, head = browser.get(server.url + path, timeout=60), browser.head(server.url + path, timeout=60)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert get.content
    for name in ("content-type", "content-security-policy", "allow"):
        assert head.headers.get(name) == get.headers.get(name)


def test_head_asks_no_question(server: Program):
    with visitor() as client:
        head = client.head(server.url + "/v1/chat/completions", timeout=60)
    assert (head.status_code, head.headers["allow"], head.content) == (405, "POST", b"")
