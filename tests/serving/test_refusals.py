"""Requests that cannot be used: one answer that lists all that is wrong."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.servers


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({"query": "x", "k": 0}, {"k"}),
        ({"query": "x", "k": 10**6}, {"k"}),
        ({"query": "x", "k": "many"}, {"k"}),
        ({"query": "x", "k": 2.5}, {"k"}),
        ({"query": ""}, {"query"}),
        ({"query": " \t"}, {"query"}),
        ({"query": "\x1c"}, {"query"}),
        ({"query": "x" * 1001}, {"query"}),
        ({}, {"query"}),
        ({"query": "x", "filters": {"size": ["L"]}}, {"filters.size"}),
        ({"query": "x", "filters": {"brand": "acme"}}, {"filters.brand"}),
        ({"query": "x", "filters": {"price": {"min": 2, "max": 1}}}, {"filters.price"}),
        ({"query": "x", "filters": {"price": {"min": -1}}}, {"filters.price.min"}),
        ({"query": "x", "relevance": "maybe"}, {"relevance"}),
        ({"query": "x", "user_id": 7}, {"user_id"}),
        ({"query": "x", "user_id": "a\nb"}, {"user_id"}),
        ({"query": "x", "user": "alice"}, {"user"}),
        (
            {"query": 7, "k": 0, "filters": {"size": 1, "price": {"max": "x"}}, "z": None},
            {"query", "k", "filters.size", "filters.price.max", "z"},
        ),
    ],
)
def test_every_problem_is_listed_at_once(
    http: httpx.Client, body: dict[str, Any], problems: set[str]
) -> None:
    answer = http.post("/search", json=body)
    assert answer.status_code == 422
    refusal = answer.json()
    assert refusal["error"] == "invalid_request"
    assert {each["where"] for each in refusal["problems"]} == problems
    assert all(each["where"] in refusal["message"] for each in refusal["problems"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"query": ',
        b"[1, 2]",
        b"null",
        b"\xff\xfe",
        b'{"query": "\\ud800"}',
        b'{"query": "x", "filters": {"\\ud800": 1}}',
        b'{"query": "x", "filters": {"brand": ["\\udfff"]}}',
        b'{"query": "x", "user_id": "\\udfff"}',
        b'{"query": "x", "filters": {"price": {"min": NaN}}}',
        b'{"query": "x", "filters": {"price": {"min": 1e999}}}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_no_request_is_refused_and_nothing_breaks(
    http: httpx.Client, body: bytes
) -> None:
    answer = http.post("/search", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"] == "invalid_request"
    assert answer.json()["message"]


def test_a_body_that_is_too_large_is_refused_with_or_without_its_length(
    http: httpx.Client,
) -> None:
    huge = b'{"query": "' + b"x" * (1 << 20) + b'"}'
    json = {"Content-Type": "application/json"}
    for content in (huge, iter([huge[: 1 << 19], huge[1 << 19 :]])):
        answer = http.post("/search", content=content, headers=json)
        assert answer.status_code == 413
        assert answer.json()["error"] == "too_large"


def test_an_unknown_path_and_a_wrong_method_are_said_in_the_same_form(http: httpx.Client) -> None:
    assert http.get("/nope").json()["error"] == "not_found"
    answer = http.get("/search")
    assert answer.status_code == 405
    assert answer.json()["error"] == "invalid_request"


def test_a_malformed_user_in_the_path_is_refused(http: httpx.Client) -> None:
    answer = http.get("/user/a%01b/sequences")
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["where"] == "user_id"


def test_answers_allow_nothing_foreign(http: httpx.Client) -> None:
    headers = http.get("/").headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
