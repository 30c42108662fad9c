"""Where requests come in: each has an id, is counted, and its answer timed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from hawker.apps.web.metrics import Metric, Timings
from hawker.core.telemetry import REQUEST, is_request_id, new_request_id

HEADER = b"x-request-id"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"})


class Edge:
    """Of one role. Requests for pieces pass by: they are many, and counted where served."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._answers: dict[tuple[str, ...], float] = {}
        self._timings = Timings()

    async def __call__(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        """Let an ASGI app answer a request."""
        if scope["type"] != "http" or "/pieces/" in scope["path"]:
            await app(scope, receive, send)
            return
        given = _given(scope["headers"])
        request = given if is_request_id(given) else new_request_id()
        began = time.monotonic()

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._timings.observe(time.monotonic() - began)
                self._count(scope["method"], message["status"])
                headers = [*message.get("headers", ()), (HEADER, request.encode())]
                message = {**message, "headers": headers}
            await send(message)

        token = REQUEST.set(request)
        try:
            await app(scope, receive, answer)
        finally:
            REQUEST.reset(token)

    def _count(self, method: str, status: int) -> None:
        key = (self._role, method if method in METHODS else "other", str(status))
        self._answers[key] = self._answers.get(key, 0) + 1

    def metrics(self) -> Iterable[Metric]:
        yield Metric(
            "counter",
            "hawker_http_requests",
            "Answers that were begun, but for those with pieces.",
            self._answers,
            ("role", "method", "status"),
        )
        yield Metric(
            "histogram",
            "hawker_http_response_start_seconds",
            "Seconds from a request to the head of its answer, but for those for pieces.",
            {(self._role,): self._timings},
            ("role",),
        )


def _given(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What the client calls this request: `X-Request-Id`, or the trace of `traceparent`."""
    trace = ""
    for name, value in headers:
        if name == HEADER:
            return value.decode("latin-1")
        if name == b"traceparent":
            # W3C Trace Context section 3.2: version-trace-parent-flags.
            parts = value.decode("latin-1").split("-")
            trace = parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""
    return trace
