"""The OpenAPI document is complete, and the service keeps to it whatever is sent."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.servers
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)


def test_every_operation_answers_as_the_document_says(url: str) -> None:
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()

        @hypothesis_settings(
            max_examples=40,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def answers(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=url, checks=list(CHECKS))

        answers()


def test_every_operation_is_described_with_its_refusals(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/search",
        "/embed",
        "/user/{user_id}/sequences",
        "/users/examples",
        "/health",
        "/ready",
        "/metrics",
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            for status in set(operation["responses"]) - {"200"}:
                schema_ = operation["responses"][status]["content"]["application/json"]["schema"]
                assert schema_["$ref"].split("/")[-1] in ("Refusal", "Readiness"), (path, status)
    assert {"413", "422", "503"} <= set(document["paths"]["/search"]["post"]["responses"])
    request = document["components"]["schemas"]["SearchRequest"]["properties"]
    assert request["k"]["maximum"] == 50
    assert request["filters"]["examples"]
