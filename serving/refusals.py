"""Errors as answers: one body for all of them, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pagoda.errors import BundleRefused, DependencyDown, InputError
from serving.schemas import Problem, Refusal
from serving.search import QueryRefused

log = structlog.get_logger()
MAX_BODY_BYTES = 1 << 20
# pydantic's words where they are about Python, by the kind of the error.
_WORDS = {
    "extra_forbidden": "there is no such field",
    "tuple_type": "should be a list",
    "string_unicode": "is not valid text: it holds a lone surrogate",
    "json_invalid": "is not JSON",
    "missing": "is missing",
    "model_attributes_type": "should be a JSON object",
}


def install(app: FastAPI) -> None:
    """Answer every error of the app with a Refusal."""
    app.add_exception_handler(DependencyDown, _dependency_down)
    app.add_exception_handler(BundleRefused, _bundle_refused)
    app.add_exception_handler(QueryRefused, _query_refused)
    app.add_exception_handler(InputError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(BodyLimit)


class BodyLimit:
    """Refuses bodies above MAX_BODY_BYTES before they are read whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes in."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, f"The body is larger than {MAX_BODY_BYTES} bytes.")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


def problems_of(errors: Sequence[Any]) -> list[Problem]:
    """pydantic's errors in words of the API."""
    return [
        Problem(where=_where(each["loc"]), what=_encodable(_what(each["type"], each["msg"])))
        for each in errors
    ]


def _where(location: Sequence[str | int]) -> str:
    """The field's path, without the part of the request it stands in ("body", "path")."""
    inner = location[1:] if isinstance(location[-1], str) or len(location) > 2 else ()
    return _encodable(".".join(str(part) for part in inner)) or str(location[0])


def _what(kind: str, message: str) -> str:
    return _WORDS.get(kind) or message.removeprefix("Value error, ")


def _encodable(text: str) -> str:
    """What people sent may hold lone surrogates, which no answer can carry."""
    return text.encode("utf-8", "replace").decode()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = problems_of(error.errors())
    listed = "; ".join(f"{problem.where}: {problem.what}" for problem in problems)
    return _answer(422, Refusal(error="invalid_request", message=listed, problems=problems))


async def _query_refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, QueryRefused)
    message = str(error)
    problem = Problem(where="query", what=message.removeprefix("query: "))
    return _answer(422, Refusal(error="invalid_request", message=message, problems=[problem]))


async def _dependency_down(_: Request, error: Exception) -> Response:
    assert isinstance(error, DependencyDown)
    log.warning("dependency_down", dependency=error.name, reason=str(error))
    refusal = Refusal(error="dependency_down", message=str(error), dependency=error.name)
    return _answer(503, refusal, retry_after_s=1)


async def _bundle_refused(request: Request, error: Exception) -> Response:
    return await _dependency_down(request, DependencyDown("bundle", str(error)))


async def _http(_: Request, error: Exception) -> Response:
    """What FastAPI itself refuses: unknown paths, bodies that are no JSON, oversized ones."""
    assert isinstance(error, StarletteHTTPException)
    kind: Any = {413: "too_large", 404: "not_found"}.get(error.status_code, "invalid_request")
    status = 422 if error.status_code == 400 else error.status_code  # a body that is no text
    answer = _answer(status, Refusal(error=kind, message=_encodable(str(error.detail))))
    answer.headers.update(error.headers or {})
    return answer


async def _failed(request: Request, error: Exception) -> Response:
    route = getattr(request.scope.get("route"), "path", None)  # the path itself may name a user
    log.error("request_failed", route=route, exc_info=error)
    return _answer(500, Refusal(error="failed", message="The service failed; its log says why."))


def _answer(status: int, refusal: Refusal, *, retry_after_s: int | None = None) -> Response:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Response(
        refusal.model_dump_json(), status, media_type="application/json", headers=headers
    )
