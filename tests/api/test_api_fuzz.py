"""Whatever is sent, the server answers as its own description says, and never with 500."""

from __future__ import annotations

import pytest
import schemathesis
from api_client import KEY
from hypothesis import HealthCheck, Phase, settings
from program import Program
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def description(api: Program) -> schemathesis.BaseSchema:
    answer = api.get("/openapi.json")
    assert answer is not None
    return schemathesis.openapi.from_dict(answer.json())


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_description_holds(case: schemathesis.Case, api: Program) -> None:
    if isinstance(case.body, dict) and isinstance(case.body.get("messages"), list):
        case.body.setdefault("max_tokens", 2)  # the few that are answered need not be answered at length
    case.call_and_validate(
        base_url=api.url,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=120,
        checks=[not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance],
        excluded_checks=[ignored_auth],
    )
