# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
"""Random requests: every response matches /openapi.json, and none has the status 500."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.support.openai_clients import KEY
from tests.support.program import Program

# schemathesis is imported where it is used: each process of pytest-xdist imports this module.
pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis needs Python 3.11"),
]

OPERATIONS = [
    ("/v1/chat/completions", "POST", 80),
    ("/v1/explore", "POST", 60),
    ("/v1/models", "GET", 5),
    ("/v1/models/{model}", "GET", 30),
    ("/health", "GET", 5),
    ("/version", "GET", 5),
    ("/metrics", "GET", 5),
]


@pytest.fixture(scope="module")
def description(api: Program) -> Any:
    """The operations of /openapi.json."""
    import schemathesis

    answer = api.get("/openapi.json")
    assert answer is not None
    return schemathesis.openapi.from_dict(answer.json())


def test_every_route_of_openapi_json_is_tested(description: Any) -> None:
    described = {(operation.ok().path, operation.ok().method.upper()) for operation in description.get_all_operations()}
    assert described == {(path, method) for path, method, _ in OPERATIONS}


@pytest.mark.parametrize(("path", "method", "examples"), OPERATIONS)
def test_responses_match_openapi_json(description, api: Program, path: str, method: str, examples: int) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    held = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=description[path][method].as_strategy())
    def holds(case: Any) -> None:
        if isinstance(case.body, dict) and case.body.get("messages"):
            case.body.setdefault("max_tokens", 2)  # the few that are answered need not be answered at length
        case.call_and_validate(base_url=api.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120, checks=held)

    holds()
