"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from hawker.core.errors import PROBLEM_TYPE_PREFIX, BadRequest, HawkerError, Problem
from hawker.core.messages import encode
from hawker.core.telemetry import REQUEST

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
INSTANCE_PREFIX = "urn:hawker:request:"
_CODES = {400: "bad-request", 401: "unauthenticated", 403: "forbidden", 404: "not-found"}


def problem_response(error: HawkerError) -> Response:
    """The response an error stands for."""
    headers: dict[str, str] = dict(getattr(error, "headers", {}))
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="hawker"'
    return _respond(error.problem(), headers)


def _respond(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    if request := REQUEST.get():
        problem = msgspec.structs.replace(problem, instance=INSTANCE_PREFIX + request)
    return Response(
        encode(problem), problem.status, headers=dict(headers or {}), media_type=CONTENT_TYPE
    )


async def _named(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HawkerError)
    return problem_response(exc)


async def _http(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    code = _CODES.get(exc.status_code, "bad-request")
    problem = Problem(PROBLEM_TYPE_PREFIX + code, exc.detail, exc.status_code)
    headers = {name.lower(): value for name, value in (exc.headers or {}).items()}
    if exc.status_code == 405:
        headers["allow"] = ", ".join(sorted(_methods(request)))
    return _respond(problem, headers)


def _methods(request: Request) -> set[str]:
    """Those of every route with the request's path; Starlette tells those of the first alone."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return methods


async def _left(request: Request, exc: Exception) -> Response:
    """The client went away before its request was whole: nobody reads this answer."""
    log.debug("%s %s: its client left", request.method, request.url.path)
    return problem_response(BadRequest("the request was not sent to its end"))


async def unexpected(request: Request, exc: Exception) -> Response:
    """Log what went wrong here, or what cut an answer; the answer where none has begun."""
    # Once the answer has begun a failure can only cut it; Starlette says so by this pair.
    cut = exc.__cause__ if isinstance(exc, RuntimeError) else None
    if isinstance(cut, HawkerError):
        log.info("%s %s was cut: %s", request.method, request.url.path, cut)
    else:
        log.exception("%s %s failed", request.method, request.url.path, exc_info=exc)
    return _respond(Problem(PROBLEM_TYPE_PREFIX + "unavailable", "internal error", 500))


EXCEPTION_HANDLERS: dict[Any, Any] = {
    HawkerError: _named,
    HTTPException: _http,
    ClientDisconnect: _left,
    Exception: unexpected,
}
